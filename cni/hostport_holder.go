package cni

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// tcpListen is the state of a listening socket in /proc/net/tcp.
const tcpListen = "0A"

// overflowID is how the kernel shows an id that a user namespace does not have.
const overflowID = 65534

// holder describes the program that has a port of the host: by its name where
// /proc shows it. From within a user namespace it does not, and there is only
// whose program it is.
func holder(p HostPort, addr netip.Addr) string {
	inode, uid := socketOf(p, addr)
	if inode == 0 {
		return "another program"
	}
	link := fmt.Sprintf("socket:[%d]", inode)
	files, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, f := range files {
		if to, err := os.Readlink(f); err != nil || to != link {
			continue
		}
		pid := strings.Split(f, "/")[2]
		if name, err := os.ReadFile("/proc/" + pid + "/comm"); err == nil {
			return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), pid)
		}
	}
	return owner(uid)
}

// owner describes whose a program is, by its user as we see it.
func owner(uid int) string {
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return "another program"
	}
	for line := range strings.Lines(string(ids)) {
		var inside, outside, count int
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil || uid < inside || uid-inside >= count {
			continue
		}
		if uid == overflowID && inside != outside {
			break
		}
		name := strconv.Itoa(uid - inside + outside)
		if u, err := user.LookupId(name); err == nil {
			name = u.Username
		}
		return "a program of user " + name
	}
	return "a program of another user"
}

// socketOf looks in /proc/net for the socket that keeps p from addr. Both are
// zero when there is none, or its inode cannot be seen.
func socketOf(p HostPort, addr netip.Addr) (inode, uid int) {
	for _, file := range []string{p.Protocol, p.Protocol + "6"} {
		data, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			// sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode
			f := strings.Fields(line)
			if len(f) < 10 || p.Protocol == "tcp" && f[3] != tcpListen {
				continue
			}
			local, ok := parseProcAddress(f[1])
			if !ok || local.Port() != p.Port || !inTheWay(local.Addr(), addr) {
				continue
			}
			inode, err := strconv.Atoi(f[9])
			uid, uidErr := strconv.Atoi(f[7])
			if err == nil && uidErr == nil && inode != 0 {
				return inode, uid
			}
		}
	}
	return 0, 0
}

// inTheWay tells whether a socket at have keeps another one from want. One at
// [::] may take IPv4 too, which /proc does not tell.
func inTheWay(have, want netip.Addr) bool {
	if have == netip.IPv6Unspecified() {
		return true
	}
	have = have.Unmap()
	return have.Is4() == want.Is4() && (have == want || have.IsUnspecified() || want.IsUnspecified())
}

// parseProcAddress reads "0100007F:1F90": words of the address as the machine
// has them in memory, and the port as people write it.
func parseProcAddress(s string) (netip.AddrPort, bool) {
	text, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(text)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(b, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr, uint16(n)), true
}
