package linux

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PidfdOpen returns a descriptor of process pid that Go's poller can wait on:
// it becomes readable when the process has exited. The caller closes it. A
// process that nobody has is unix.ESRCH inside an *os.SyscallError.
func PidfdOpen(pid int) (*os.File, error) {
	var fd int
	err := ignoringEINTR(func() (err error) {
		fd, err = unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
		return err
	})
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return os.NewFile(uintptr(fd), "pidfd:"+strconv.Itoa(pid)), nil
}

// PidfdSignal sends sig to the process of pidfd. A process that has exited
// gives unix.ESRCH inside an *os.SyscallError.
func PidfdSignal(pidfd *os.File, sig unix.Signal) error {
	return control("pidfd_send_signal", pidfd, func(fd int) error {
		return unix.PidfdSendSignal(fd, sig, nil, 0)
	})
}

// PidfdSignalGroup sends sig to all processes of the process group that the
// process of pidfd leads. unix.EINVAL: the kernel is older than 6.9.
func PidfdSignalGroup(pidfd *os.File, sig unix.Signal) error {
	const processGroup = 1 << 2 // PIDFD_SIGNAL_PROCESS_GROUP
	return control("pidfd_send_signal", pidfd, func(fd int) error {
		return unix.PidfdSendSignal(fd, sig, nil, processGroup)
	})
}

// PidfdExited says whether the process of pidfd has exited, without waiting.
// It needs not be a child of the caller.
func PidfdExited(pidfd *os.File) (bool, error) {
	var exited bool
	err := control("poll", pidfd, func(fd int) error {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		exited = n > 0
		return err
	})
	return exited, err
}

// PidfdStatus returns the wait status of a child that has exited; ok is false
// while it runs. With reap the child is waited for and its pid is free to be
// used again; without, the status can be asked for again and by others. A
// process that is not a child (any more) is unix.ECHILD.
func PidfdStatus(pidfd *os.File, reap bool) (status unix.WaitStatus, ok bool, err error) {
	options := unix.WEXITED | unix.WNOHANG
	if !reap {
		options |= unix.WNOWAIT
	}
	// x/sys knows the head of siginfo_t only. The fields of SIGCHLD follow
	// at the alignment of a pointer: pid, uid, status.
	var info unix.Siginfo
	const head = 3 * 4
	const union = (head + unsafe.Sizeof(uintptr(0)) - 1) &^ (unsafe.Sizeof(uintptr(0)) - 1)
	err = control("waitid", pidfd, func(fd int) error {
		return unix.Waitid(unix.P_PIDFD, fd, &info, options, nil)
	})
	if err != nil {
		return 0, false, err
	}
	child := (*[3]int32)(unsafe.Add(unsafe.Pointer(&info), union))
	if child[0] == 0 {
		return 0, false, nil
	}
	// The encoding of wait(2), which is how everybody else passes it on.
	const exited, dumped = 1, 3 // CLD_EXITED, CLD_DUMPED
	switch info.Code {
	case exited:
		status = unix.WaitStatus(child[2] & 0xff << 8)
	case dumped:
		status = unix.WaitStatus(child[2] | 0x80)
	default:
		status = unix.WaitStatus(child[2])
	}
	return status, true, nil
}

// PidfdWait blocks until the process of pidfd has exited, without a thread of
// its own: Go's poller waits. Closing pidfd ends the wait with os.ErrClosed.
func PidfdWait(pidfd *os.File) error {
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var perr error
	err = conn.Read(func(fd uintptr) bool {
		var n int
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, perr = unix.Poll(p, 0)
		return n > 0 || (perr != nil && perr != unix.EINTR)
	})
	if err != nil {
		return err
	}
	if perr != nil && perr != unix.EINTR {
		return os.NewSyscallError("poll", perr)
	}
	return nil
}

func control(name string, f *os.File, call func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var cerr error
	if err := conn.Control(func(fd uintptr) {
		cerr = ignoringEINTR(func() error { return call(int(fd)) })
	}); err != nil {
		return err
	}
	return os.NewSyscallError(name, cerr)
}

// ProcessStartTime returns when process pid started, in clock ticks after
// boot. Pid and start time together name a process for good. A zombie still
// has one; a process that is gone is os.ErrNotExist.
func ProcessStartTime(pid int) (uint64, error) {
	name := "/proc/" + strconv.Itoa(pid) + "/stat"
	b, err := os.ReadFile(name)
	if err != nil {
		// A process that goes away while its file is read gives ESRCH.
		if pe, ok := err.(*os.PathError); ok && pe.Err == unix.ESRCH {
			pe.Err = unix.ENOENT
		}
		return 0, err
	}
	// Field 2, the command, is in parentheses and may hold any byte.
	if i := bytes.LastIndexByte(b, ')'); i >= 0 {
		const startTime = 22 - 3 // proc(5) counts from 1; field 3 comes next
		if f := bytes.Fields(b[i+1:]); len(f) > startTime {
			return strconv.ParseUint(string(f[startTime]), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s: cannot be understood: %q", name, b)
}

// NamespaceID returns the inode number of one of the namespaces of process
// pid; kind is a name in /proc/PID/ns, such as "mnt".
func NamespaceID(pid int, kind string) (uint64, error) {
	var st unix.Stat_t
	name := "/proc/" + strconv.Itoa(pid) + "/ns/" + kind
	if err := ignoringEINTR(func() error { return unix.Stat(name, &st) }); err != nil {
		return 0, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return st.Ino, nil
}
