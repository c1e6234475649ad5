package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStoppedScreen: whoever writes to a terminal that takes no more, with some
// room left or none, can be woken.
func TestStoppedScreen(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = master.Close() }()
	fd := descriptor(master)
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	// Not by os.OpenFile, which makes it non-blocking.
	opened, err := unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	slave := os.NewFile(uintptr(opened), "terminal")
	defer func() { _ = slave.Close() }()
	screen, done := ownScreen(slave)
	defer done()
	waker, err := newWaker()
	if err != nil {
		t.Fatal(err)
	}
	defer waker.close()
	written := make(chan error, 1)
	go func() {
		lines := bytes.Repeat([]byte("a line that becomes longer\n"), 1000)
		for {
			if err := waker.write(descriptor(screen), lines); err != nil {
				written <- err
				return
			}
		}
	}()
	time.Sleep(50 * time.Millisecond) // nobody reads: it is full now
	waker.wake()
	select {
	case err := <-written:
		if !errors.Is(err, errWoken) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		_ = master.Close() // ends the write
		<-written
		t.Fatal("it waits for the terminal")
	}
	if flags, err := unix.FcntlInt(uintptr(descriptor(slave)), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("the client's own terminal does not block any more: %v", err)
	}
	// What is no terminal stays what it is.
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	if own, done := ownScreen(null); own != null {
		done()
		t.Error("/dev/null was opened again")
	}
}
