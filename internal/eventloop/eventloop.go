// Package eventloop waits for many descriptors on one goroutine and calls what
// is to be called for each. It is for the data paths of the network, where a
// goroutine for each descriptor costs a switch between threads, and on a
// virtual machine an interrupt of another processor, for each packet.
//
// A loop that has nothing to do sleeps in epoll_wait(2): it has no timer and
// does not wake up. It owns no descriptor but its own two.
package eventloop

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Handler is called on the loop's goroutine.
type Handler interface {
	// Ready takes what epoll(7) says of the descriptor: EPOLLIN and so on. It is
	// not to block.
	Ready(events uint32)
}

// batch is how many descriptors are looked at for one system call.
const batch = 128

// Loop calls handlers of descriptors that have something to say.
type Loop struct {
	epoll, wake int
	stopped     chan struct{}

	mu         sync.Mutex
	known      map[int32]registration
	generation int32
	calls      []func()
	closed     bool
}

// registration tells a descriptor from an earlier one of the same number, of
// which events may have been taken already.
type registration struct {
	handler    Handler
	generation int32
}

// New starts a loop. Close ends it.
func New() (*Loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("eventfd", err), unix.Close(epoll))
	}
	l := &Loop{epoll: epoll, wake: wake, stopped: make(chan struct{}), known: map[int32]registration{}}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &event); err != nil {
		return nil, errors.Join(os.NewSyscallError("epoll_ctl", err), unix.Close(wake), unix.Close(epoll))
	}
	go l.run()
	return l, nil
}

// Add has h called for events of fd, a non-blocking descriptor. It is safe for
// concurrent use; h may be called before Add returns. After Close it fails.
func (l *Loop) Add(fd int, events uint32, h Handler) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return os.ErrClosed
	}
	l.generation++
	event := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: l.generation}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	l.known[int32(fd)] = registration{h, l.generation}
	return nil
}

// Remove forgets a descriptor; it is to be called before fd is closed. On the
// loop's goroutine its handler is not called again; elsewhere it may be running.
func (l *Loop) Remove(fd int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.known[int32(fd)]; !ok {
		return
	}
	delete(l.known, int32(fd))
	if !l.closed { // else the loop's own descriptors may be closed
		_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, fd, nil)
	}
}

// Do calls f on the loop's goroutine, soon. It is safe for concurrent use. It
// tells whether f will be called: not after Close.
func (l *Loop) Do(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.calls = append(l.calls, f)
	if len(l.calls) == 1 {
		l.ring()
	}
	return true
}

// ring has epoll_wait return. It is called with mu, for the eventfd's sake.
func (l *Loop) ring() {
	one := [8]byte{1, 0, 0, 0, 0, 0, 0, 1} // not zero in either order of bytes
	_, _ = unix.Write(l.wake, one[:])
}

// Close ends the loop after what Do was given, and waits for that. Descriptors
// stay open. It is not for the loop's own goroutine, and may be called again.
func (l *Loop) Close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		l.ring()
	}
	l.mu.Unlock()
	<-l.stopped
}

func (l *Loop) run() {
	defer close(l.stopped)
	events := make([]unix.EpollEvent, batch)
	for {
		n, err := unix.EpollWait(l.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			panic("internal error: epoll_wait: " + err.Error()) // of descriptors that are ours alone
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd == int32(l.wake) {
				if l.call() {
					return
				}
				continue
			}
			l.mu.Lock()
			r := l.known[e.Fd]
			l.mu.Unlock()
			if r.handler != nil && r.generation == e.Pad {
				r.handler.Ready(e.Events)
			}
		}
	}
}

// call does what Do was given until now, and ends the loop's own descriptors if
// it was closed. What is given meanwhile has its turn after the descriptors.
func (l *Loop) call() (closed bool) {
	l.mu.Lock()
	var counter [8]byte
	_, _ = unix.Read(l.wake, counter[:])
	calls, closed := l.calls, l.closed
	l.calls = nil
	l.mu.Unlock()
	for _, f := range calls {
		f()
	}
	if closed { // and so nothing more was given
		_, _ = unix.Close(l.wake), unix.Close(l.epoll)
	}
	return closed
}
