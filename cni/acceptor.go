package cni

import (
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/eventloop"
)

const (
	// acceptsAtOnce is how many connections are taken before others on the same
	// loop have their turn.
	acceptsAtOnce = 64
	// acceptPause is waited when no connection can be taken, as when all
	// descriptors are in use.
	acceptPause = 100 * time.Millisecond
)

// acceptor takes the connections of a non-blocking, listening socket on a loop's
// goroutine, which its methods are for.
type acceptor struct {
	loop *eventloop.Loop
	log  *slog.Logger
	fd   int    // -1 at its end
	at   string // what the socket is, for the log
	// accepted is given each connection, a non-blocking socket, and whose it is.
	accepted func(fd int, from netip.AddrPort)
	// full has connections wait, until goOn is called; nil: never.
	full   func() bool
	paused bool // until acceptPause is over
}

// begin has the loop call for connections. It is safe for any goroutine.
func (a *acceptor) begin() error { return a.loop.Add(a.fd, unix.EPOLLIN|unix.EPOLLET, a) }

// Ready takes the connections that there are.
func (a *acceptor) Ready(uint32) {
	for range acceptsAtOnce {
		if a.paused || a.fd < 0 || a.full != nil && a.full() {
			return
		}
		fd, from, err := acceptFrom(a.fd)
		switch {
		case err == unix.EAGAIN:
			return
		case err == unix.EINTR, err == unix.ECONNABORTED:
			continue
		case err != nil:
			a.log.Warn("accept", "at", a.at, "err", err)
			a.paused = true
			time.AfterFunc(acceptPause, func() { a.loop.Do(func() { a.paused = false; a.goOn() }) })
			return
		}
		a.accepted(fd, from)
	}
	a.loop.Do(a.goOn)
}

// goOn takes connections that waited.
func (a *acceptor) goOn() { a.Ready(0) }

// end closes the socket. It may be called again.
func (a *acceptor) end() {
	if a.fd >= 0 {
		a.loop.Remove(a.fd)
		_ = unix.Close(a.fd)
		a.fd = -1
	}
}
