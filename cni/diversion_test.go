package cni

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

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
	a := &acceptor{c: newConnector(loop, slog.New(slog.NewTextHandler(&log, nil)), rules{}, nil), fd: fd}
	loop.Do(func() {
		for range 100 {
			a.Ready(unix.EPOLLIN) // it does not listen: that fails
		}
	})
	loop.Close()
	if n := strings.Count(log.String(), "accept from a pod"); n != 1 {
		t.Errorf("%d tries, want 1", n)
	}
}
