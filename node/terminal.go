package node

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// errWoken says that a wait for a client's file was ended from here.
var errWoken = errors.New("woken")

// descriptor is f's number, for as long as f is open. Unlike f.Fd() it leaves f
// non-blocking if it is.
func descriptor(f *os.File) int {
	n := -1
	if conn, err := f.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { n = int(fd) }) // fails on a closed file, as all with -1 does
	}
	return n
}

// waker waits for files of a client, which are open files of somebody's shell:
// they are never made non-blocking (the flag would be the shell's too), and
// nothing may wait in read(2) or write(2) on them when it has to go. So it waits
// in poll(2), where a pipe of its own wakes it.
type waker struct {
	pipe [2]int
	once sync.Once
}

func newWaker() (*waker, error) {
	k := &waker{}
	if err := unix.Pipe2(k.pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	return k, nil
}

// wake ends all waits, the coming ones too. It may be called again.
func (k *waker) wake() { k.once.Do(func() { _ = unix.Close(k.pipe[1]) }) }

// close comes after wake, when nobody waits any more.
func (k *waker) close() { _ = unix.Close(k.pipe[0]) }

// wait returns nil when events has come to fd, or its end.
func (k *waker) wait(fd int, events int16) error { return k.poll(fd, events, -1) }

// poll is wait for at most so many milliseconds; negative is without end.
func (k *waker) poll(fd int, events int16, timeout int) error {
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: events}, {Fd: int32(k.pipe[0]), Events: unix.POLLIN}}
		switch _, err := unix.Poll(poll, timeout); {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("poll", err)
		case poll[1].Revents != 0:
			return errWoken
		default:
			return nil
		}
	}
}

// read waits for something to read; io.EOF is the end of the file.
func (k *waker) read(fd int, p []byte) (int, error) {
	for {
		if err := k.wait(fd, unix.POLLIN); err != nil {
			return 0, err
		}
		switch n, err := unix.Read(fd, p); {
		case err == unix.EINTR || err == unix.EAGAIN:
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// write writes all of p, a piece each time there is room. A pipe with room takes
// PIPE_BUF bytes without blocking; a terminal may not, see ownScreen.
func (k *waker) write(fd int, p []byte) error {
	const piece, pause = 4096, 10 // bytes, milliseconds
	for len(p) > 0 {
		if err := k.wait(fd, unix.POLLOUT); err != nil {
			return err
		}
		n, err := unix.Write(fd, p[:min(piece, len(p))])
		switch {
		case err == unix.EAGAIN:
			// There is room, but not for what a line's end becomes.
			if err := k.poll(-1, 0, pause); err != nil {
				return err
			}
		case err != nil && err != unix.EINTR:
			return os.NewSyscallError("write", err)
		}
		p = p[max(n, 0):]
	}
	return nil
}

// ownScreen opens a client's terminal once more, without blocking: a write that
// finds less room than it needs, as after Ctrl-S, would wait for as long as the
// terminal likes, whoever goes meanwhile. What is no terminal, or cannot be
// opened, is f itself. done closes what was opened.
func ownScreen(f *os.File) (own *os.File, done func()) {
	fd := descriptor(f)
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
		path := fmt.Sprintf("/proc/self/fd/%d", fd)
		again, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err == nil {
			own = os.NewFile(uintptr(again), f.Name())
			return own, func() { _ = own.Close() }
		}
	}
	return f, func() {}
}

// terminal copies between a program's terminal and the client's.
type terminal struct {
	waker   *waker // nil: no keys are read
	keys    sync.WaitGroup
	screen  sync.WaitGroup
	console *os.File
}

// joinTerminal begins to copy. The caller calls leave when the program has
// ended, and closes stdin and stdout after that; leave closes console.
func joinTerminal(console, stdin, stdout *os.File) *terminal {
	t := &terminal{console: console}
	if waker, err := newWaker(); err == nil { // else the output is seen at least
		t.waker = waker
		t.keys.Go(func() { t.copyKeys(stdin) })
	}
	t.screen.Go(func() { copyUntilError(stdout, console) })
	return t
}

// copyKeys reads the client's terminal only when something is there: a read
// that waits would swallow the shell's next key after the program's end.
func (t *terminal) copyKeys(stdin *os.File) {
	buf := make([]byte, 4096)
	fd := descriptor(stdin)
	for {
		n, err := t.waker.read(fd, buf)
		switch {
		case errors.Is(err, errWoken):
			return
		case err != nil:
			// End of the client's input: the program learns of it as of ^D.
			_, _ = t.console.Write([]byte{4})
			return
		}
		if _, err := t.console.Write(buf[:n]); err != nil {
			return
		}
	}
}

// copyUntilError copies src to dst. A terminal's master gives EIO when its
// last user is gone.
func copyUntilError(dst, src *os.File) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// leave ends the copying after the last output was seen.
func (t *terminal) leave() {
	t.screen.Wait()
	if t.waker != nil {
		t.waker.wake()
		t.keys.Wait()
		t.waker.close()
	}
	_ = t.console.Close()
}
