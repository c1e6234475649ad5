package cni

import (
	"net"
	"net/netip"
	"sync"
)

// How many connections may ask for names at once, of one pod and of all.
const (
	maxPodStreams = 32
	maxStreams    = 512
)

// podListener takes connections up to those limits; one more is closed at
// once. The idle ones among them the server ends by itself.
type podListener struct {
	net.Listener

	mu   sync.Mutex
	open map[netip.Addr]int
	all  int
}

func newPodListener(l net.Listener) *podListener {
	return &podListener{Listener: l, open: map[netip.Addr]int{}}
}

// Accept waits for the next connection within the limits.
func (l *podListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var from netip.Addr
		if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
			from = a.AddrPort().Addr().Unmap()
		}
		if l.enter(from) {
			return &podStream{Conn: c, leave: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		_ = c.Close()
	}
}

func (l *podListener) enter(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= maxStreams || l.open[from] >= maxPodStreams {
		return false
	}
	l.all++
	l.open[from]++
	return true
}

func (l *podListener) leave(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.open[from]--; l.open[from] == 0 {
		delete(l.open, from)
	}
}

type podStream struct {
	net.Conn
	leave func()
}

// Close ends the connection and makes room for another.
func (s *podStream) Close() error {
	s.leave()
	return s.Conn.Close()
}
