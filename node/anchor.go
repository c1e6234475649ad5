package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

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
// namespace, and will for long. Who dies need not be taken off the list. Safe
// for concurrent use in the node.
func RecordAnchor(p Paths, pid int) error {
	start, err := linux.ProcessStartTime(pid)
	if err != nil {
		return fmt.Errorf("anchor %d: %w", pid, err)
	}
	anchorsMu.Lock()
	defer anchorsMu.Unlock()
	f, err := os.OpenFile(anchorsFile(p.State), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err // Launch has made it
	}
	_, err = f.WriteString(anchor{pid, start}.String())
	return errors.Join(err, f.Close())
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
	return writeAnchors(p.State, slices.DeleteFunc(anchors, func(a anchor) bool { return a.pid == pid }))
}

// renewAnchors begins the list of a node that is launched: with its reaper, and
// with those on the old list that live.
func renewAnchors(state string, reaper int) error {
	start, err := linux.ProcessStartTime(reaper)
	if err != nil {
		return err
	}
	anchors, err := readAnchors(state)
	if err != nil {
		return err
	}
	anchors = slices.DeleteFunc(anchors, func(a anchor) bool { return !a.alive() })
	return writeAnchors(state, append(anchors, anchor{reaper, start}))
}

type anchor struct {
	pid   int
	start uint64
}

func (a anchor) String() string { return fmt.Sprintf("%d %d\n", a.pid, a.start) }

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
		// A node may have died while it wrote the last line.
		if _, err := fmt.Sscanf(line, "%d %d\n", &a.pid, &a.start); err == nil {
			anchors = append(anchors, a)
		}
	}
	return anchors, nil
}

// writeAnchors replaces the list. It need not survive a power cut: nobody on it
// does.
func writeAnchors(state string, anchors []anchor) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString(boot + "\n")
	for _, a := range anchors {
		b.WriteString(a.String())
	}
	fresh := anchorsFile(state) + ".new"
	if err := os.WriteFile(fresh, []byte(b.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, anchorsFile(state))
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
		// A process on its way out is still there, but its mounts are not.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) && a.alive() {
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

func closeFiles(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}
