package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/atomicfile"
	"get.podrun.dev/podrun/internal/linux"
)

// The namespaces of a node live as long as some process is in them. When
// reaper and node were killed, the pods' pause processes still are, and the
// next node must join them there: mounts and network are nowhere else. Anchors
// are processes known to be in the namespaces, one "pid starttime" a line in a
// file that begins with the boot it was written in.

var anchorsMu sync.Mutex

func anchorsFile(state string) string { return filepath.Join(state, "userns") }

// RecordAnchor writes down that process pid lives in the node's user and mount
// namespace and will for long. Safe for concurrent use in the node.
func RecordAnchor(p Paths, pid int) error {
	start, err := linux.ProcessStartTime(pid)
	if err != nil {
		return fmt.Errorf("anchor %d: %w", pid, err)
	}
	anchorsMu.Lock()
	defer anchorsMu.Unlock()
	anchors, err := readAnchors(p.State)
	if err != nil {
		return err
	}
	return writeAnchors(p.State, append(anchors, anchor{pid, start}))
}

// DropAnchor takes process pid off the list. That it is not there is no error.
// Safe for concurrent use in the node.
func DropAnchor(p Paths, pid int) error {
	anchorsMu.Lock()
	defer anchorsMu.Unlock()
	anchors, err := readAnchors(p.State)
	if err != nil {
		return err
	}
	rest := anchors[:0]
	for _, a := range anchors {
		if a.pid != pid {
			rest = append(rest, a)
		}
	}
	return writeAnchors(p.State, rest)
}

type anchor struct {
	pid   int
	start uint64
}

// alive says whether the process is still the one that was written down. A
// zombie has left its namespaces.
func (a anchor) alive() bool {
	start, err := linux.ProcessStartTime(a.pid)
	return err == nil && start == a.start
}

func readAnchors(state string) ([]anchor, error) {
	b, err := os.ReadFile(anchorsFile(state))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	boot, lines, _ := strings.Cut(string(b), "\n")
	if now, err := bootID(); err != nil || boot != now {
		return nil, err // before a reboot: pids and start times mean nothing now
	}
	var anchors []anchor
	for line := range strings.Lines(lines) {
		var a anchor
		if _, err := fmt.Sscan(line, &a.pid, &a.start); err != nil {
			return nil, fmt.Errorf("%s: cannot be understood: %q", anchorsFile(state), line)
		}
		anchors = append(anchors, a)
	}
	return anchors, nil
}

// writeAnchors leaves out who is gone.
func writeAnchors(state string, anchors []anchor) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString(boot + "\n")
	for _, a := range anchors {
		if a.alive() {
			fmt.Fprintf(&b, "%d %d\n", a.pid, a.start)
		}
	}
	return atomicfile.Write(anchorsFile(state), []byte(b.String()), 0o600)
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// openAnchor opens the user and the mount namespace of the first anchor that
// lives; both are nil when none does. userns is nil as well when it is the
// caller's own, which cannot be joined. The caller closes both.
func openAnchor(state string) (userns, mountns *os.File, err error) {
	anchors, err := readAnchors(state)
	if err != nil {
		return nil, nil, err
	}
	for _, a := range anchors {
		if !a.alive() {
			continue
		}
		dir := "/proc/" + strconv.Itoa(a.pid) + "/ns/"
		userns, err = os.Open(dir + "user")
		if err == nil {
			mountns, err = os.Open(dir + "mnt")
		}
		if err == nil && a.alive() { // what we opened was its
			break
		}
		closeFiles(userns, mountns)
		userns, mountns = nil, nil
		if err != nil && a.alive() && !zombie(a.pid) {
			return nil, nil, fmt.Errorf("namespaces of process %d: %w", a.pid, err)
		}
		err = nil
	}
	if userns == nil {
		return nil, nil, nil
	}
	own, err := os.Stat("/proc/self/ns/user")
	if err == nil {
		var theirs os.FileInfo
		if theirs, err = userns.Stat(); err == nil && os.SameFile(own, theirs) {
			_ = userns.Close()
			userns = nil
		}
	}
	if err != nil {
		closeFiles(userns, mountns)
		return nil, nil, err
	}
	return userns, mountns, nil
}

// zombie says whether pid has exited and waits to be reaped.
func zombie(pid int) bool {
	f, err := linux.PidfdOpen(pid)
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	defer func() { _ = f.Close() }()
	exited, err := linux.PidfdExited(f)
	return err == nil && exited
}

func closeFiles(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}
