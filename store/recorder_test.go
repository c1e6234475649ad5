package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A step is a system call by which a program changed files, or had them written
// to disk.
type step struct {
	call   int // its number
	file   uint64
	offset int64
	data   []byte // of a write
	path   string // that the file had, or has from now on
}

// recorder notes the steps of a program before the kernel takes them
// (seccomp_unotify(2)): what a disk that loses its power may have seen.
type recorder struct {
	listener int
	pid      int
	steps    []step
	fail     func(step) bool // tells whether a step fails, as a bad disk has it
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

type notificationAnswer struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// recorded are the system calls that a store changes its files by.
var recorded = []int{unix.SYS_PWRITE64, unix.SYS_FTRUNCATE, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_LINKAT, unix.SYS_UNLINKAT}

// record runs command to its end and returns its steps. Those that fail is true
// of are not made.
func record(t *testing.T, command *exec.Cmd, fail func(step) bool) []step {
	t.Helper()
	type started struct {
		listener int
		err      error
	}
	begun, ended := make(chan started), make(chan error, 1)
	stop, over, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(stop.Close(), over.Close()) }()
	go func() {
		// The filter is this thread's, which ends with the goroutine, and the
		// child's.
		runtime.LockOSThread()
		listener, err := listen()
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
		t.Fatal(s.err)
	}
	r := &recorder{listener: s.listener, fail: fail}
	defer func() { _ = unix.Close(s.listener) }()
	if err := r.serve(int(stop.Fd())); err != nil {
		_ = command.Process.Kill()
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	return r.steps
}

// listen has the kernel ask before this thread, or what it starts, makes a
// recorded call.
func listen() (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, os.NewSyscallError("prctl", err)
	}
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // the call's number
	for i, call := range recorded {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(call), Jt: uint8(len(recorded) - i)})
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

// serve records until stop is closed at its other end.
func (r *recorder) serve(stop int) error {
	for {
		fds := []unix.PollFd{{Fd: int32(r.listener), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
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
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(r.listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			if errno == unix.EINTR || errno == unix.ENOENT {
				continue
			}
			return os.NewSyscallError("receive a notification", errno)
		}
		if err := r.note(n); err != nil {
			return err
		}
		answer := notificationAnswer{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if last := r.steps[len(r.steps)-1]; r.fail(last) {
			r.steps = r.steps[:len(r.steps)-1]
			answer = notificationAnswer{id: n.id, errno: -int32(unix.EIO)}
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(r.listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer))); errno != 0 && errno != unix.ENOENT {
			return os.NewSyscallError("answer a notification", errno)
		}
	}
}

func (r *recorder) note(n notification) error {
	r.pid = int(n.pid)
	s := step{call: int(n.data.call)}
	args := n.data.args
	var err error
	switch s.call {
	case unix.SYS_LINKAT:
		var from string
		if from, err = r.text(args[1]); err == nil {
			s.file = inode(from)
			s.path, err = r.text(args[3])
		}
	case unix.SYS_UNLINKAT:
		s.path, err = r.text(args[1])
	default:
		link := fmt.Sprintf("/proc/%d/fd/%d", n.pid, args[0])
		s.file = inode(link)
		if s.path, err = os.Readlink(link); err != nil {
			return err
		}
		switch s.call {
		case unix.SYS_PWRITE64:
			s.offset = int64(args[3])
			s.data, err = r.read(args[1], int(args[2]))
		case unix.SYS_FTRUNCATE:
			s.offset = int64(args[1])
		}
	}
	r.steps = append(r.steps, s)
	return err
}

// read reads the program's memory.
func (r *recorder) read(at uint64, size int) ([]byte, error) {
	b := make([]byte, size)
	if size == 0 {
		return b, nil
	}
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(size)
	n, err := unix.ProcessVMReadv(r.pid, []unix.Iovec{local}, []unix.RemoteIovec{{Base: uintptr(at), Len: size}}, 0)
	if err == nil && n != size {
		err = fmt.Errorf("%d of %d bytes", n, size)
	}
	if err != nil {
		return nil, fmt.Errorf("process_vm_readv: %w", err)
	}
	return b, nil
}

// text reads what ends with a NUL byte, a page at a time: the next one may not
// be there.
func (r *recorder) text(at uint64) (string, error) {
	const page = 4096
	var text []byte
	for {
		b, err := r.read(at, int(page-at%page))
		if err != nil {
			return "", err
		}
		if end := bytes.IndexByte(b, 0); end >= 0 {
			return string(append(text, b[:end]...)), nil
		}
		text, at = append(text, b...), at+uint64(len(b))
	}
}

func inode(path string) uint64 {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// A disk is a directory as a power cut left it.
type disk struct {
	files map[uint64][]byte // by inode
	names map[string]uint64
}

// sector is what a disk writes whole or not at all.
const sector = 512

// cut is the disk when the power goes before step n. What was flushed is there;
// of the rest, in any order, what kept says: it is asked for each name, each
// change of a file's size and each sector.
func cut(steps []step, n int, kept func() bool) disk {
	d := disk{files: map[uint64][]byte{}, names: map[string]uint64{}}
	var waiting []step
	flush := func(of func(step) bool, kept func() bool) {
		waiting = slices.DeleteFunc(waiting, func(s step) bool {
			flushed := of(s)
			if flushed {
				d.apply(s, kept)
			}
			return flushed
		})
	}
	named := map[uint64]bool{}
	for _, s := range steps[:n] {
		switch {
		case s.isFlush():
			flush(func(w step) bool {
				if w.isName() {
					return filepath.Dir(w.path) == s.path
				}
				return w.file == s.file
			}, func() bool { return true })
			continue
		case s.call == unix.SYS_PWRITE64:
			if !named[s.file] { // by its creation
				waiting = append(waiting, step{call: unix.SYS_LINKAT, file: s.file, path: s.path})
			}
			named[s.file] = true
		}
		waiting = append(waiting, s)
	}
	flush(func(step) bool { return true }, kept)
	return d
}

func (s step) isFlush() bool { return s.call == unix.SYS_FSYNC || s.call == unix.SYS_FDATASYNC }

func (s step) isName() bool { return s.call == unix.SYS_LINKAT || s.call == unix.SYS_UNLINKAT }

// apply makes the parts of a step that are kept.
func (d disk) apply(s step, kept func() bool) {
	switch s.call {
	case unix.SYS_PWRITE64:
		for at := 0; at < len(s.data); at += sector {
			if kept() {
				piece := s.data[at:min(at+sector, len(s.data))]
				d.resize(s.file, max(len(d.files[s.file]), int(s.offset)+at+len(piece)))
				copy(d.files[s.file][int(s.offset)+at:], piece)
			}
		}
	case unix.SYS_FTRUNCATE:
		if kept() {
			d.resize(s.file, int(s.offset))
		}
	case unix.SYS_LINKAT:
		if kept() {
			d.names[s.path] = s.file
		}
	case unix.SYS_UNLINKAT:
		if kept() {
			delete(d.names, s.path)
		}
	}
}

func (d disk) resize(file uint64, size int) {
	have := d.files[file]
	if size <= len(have) {
		d.files[file] = have[:size]
		return
	}
	d.files[file] = append(have, make([]byte, size-len(have))...)
}

// write puts the disk's files below dir, where the recorded program had them
// below its own.
func (d disk) write(t *testing.T, from, dir string) {
	t.Helper()
	for path, file := range d.names {
		rel, err := filepath.Rel(from, path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, rel), d.files[file], 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
