package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// forbiddenCalls makes system calls that Docker's profile does not let through
// to a container with the usual capabilities.
func forbiddenCalls([]string) error {
	call := func(number uintptr, args ...uintptr) func() error {
		args = append(args, 0, 0, 0)
		return func() error {
			if _, _, errno := unix.RawSyscall(number, args[0], args[1], args[2]); errno != 0 {
				return errno
			}
			return nil
		}
	}
	sessionKeyring := unix.KEY_SPEC_SESSION_KEYRING
	calls := map[string]func() error{
		"bpf":               call(unix.SYS_BPF),
		"init_module":       call(unix.SYS_INIT_MODULE),
		"io_uring_setup":    call(unix.SYS_IO_URING_SETUP),
		"kexec_load":        call(unix.SYS_KEXEC_LOAD),
		"keyctl":            call(unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, uintptr(sessionKeyring)),
		"mount":             func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") },
		"open_by_handle_at": call(unix.SYS_OPEN_BY_HANDLE_AT),
		"open_tree":         call(unix.SYS_OPEN_TREE),
		"reboot":            call(unix.SYS_REBOOT),
		"setns":             call(unix.SYS_SETNS, 0, unix.CLONE_NEWNS),
		"unshare":           func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
		"userfaultfd":       call(unix.SYS_USERFAULTFD),
	}
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		err := calls[name]()
		fmt.Println(name, err)
		if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOSYS) {
			escaped("%s is let through", name)
		}
	}
	return nil
}

// swapNames exchanges two names all the time, so that who looks at one of them
// twice sees two things.
func swapNames(args []string) error {
	fmt.Println("swapping")
	for {
		err := unix.Renameat2(unix.AT_FDCWD, args[0], unix.AT_FDCWD, args[1], unix.RENAME_EXCHANGE)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
}

// askSocket asks a node for its pods, and prints what it answers.
func askSocket(args []string) error {
	c, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	// Who refuses does not wait for the question.
	_, _ = io.WriteString(c, "GET /api/v1/pods HTTP/1.0\r\n\r\n")
	_, _ = io.Copy(os.Stdout, c)
	return nil
}

// showMounts prints what is mounted at and below a directory: the root in the
// file system, the mount point, the type, and "null" where it is that device.
func showMounts(args []string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		left, right, _ := strings.Cut(line, " - ")
		f, kind := strings.Fields(left), strings.Fields(right)
		if len(f) > 4 && len(kind) > 0 && strings.HasPrefix(f[4], args[0]) {
			what := ""
			var st unix.Stat_t
			if unix.Lstat(f[4], &st) == nil && null(&st) {
				what = "null"
			}
			fmt.Println(f[3], f[4], kind[0], what)
		}
	}
	return nil
}
