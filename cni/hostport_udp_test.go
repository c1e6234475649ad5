package cni_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"get.podrun.dev/podrun/cni"
)

// TestHostPortUDPFlows: each client gets its own answers, from the address that
// it asked, and what the server sends to others goes its usual way.
func TestHostPortUDPFlows(t *testing.T) {
	n := openNetwork(t, stateDir(t), nil)
	lan := neighbour(t)
	r, path := podWithPorts(t, n, "a")
	peers(t, path, ":80")
	openPorts(t, n, "a", target(r, path), cni.HostPort{Protocol: "udp", Port: 8080, PodPort: 80})
	err := in(t, lan, func() error {
		var clients []*net.UDPConn
		for i := range 50 {
			local := &net.UDPAddr{IP: net.IPv4(198, 51, 100, byte(2+i%2))}
			c, err := net.DialUDP("udp4", local, &net.UDPAddr{IP: net.IPv4(198, 51, 100, 9), Port: 8080})
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			clients = append(clients, c)
		}
		for round := range 3 {
			for i, c := range clients {
				_ = c.SetDeadline(time.Now().Add(5 * time.Second))
				if _, err := fmt.Fprintf(c, "%d/%d", i, round); err != nil {
					return err
				}
			}
			for i, c := range clients {
				b := make([]byte, 100)
				k, err := c.Read(b)
				if want := fmt.Sprintf("%s\n%d/%d", c.LocalAddr(), i, round); err != nil || string(b[:k]) != want {
					return fmt.Errorf("got %q, %w; want %q", b[:k], err, want)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// A pod beside it asks the same server, without the host.
	_, other := podWithPorts(t, n, "b")
	err = in(t, other, func() error {
		_, _, err := seenBy("udp4", at(r.IPs[0].Addr(), 80))
		return err
	})
	if err != nil {
		t.Errorf("pod to pod: %v", err)
	}
}

// TestHostPortBursts: what clients send at once arrives, each datagram by itself
// and in order, and so do the answers: empty ones, and such as are larger than a
// packet on the way.
func TestHostPortBursts(t *testing.T) {
	n := openNetwork(t, stateDir(t), nil)
	lan := neighbour(t)
	r, path := podWithPorts(t, n, "a")
	peers(t, path, ":80")
	openPorts(t, n, "a", target(r, path), cni.HostPort{Protocol: "udp", Port: 8080, PodPort: 80})
	for _, address := range []string{"198.51.100.9:8080", "[2001:db8::1]:8080"} {
		t.Run(address, func(t *testing.T) {
			var clients []net.Conn
			for range 2 {
				c, err := dial(t, lan, "udp", address, time.Second)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				clients = append(clients, c)
			}
			b := make([]byte, 65536)
			for round := range 30 {
				want := make([][]string, len(clients))
				for i := range 24 {
					for j, c := range clients {
						size := 1400
						switch {
						case i%8 == 7:
							size = (1 + j) * round // ends those that go together, empty at first
						case round%5 == 4 && i < 8:
							size = 5000
						}
						text := strings.Repeat(string(rune('a'+i)), size)
						want[j] = append(want[j], text)
						if _, err := c.Write([]byte(text)); err != nil {
							t.Fatal(err)
						}
						if (i+j+round)%4 != 0 {
							continue // two of one client
						}
						want[j] = append(want[j], "again")
						if _, err := c.Write([]byte("again")); err != nil {
							t.Fatal(err)
						}
					}
				}
				for j, c := range clients {
					for i, w := range want[j] {
						k, err := c.Read(b)
						if w = fmt.Sprintf("%s\n%s", c.LocalAddr(), w); err != nil || string(b[:k]) != w {
							t.Fatalf("round %d, client %d: answer %d has %d bytes, want %d, or others; %v", round, j, i, k, len(w), err)
						}
					}
				}
			}
		})
	}
}

// TestHostPortManyFlows: more clients than are remembered are served all the
// same.
func TestHostPortManyFlows(t *testing.T) {
	n := openNetwork(t, stateDir(t), nil)
	r, path := podWithPorts(t, n, "a")
	peers(t, path, ":80")
	openPorts(t, n, "a", target(r, path), cni.HostPort{Protocol: "udp", Port: 8080, PodPort: 80})
	before := descriptors(t)
	for i := range 1200 {
		if _, _, err := seenBy("udp4", "127.0.0.1:8080"); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
	}
	if n := descriptors(t) - before; n > 1100 {
		t.Errorf("%d descriptors are held for flows", n)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
