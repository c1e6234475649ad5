package relay

import (
	"net"
	"testing"
	"time"
)

// TestJoinBesideClose: a connection whose thread is told to end before it gets
// there ends, too.
func TestJoinBesideClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var conns [2]*net.TCPConn
	for i := range conns {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.TCPConn)
	}
	var s Splicer
	defer s.Close()
	if _, err := s.thread(); err != nil {
		t.Fatal(err)
	}
	for _, each := range s.threads {
		each.loop.Do(each.close)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Join(t.Context(), conns[0], conns[1])
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the connection goes on")
	}
}
