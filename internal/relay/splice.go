package relay

import (
	"os"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/eventloop"
)

const (
	// pipeSize is how much may be on its way between two sockets. A larger pipe
	// takes from what an unprivileged user may have in pipes (pipe(7)).
	pipeSize = 256 << 10
	// turn is how much goes one way before other connections have theirs.
	turn = 4 * pipeSize
	// kept is how many pipes a thread keeps for later.
	kept = 4
)

// Pair is two TCP sockets that are joined on a loop. The bytes stay in the
// kernel: splice(2) takes them from one socket into a pipe and from there to the
// other. A pair has a pipe for as long as something is on its way.
type Pair struct {
	loop   *eventloop.Loop
	pipes  *Pipes
	sides  [2]side
	ended  func()
	closed bool
}

// side is one of the sockets and the direction from it to the other.
type side struct {
	pair      *Pair
	other     *side
	fd        int
	readable  bool // as far as is known: to be tried
	writable  bool
	pipe      *pipe // nil while nothing is on its way
	finished  bool  // its end was passed on
	scheduled bool  // goes on after others
}

// Splice joins two connected, non-blocking TCP sockets, which are the Pair's
// from now on, after an error too. The end of one direction is passed on as such;
// a reset, or any other break, as a reset. ended is called on the loop's
// goroutine when both are closed, not after an error. Splice is to be called on
// the loop's goroutine, and so are the Pair's methods.
func Splice(loop *eventloop.Loop, pipes *Pipes, a, b int, ended func()) (*Pair, error) {
	p := &Pair{loop: loop, pipes: pipes, ended: ended}
	pipes.pairs++
	p.sides[0] = side{pair: p, fd: a, other: &p.sides[1], writable: true}
	p.sides[1] = side{pair: p, fd: b, other: &p.sides[0], writable: true}
	// Edge-triggered: one call each for the whole life of the connection. What
	// is there to be read already is told as well.
	const events = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET
	for i := range p.sides {
		if err := loop.Add(p.sides[i].fd, events, &p.sides[i]); err != nil {
			p.ended = func() {}
			p.Close()
			return nil, err
		}
	}
	return p, nil
}

// Close ends both connections. It may be called again.
func (p *Pair) Close() {
	if p.closed {
		return
	}
	p.closed = true
	for i := range p.sides {
		s := &p.sides[i]
		p.loop.Remove(s.fd)
		_ = unix.Close(s.fd)
		if s.pipe != nil {
			s.pipe.close()
			s.pipe = nil
		}
	}
	p.pipes.leave()
	p.ended()
}

// Reset ends both connections in such a way that who is at their other ends
// learns that they broke.
func (p *Pair) Reset() {
	if p.closed {
		return
	}
	for i := range p.sides {
		Reset(p.sides[i].fd)
	}
	p.Close()
}

// Reset has a TCP socket closed with a reset, when it will be closed.
func Reset(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0})
}

// Ready is called by the loop.
func (s *side) Ready(events uint32) {
	const broken = unix.EPOLLERR | unix.EPOLLHUP
	if events&broken != 0 && s.finished {
		s.pair.Reset()
		return
	}
	// What came before a reset is still there; then splice says what happened.
	if events&(unix.EPOLLOUT|broken) != 0 {
		s.writable = true
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|broken) != 0 {
		s.readable = true
	}
	s.pump()
	if !s.pair.closed {
		s.other.pump()
	}
}

// pump moves what there is from s to the other side.
func (s *side) pump() {
	for moved := 0; !s.finished && !s.pair.closed; {
		if moved >= turn {
			if !s.scheduled {
				s.scheduled = true
				s.pair.loop.Do(func() { s.scheduled = false; s.pump() })
			}
			return
		}
		if s.pipe == nil || s.pipe.holds == 0 {
			if !s.readable {
				s.rest()
				return
			}
			if !s.fill() {
				continue
			}
		}
		if !s.other.writable {
			return // with what is in the pipe
		}
		n, err := splice(s.pipe.r, s.other.fd, s.pipe.holds)
		switch {
		case err == unix.EAGAIN:
			s.other.writable = false
		case err != nil:
			s.pair.Reset()
		default:
			s.pipe.holds -= n
			moved += n
		}
	}
}

// fill takes from the socket into the pipe. It tells whether anything came.
func (s *side) fill() bool {
	if s.pipe == nil {
		var err error
		if s.pipe, err = s.pair.pipes.get(); err != nil {
			s.pair.Reset()
			return false
		}
	}
	n, err := splice(s.fd, s.pipe.w, pipeSize)
	switch {
	case err == unix.EAGAIN: // the pipe is empty: it is the socket that has nothing
		s.readable = false
	case err != nil:
		s.pair.Reset()
	case n == 0:
		s.finish()
	default:
		s.pipe.holds += n
		return true
	}
	return false
}

// finish passes the end of a direction on.
func (s *side) finish() {
	s.finished = true
	s.rest()
	if s.other.finished {
		s.pair.Close()
		return
	}
	_ = unix.Shutdown(s.other.fd, unix.SHUT_WR)
}

// rest gives the empty pipe back.
func (s *side) rest() {
	if s.pipe != nil {
		s.pair.pipes.put(s.pipe)
		s.pipe = nil
	}
}

func splice(from, to, size int) (int, error) {
	for {
		n, err := unix.Splice(from, nil, to, nil, size, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if err != unix.EINTR {
			return int(n), err
		}
	}
}

// Pipes are the empty pipes of one loop's goroutine. There are none when no pair
// is joined.
type Pipes struct {
	free  []*pipe
	pairs int
}

// pipe is where bytes are between two sockets.
type pipe struct{ r, w, holds int }

func (p *pipe) close() { _, _ = unix.Close(p.r), unix.Close(p.w) }

func (p *Pipes) get() (*pipe, error) {
	if k := len(p.free); k > 0 {
		last := p.free[k-1]
		p.free = p.free[:k-1]
		return last, nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	// What it is by default does too, where there may be no more.
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize)
	return &pipe{r: fds[0], w: fds[1]}, nil
}

func (p *Pipes) put(empty *pipe) {
	if len(p.free) >= kept {
		empty.close()
		return
	}
	p.free = append(p.free, empty)
}

// leave is for a pair that ends.
func (p *Pipes) leave() {
	if p.pairs--; p.pairs > 0 {
		return
	}
	for _, each := range p.free {
		each.close()
	}
	p.free = nil
}
