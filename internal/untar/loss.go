package untar

import (
	"archive/tar"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// paxXattr begins the names of extended attributes in a tar.
const paxXattr = "SCHILY.xattr."

// losses counts what could not be kept as the layer has it.
type losses struct {
	squashed int
	marks    int
	devices  int
	some     []string // names of the first devices

	mu     sync.Mutex
	xattrs map[string]int
}

func (l *losses) device(name string) {
	if l.devices++; len(l.some) < 3 {
		l.some = append(l.some, name)
	}
}

func (l *losses) noXattr(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	const kinds = 32 // a layer may have invented many
	if l.xattrs == nil {
		l.xattrs = map[string]int{}
	}
	if _, ok := l.xattrs[name]; !ok && len(l.xattrs) >= kinds {
		name = "others"
	}
	l.xattrs[name]++
}

// xattr judges what setxattr answered.
func (l *losses) xattr(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EPERM):
		// The file system has none, or none on such a file.
		l.noXattr(name)
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.E2BIG): // ext4 says so of its block of 4 KiB
		return fmt.Errorf("extended attribute %s is larger than the file system takes", name)
	}
	return fmt.Errorf("extended attribute %s: %w", name, err)
}

// lines are the warnings, one for each kind.
func (l *losses) lines() []string {
	var lines []string
	if l.devices > 0 {
		more := ""
		if l.devices > len(l.some) {
			more = ", ..."
		}
		lines = append(lines, fmt.Sprintf("%s left out (%s%s): an ordinary user may make none", count(l.devices, "device node is", "device nodes are"), strings.Join(l.some, ", "), more))
	}
	if l.squashed > 0 {
		lines = append(lines, fmt.Sprintf("%s to other users than root: only one user ID is mapped, so root has all", count(l.squashed, "file belongs", "files belong")))
	}
	if l.marks > 0 {
		lines = append(lines, fmt.Sprintf("%s of AUFS left out", count(l.marks, "file", "files")))
	}
	var names []string
	for name, n := range l.xattrs {
		names = append(names, fmt.Sprintf("%s (%d)", name, n))
	}
	if len(names) > 0 {
		slices.Sort(names)
		lines = append(lines, "extended attributes are left out: "+strings.Join(names, ", "))
	}
	return lines
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// xattrsOf are the extended attributes that a layer may set. user.* but
// overlay's own, by which a layer could show files of others; capabilities,
// which the kernel ties to the user namespace they are set in (a "version 3"
// attribute, see capabilities(7)); access control lists.
func (u *unpacker) xattrsOf(h *tar.Header) map[string]string {
	var m map[string]string
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		switch {
		case strings.HasPrefix(name, "user.overlay."):
		case strings.HasPrefix(name, "user."), name == "security.capability",
			name == "system.posix_acl_access", name == "system.posix_acl_default":
			if m == nil {
				m = map[string]string{}
			}
			m[name] = value
			continue
		}
		u.lost.noXattr(name)
	}
	return m
}

// checkXattrs refuses attributes that no kernel takes.
func checkXattrs(h *tar.Header) error {
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, paxXattr); ok && len(value) > maxXattr {
			return fmt.Errorf("extended attribute %s of %d bytes, the kernel takes %d", name, len(value), maxXattr)
		}
	}
	return nil
}
