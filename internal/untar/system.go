package untar

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func openat(dir int, name string, flags int, mode uint32) (fd int, err error) {
	err = ignoringEINTR(func() error {
		fd, err = unix.Openat(dir, name, flags, mode)
		return err
	})
	return fd, err
}

func readlinkat(dir int, name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// procPath is a path of name in an open directory, for calls that take no
// descriptor.
func procPath(dir int, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name) }

// setTimes sets the times of an open file, or those of a name in a directory.
func setTimes(fd int, name *byte, m *meta, flags int) error {
	times := [2]unix.Timespec{unix.NsecToTimespec(0), unix.NsecToTimespec(0)}
	times[0].Sec, times[0].Nsec = m.atime.Unix(), int64(m.atime.Nanosecond())
	times[1].Sec, times[1].Nsec = m.mtime.Unix(), int64(m.mtime.Nanosecond())
	for {
		// x/sys has no call that leaves the name out.
		_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&times)), uintptr(flags), 0, 0)
		switch e {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return os.NewSyscallError("utimensat", e)
		}
	}
}

// umask reads this process's file mode creation mask, without changing it.
func umask() (uint32, error) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "Umask:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 8, 32)
			return uint32(n), err
		}
	}
	return 0, errors.Join(lines.Err(), errors.New("/proc/self/status has no Umask"))
}

// lastID is the highest user or group ID that is mapped here, for people.
func lastID(kind string) string {
	data, err := os.ReadFile("/proc/self/" + kind + "_map")
	if err != nil {
		return "?"
	}
	last := uint64(0)
	for line := range strings.Lines(string(data)) {
		var inside, outside, n uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &n); err == nil && n > 0 {
			last = max(last, inside+n-1)
		}
	}
	return strconv.FormatUint(last, 10)
}
