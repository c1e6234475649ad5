package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const ownNamespace = "/proc/thread-self/ns/net"

// ownPorts are host ports of a network without pods, that lead to the network
// namespace of the test.
func ownPorts(t *testing.T, threads int) *HostPorts {
	t.Helper()
	home, err := os.Open(ownNamespace)
	if err != nil {
		t.Fatal(err)
	}
	n := &Network{log: slog.New(slog.DiscardHandler)}
	n.ports.init(home.Fd(), n.log)
	n.ports.most = threads
	t.Cleanup(func() { n.ports.close(); _ = home.Close() })
	h := &HostPorts{n: n}
	h.passage.Store(&passage{plain: true, Target: Target{NetNS: func() (*os.File, error) { return os.Open(ownNamespace) }}})
	return h
}

// portTo opens a TCP host port to a server of this process, with so many
// threads. The "pod" is the network namespace of the test.
func portTo(t *testing.T, server net.Addr, threads int) (*tcpPort, string) {
	t.Helper()
	h := ownPorts(t, threads)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	port := HostPort{Protocol: "tcp", Port: uint16(address.Port), PodPort: uint16(server.(*net.TCPAddr).Port)}
	file, err := bindHostPort(port, netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	h.sockets = []hostSocket{{port: port, addr: netip.MustParseAddr("127.0.0.1"), file: file}}
	p, err := h.listenTCP(h.sockets[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p, address.String()
}

// echo serves until the test ends.
func echo(t *testing.T) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	return l.Addr()
}

// comesBack checks that a connection brings back what is sent.
func comesBack(c net.Conn, text string) error {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
		return fmt.Errorf("got %q, %w", b, err)
	}
	return nil
}

func loads(p *tcpPort) (all []int32) {
	threads := &p.h.n.ports
	threads.mu.Lock()
	defer threads.mu.Unlock()
	for _, each := range threads.all {
		all = append(all, each.load.Load())
	}
	return all
}

// TestHostPortListenTaken: who listens first has a port that two have bound, and
// the other is told by whom it is in use.
func TestHostPortListenTaken(t *testing.T) {
	h := ownPorts(t, 1)
	t.Cleanup(h.Close)
	port, self := HostPort{Protocol: "tcp", HostIP: netip.MustParseAddr("127.0.0.1")}, netip.MustParseAddr("127.0.0.1")
	for range 2 {
		file, err := bindHostPort(port, self)
		if err != nil {
			t.Fatal(err)
		}
		if port.Port == 0 {
			name, err := nameOf(int(file.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			port.Port = name.Port()
		}
		h.sockets = append(h.sockets, hostSocket{port: port, addr: self, file: file})
	}
	if err := h.serve(h.sockets[0]); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("host port %s is in use by ", port)
	if err := h.serve(h.sockets[1]); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s...", err, want)
	}
}

// TestHostPortThreads: many connections are shared by the threads, each goes on
// beside the others, and the port's end is the end of all.
func TestHostPortThreads(t *testing.T) {
	p, address := portTo(t, echo(t), 3)
	var clients []net.Conn
	const many = 60
	for i := range many {
		c, err := net.Dial("tcp4", address)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if err := comesBack(c, fmt.Sprint("first of ", i)); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	for i, c := range clients {
		if err := comesBack(c, fmt.Sprint("more of ", i)); err != nil {
			t.Fatal(err)
		}
	}
	if all := loads(p); len(all) != 3 || min(all[0], all[1], all[2]) < many/3-fewConnections {
		t.Errorf("%d connections are on threads %v", many, all)
	}
	p.close()
	for i, c := range clients {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("client %d goes on: %v", i, err)
		}
	}
	for _, n := range loads(p) {
		if n != 0 {
			t.Errorf("connections are left: %v", loads(p))
		}
	}
}

// TestHostPortEndsBesideClients: a port ends while clients come and go, and its
// threads before it or after.
func TestHostPortEndsBesideClients(t *testing.T) {
	for _, threadsFirst := range []bool{false, true} {
		t.Run(fmt.Sprint("threads first ", threadsFirst), func(t *testing.T) {
			for range 20 {
				p, address := portTo(t, echo(t), 2)
				ctx, cancel := context.WithCancel(t.Context())
				var clients sync.WaitGroup
				var answers atomic.Int32
				for range 16 {
					clients.Go(func() {
						for ctx.Err() == nil {
							c, err := net.Dial("tcp4", address)
							if err != nil {
								return
							}
							if comesBack(c, "x") == nil {
								answers.Add(1)
							}
							_ = c.Close()
						}
					})
				}
				for answers.Load() < 32 {
					time.Sleep(time.Millisecond)
				}
				if threadsFirst {
					p.h.n.ports.close()
				}
				p.close()
				_ = p.h.sockets[0].file.Close() // else clients wait for the next node
				cancel()
				clients.Wait()
				for _, n := range loads(p) {
					if n != 0 {
						t.Fatalf("connections are left: %v", loads(p))
					}
				}
			}
		})
	}
}

// TestHostPortResetAtOnce: a server that takes a connection and breaks it at once
// has taken it. It is not asked again by another way.
func TestHostPortResetAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", ":0") // by both loopback addresses
	if err != nil {
		t.Fatal(err)
	}
	var taken atomic.Int32
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			taken.Add(1)
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
	}()
	_, address := portTo(t, l.Addr(), 1)
	const many = 2000
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for range many / 4 {
				c, err := net.Dial("tcp4", address)
				if err != nil {
					if !errors.Is(err, unix.ECONNRESET) {
						t.Error(err)
					}
					continue
				}
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("got %v, want ECONNRESET", err)
				}
				_ = c.Close()
			}
		})
	}
	clients.Wait()
	_ = l.Close()
	<-ended
	if n := taken.Load(); n > many {
		t.Errorf("the server was asked %d times for %d clients", n, many)
	}
}

// TestHostPortSlowServer: a connection waits for a server that is busy, others
// go on meanwhile, and the port's end is its end, too.
func TestHostPortSlowServer(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Listen(fd, 0); err != nil { // one place to wait
		t.Fatal(err)
	}
	server, err := nameOf(fd)
	if err != nil {
		t.Fatal(err)
	}
	p, address := portTo(t, net.TCPAddrFromAddrPort(server), 1)
	dial := func() net.Conn {
		c, err := net.Dial("tcp4", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	waits := func() (n int) {
		done := make(chan struct{})
		p.thread.loop.Do(func() {
			for c := range p.thread.open {
				if c.pair == nil {
					n++
				}
			}
			close(done)
		})
		<-done
		return n
	}
	until := func(least int) {
		t.Helper()
		for began := time.Now(); waits() < least; time.Sleep(10 * time.Millisecond) {
			if time.Since(began) > 30*time.Second {
				t.Fatalf("%d connections wait, want %d", waits(), least)
			}
		}
	}
	clients := []net.Conn{dial(), dial(), dial()}
	for _, c := range clients {
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
	}
	until(2)
	var got []byte
	for range 2 { // which the kernel has tried again within seconds
		accepted, _, err := unix.Accept(fd)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(accepted) }()
		b := make([]byte, 5)
		if _, err := unix.Read(accepted, b); err != nil {
			t.Fatal(err)
		}
		got = append(got, b...)
	}
	if string(got) != "hellohello" {
		t.Errorf("the server got %q", got)
	}
	clients = append(clients, dial(), dial())
	until(1)
	p.close()
	for i, c := range clients {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("client %d goes on: %v", i, err)
		}
	}
}
