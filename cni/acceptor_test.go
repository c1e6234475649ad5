package cni

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/eventloop"
)

// TestAcceptPauses: where no connection can be taken, as when all descriptors are
// in use, those that come meanwhile make for no more tries.
func TestAcceptPauses(t *testing.T) {
	loop, err := eventloop.New()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	var log bytes.Buffer // of the loop's goroutine
	a := &acceptor{loop: loop, log: slog.New(slog.NewTextHandler(&log, nil)), fd: fd}
	loop.Do(func() {
		for range 100 {
			a.Ready(unix.EPOLLIN) // it does not listen: that fails
		}
	})
	loop.Close()
	if n := strings.Count(log.String(), "msg=accept"); n != 1 {
		t.Errorf("%d tries, want 1", n)
	}
}

// TestAcceptorFull: connections wait while there is no place for them, and none
// is forgotten of more than are taken at once.
func TestAcceptorFull(t *testing.T) {
	loop, err := eventloop.New()
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1000); err != nil { // on a port of the kernel's choice
		t.Fatal(err)
	}
	self, err := nameOf(fd)
	if err != nil {
		t.Fatal(err)
	}
	const asked, places = 3 * acceptsAtOnce, 2*acceptsAtOnce + 1
	taken := make(chan netip.AddrPort, asked)
	full := true
	a := &acceptor{loop: loop, log: slog.New(slog.DiscardHandler), fd: fd,
		accepted: func(fd int, from netip.AddrPort) { _ = unix.Close(fd); taken <- from },
		full:     func() bool { return full || len(taken) == places },
	}
	if err := a.begin(); err != nil {
		t.Fatal(err)
	}
	defer loop.Do(a.end)
	clients := map[string]bool{}
	for range asked {
		c, err := net.Dial("tcp4", fmt.Sprint("127.0.0.1:", self.Port()))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		clients[c.LocalAddr().String()] = true
	}
	if n := len(taken); n != 0 {
		t.Errorf("%d were taken without a place", n)
	}
	loop.Do(func() { full = false; a.goOn() })
	for i := range asked {
		select {
		case from := <-taken:
			if !clients[from.String()] {
				t.Errorf("from %s, whom nobody knows or who came twice", from)
			}
			delete(clients, from.String())
		case <-time.After(10 * time.Second):
			t.Fatalf("%d of %d were taken", i, asked)
		}
		if i >= places-1 {
			loop.Do(a.goOn) // one has left
		}
	}
}
