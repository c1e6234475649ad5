package relay_test

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

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

// TestHalfClose: the end of one direction leaves the other open.
func TestHalfClose(t *testing.T) {
	client, a := pair(t)
	b, server := pair(t)
	joined := make(chan struct{})
	go func() { defer close(joined); relay.Join(t.Context(), a, b) }()

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
func TestEndOfContext(t *testing.T) {
	client, a := pair(t)
	b, server := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	joined := make(chan struct{})
	go func() { defer close(joined); relay.Join(ctx, a, b) }()
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
func TestReset(t *testing.T) {
	client, a := pair(t)
	b, server := pair(t)
	joined := make(chan struct{})
	go func() { defer close(joined); relay.Join(t.Context(), a, b) }()
	_ = client.SetLinger(0)
	_ = client.Close()
	<-joined
	_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want ECONNRESET", err)
	}
}
