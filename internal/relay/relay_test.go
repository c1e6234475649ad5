package relay_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"get.podrun.dev/podrun/internal/eventloop"
	"get.podrun.dev/podrun/internal/relay"
)

// pair returns two ends of a TCP connection.
func pair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialed.Close(); _ = accepted.Close() })
	return dialed.(*net.TCPConn), accepted.(*net.TCPConn)
}

// joiner is relay.Join, or like it.
type joiner func(ctx context.Context, a, b *net.TCPConn)

// both runs a test with each of the two that join.
func both(t *testing.T, test func(t *testing.T, join joiner)) {
	t.Run("goroutines", func(t *testing.T) {
		test(t, func(ctx context.Context, a, b *net.TCPConn) { relay.Join(ctx, a, b) })
	})
	t.Run("loop", func(t *testing.T) {
		test(t, newSplicer(t).join)
	})
}

// splicer joins connections on a loop.
type splicer struct {
	t     *testing.T
	loop  *eventloop.Loop
	pipes relay.Pipes
}

func newSplicer(t *testing.T) *splicer {
	t.Helper()
	loop, err := eventloop.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loop.Close)
	return &splicer{t: t, loop: loop}
}

func (s *splicer) join(ctx context.Context, a, b *net.TCPConn) {
	var fds []int
	for _, c := range []*net.TCPConn{a, b} {
		f, err := c.File()
		if err != nil {
			s.t.Error(err)
			return
		}
		fd, err := syscall.Dup(int(f.Fd()))
		if err == nil {
			err = syscall.SetNonblock(fd, true)
		}
		if err != nil {
			s.t.Error(err)
			return
		}
		_, _ = f.Close(), c.Close()
		fds = append(fds, fd)
	}
	ended := make(chan struct{})
	var pair *relay.Pair
	s.loop.Do(func() {
		var err error
		if pair, err = relay.Splice(s.loop, &s.pipes, fds[0], fds[1], func() { close(ended) }); err != nil {
			s.t.Error(err)
			close(ended)
		}
	})
	stop := context.AfterFunc(ctx, func() { s.loop.Do(func() { pair.Close() }) })
	defer stop()
	<-ended
}

// TestHalfClose: the end of one direction leaves the other open.
func TestHalfClose(t *testing.T) { both(t, testHalfClose) }

func testHalfClose(t *testing.T, join joiner) {
	client, a := pair(t)
	b, server := pair(t)
	joined := make(chan struct{})
	go func() { defer close(joined); join(t.Context(), a, b) }()

	if _, err := io.WriteString(client, "question"); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(server); err != nil || string(got) != "question" {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := io.WriteString(server, "answer"); err != nil {
		t.Fatal(err)
	}
	_ = server.Close()
	if got, err := io.ReadAll(client); err != nil || string(got) != "answer" {
		t.Fatalf("got %q, %v", got, err)
	}
	<-joined
}

// TestEndOfContext: both connections are closed.
func TestEndOfContext(t *testing.T) { both(t, testEndOfContext) }

func testEndOfContext(t *testing.T, join joiner) {
	client, a := pair(t)
	b, server := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	joined := make(chan struct{})
	go func() { defer close(joined); join(ctx, a, b) }()
	cancel()
	<-joined
	for _, c := range []*net.TCPConn{client, server} {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("want the end of the connection, got %v", err)
		}
	}
}

// TestReset: a reset of one connection is a reset of the other.
func TestReset(t *testing.T) { both(t, testReset) }

func testReset(t *testing.T, join joiner) {
	client, a := pair(t)
	b, server := pair(t)
	joined := make(chan struct{})
	go func() { defer close(joined); join(t.Context(), a, b) }()
	_ = client.SetLinger(0)
	_ = client.Close()
	<-joined
	_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want ECONNRESET", err)
	}
}

// TestDataBeforeReset: what was sent before a reset arrives.
func TestDataBeforeReset(t *testing.T) { both(t, testDataBeforeReset) }

func testDataBeforeReset(t *testing.T, join joiner) {
	client, a := pair(t)
	b, server := pair(t)
	text := make([]byte, 32<<10) // fits into what sockets hold
	if _, err := client.Write(text); err != nil {
		t.Fatal(err)
	}
	_ = client.SetLinger(0)
	_ = client.Close()
	join(t.Context(), a, b)
	_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
	got, err := io.ReadAll(server)
	if len(got) != len(text) || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %d bytes and %v, want %d and ECONNRESET", len(got), err, len(text))
	}
}

// TestMuchBothWays: more goes both ways than pipes and sockets hold, with a
// reader that is slow to begin.
func TestMuchBothWays(t *testing.T) { both(t, testMuchBothWays) }

func testMuchBothWays(t *testing.T, join joiner) {
	texts := [][]byte{make([]byte, 12<<20), make([]byte, 12<<20)}
	for i, text := range texts {
		for at := 0; at < len(text); at += 8 {
			binary.NativeEndian.PutUint64(text[at:], uint64(at*(i+1)))
		}
	}
	client, a := pair(t)
	b, server := pair(t)
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { join(t.Context(), a, b) })
	sent := make(chan struct{})
	for i, c := range []*net.TCPConn{client, server} {
		all.Go(func() {
			if _, err := c.Write(texts[i]); err != nil {
				t.Error(err)
			}
			_ = c.CloseWrite()
			if i == 0 {
				close(sent)
			}
		})
		all.Go(func() {
			if i == 0 {
				<-sent // its own direction is full meanwhile
			}
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, texts[1-i]) {
				t.Errorf("%d bytes, %v; want the %d that were sent", len(got), err, len(texts[1-i]))
			}
		})
	}
}

// pipes counts the ends of pipes that this process has.
func pipes(t *testing.T) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

// TestIdleConnectionsHoldNoPipe: a joined connection on which nothing is on its
// way has its two descriptors and no more, and none when it has ended.
func TestIdleConnectionsHoldNoPipe(t *testing.T) {
	s := newSplicer(t)
	before := pipes(t)
	var joined sync.WaitGroup
	var clients, servers []*net.TCPConn
	for range 50 {
		client, a := pair(t)
		b, server := pair(t)
		joined.Go(func() { s.join(t.Context(), a, b) })
		if _, err := io.WriteString(client, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		clients, servers = append(clients, client), append(servers, server)
	}
	if n := pipes(t) - before; n > 40 {
		t.Errorf("%d ends of pipes for 50 idle connections", n)
	}
	for i := range clients {
		_, _ = clients[i].Close(), servers[i].Close()
	}
	joined.Wait()
	for began := time.Now(); pipes(t) > before; { // the loop's goroutine closes them
		if time.Since(began) > 10*time.Second {
			t.Fatalf("%d ends of pipes are left, were %d", pipes(t), before)
		}
		time.Sleep(time.Millisecond)
	}
}
