// Package trap stops a program before system calls of its own, for tests that
// want to know what it does to a disk, or have that fail (seccomp_unotify(2)).
package trap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Call is a system call that a thread of the program is about to make. The thread
// waits; others go on.
type Call struct {
	Number int
	Args   [6]uint64
	pid    int
}

// Run runs command to its end. before is called ahead of each of the numbered
// system calls of its and of what it starts: with an error number the call is not
// made and has that error, with 0 it is made. An error of before ends the command
// and is returned, as is the command's own.
func Run(command *exec.Cmd, numbers []int, before func(Call) (unix.Errno, error)) error {
	type started struct {
		listener int
		err      error
	}
	begun, ended := make(chan started), make(chan error, 1)
	stop, over, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(stop.Close(), over.Close()) }()
	go func() {
		// The filter is this thread's, which ends with the goroutine, and the
		// command's.
		runtime.LockOSThread()
		listener, err := listen(numbers)
		if err == nil {
			err = command.Start()
		}
		begun <- started{listener, err}
		if err == nil {
			ended <- command.Wait()
			_ = over.Close()
		}
	}()
	s := <-begun
	if s.err != nil {
		return s.err
	}
	defer func() { _ = unix.Close(s.listener) }()
	if err := serve(s.listener, int(stop.Fd()), before); err != nil {
		_ = command.Process.Kill()
		return err
	}
	return <-ended
}

// listen has the kernel ask before this thread, or what it starts, makes one of
// the calls.
func listen(numbers []int) (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, os.NewSyscallError("prctl", err)
	}
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // the call's number
	for i, number := range numbers {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(number), Jt: uint8(len(numbers) - i)})
	}
	filter = append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return 0, os.NewSyscallError("seccomp", errno)
	}
	return int(fd), nil
}

// The structures of seccomp_unotify(2).
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	data  struct {
		call    int32
		arch    uint32
		pointer uint64
		args    [6]uint64
	}
}

type answer struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// serve calls before until stop is closed at its other end.
func serve(listener, stop int, before func(Call) (unix.Errno, error)) error {
	for {
		fds := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			if fds[1].Revents != 0 {
				return nil
			}
			continue
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			if errno == unix.EINTR || errno == unix.ENOENT {
				continue
			}
			return os.NewSyscallError("receive a notification", errno)
		}
		errno, err := before(Call{int(n.data.call), n.data.args, int(n.pid)})
		if err != nil {
			return err
		}
		a := answer{id: n.id, errno: -int32(errno)}
		if errno == 0 {
			a.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&a))); errno != 0 && errno != unix.ENOENT {
			return os.NewSyscallError("answer a notification", errno)
		}
	}
}

// File is the link in /proc to the file of the descriptor that is argument n.
func (c Call) File(n int) string { return fmt.Sprintf("/proc/%d/fd/%d", c.pid, c.Args[n]) }

// Read reads the program's memory.
func (c Call) Read(at uint64, size int) ([]byte, error) {
	b := make([]byte, size)
	if size == 0 {
		return b, nil
	}
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(size)
	n, err := unix.ProcessVMReadv(c.pid, []unix.Iovec{local}, []unix.RemoteIovec{{Base: uintptr(at), Len: size}}, 0)
	if err == nil && n != size {
		err = fmt.Errorf("%d of %d bytes", n, size)
	}
	if err != nil {
		return nil, fmt.Errorf("process_vm_readv: %w", err)
	}
	return b, nil
}

// Text reads what ends with a NUL byte, a page at a time: the next one may not
// be there.
func (c Call) Text(at uint64) (string, error) {
	const page = 4096
	var text []byte
	for {
		b, err := c.Read(at, int(page-at%page))
		if err != nil {
			return "", err
		}
		if end := bytes.IndexByte(b, 0); end >= 0 {
			return string(append(text, b[:end]...)), nil
		}
		text, at = append(text, b...), at+uint64(len(b))
	}
}
