package relay

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/eventloop"
)

// maxThreads is how many processors a Splicer uses at most.
const maxThreads = 4

// Splicer joins TCP connections on a few threads of its own, which come with the
// first connection. The zero Splicer is ready; Close ends it. It is safe for
// concurrent use.
type Splicer struct {
	mu      sync.Mutex
	threads []*thread
	next    int
	closed  bool
}

// thread is a loop with what is joined on it. Its methods are for the loop's
// goroutine.
type thread struct {
	loop   *eventloop.Loop
	pipes  Pipes
	pairs  map[*Pair]bool
	closed bool
}

// join is Splice on this thread. After close it fails.
func (t *thread) join(a, b int, ended func()) (p *Pair, err error) {
	if t.closed {
		return nil, errors.Join(os.ErrClosed, unix.Close(a), unix.Close(b))
	}
	p, err = Splice(t.loop, &t.pipes, a, b, func() { delete(t.pairs, p); ended() })
	if err == nil {
		t.pairs[p] = true
	}
	return p, err
}

func (t *thread) close() {
	t.closed = true
	for p := range t.pairs {
		p.Close()
	}
}

// Join is as the function of this name, for two TCP connections: their bytes
// stay in the kernel, and no goroutine waits for either but the caller's.
func (s *Splicer) Join(ctx context.Context, a, b *net.TCPConn) {
	t, err := s.thread()
	if err != nil {
		Join(ctx, a, b)
		return
	}
	fds, err := take(a, b)
	if err != nil {
		Join(ctx, a, b)
		return
	}
	ended := make(chan struct{})
	var pair *Pair
	if !t.loop.Do(func() {
		if pair, err = t.join(fds[0], fds[1], func() { close(ended) }); err != nil {
			close(ended)
		}
	}) {
		_, _ = unix.Close(fds[0]), unix.Close(fds[1])
		return
	}
	stop := context.AfterFunc(ctx, func() {
		t.loop.Do(func() {
			if pair != nil {
				pair.Close()
			}
		})
	})
	defer stop()
	<-ended
}

// take has the descriptors of connections, which are closed as far as package
// net is concerned.
func take(conns ...*net.TCPConn) (fds []int, err error) {
	for _, c := range conns {
		raw, err := c.SyscallConn()
		fd := -1
		if err == nil {
			outer := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
			err = errors.Join(err, outer)
		}
		if err != nil {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
			return nil, os.NewSyscallError("dup", err)
		}
		fds = append(fds, fd)
	}
	for _, c := range conns {
		_ = c.Close()
	}
	return fds, nil
}

// thread returns the one whose turn it is.
func (s *Splicer) thread() (*thread, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, os.ErrClosed
	}
	for s.next == 0 && len(s.threads) < min(runtime.GOMAXPROCS(0), maxThreads) {
		loop, err := eventloop.New()
		if err != nil {
			return nil, err
		}
		s.threads = append(s.threads, &thread{loop: loop, pairs: map[*Pair]bool{}})
	}
	s.next++
	return s.threads[s.next%len(s.threads)], nil
}

// Close ends the threads, and connections that are joined yet.
func (s *Splicer) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, t := range s.threads {
		t.loop.Do(t.close)
		t.loop.Close()
	}
	s.threads = nil
}
