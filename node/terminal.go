package node

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// terminal copies between a program's terminal and the client's, which is an
// open file of somebody's shell: it is never made non-blocking (the flag would
// be the shell's too), and nothing may wait in read(2) on it after the program
// has ended, or it would swallow the shell's next key.
type terminal struct {
	wake    [2]int // a pipe; closing its write end ends the reading of keys
	keys    sync.WaitGroup
	screen  sync.WaitGroup
	console *os.File
}

// joinTerminal begins to copy. The caller calls leave when the program has
// ended, and closes stdin and stdout after that; leave closes console.
func joinTerminal(console, stdin, stdout *os.File) *terminal {
	t := &terminal{console: console}
	if err := unix.Pipe2(t.wake[:], unix.O_CLOEXEC); err != nil {
		t.wake = [2]int{-1, -1} // no keys then, but the output is seen
	} else {
		t.keys.Go(func() { t.copyKeys(stdin) })
	}
	t.screen.Go(func() { copyUntilError(stdout, console) })
	return t
}

// copyKeys reads the client's terminal only when something is there.
func (t *terminal) copyKeys(stdin *os.File) {
	buf := make([]byte, 4096)
	fd := int(stdin.Fd())
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(t.wake[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err == unix.EINTR {
			continue
		} else if err != nil || poll[1].Revents != 0 {
			return
		}
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
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
	if t.wake[1] >= 0 {
		_ = unix.Close(t.wake[1])
		t.keys.Wait()
		_ = unix.Close(t.wake[0])
	}
	_ = t.console.Close()
}
