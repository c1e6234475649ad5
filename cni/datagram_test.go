package cni_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// echoServer answers datagrams on the host's loopback, each with the port that
// it came from and itself.
func echoServer(t *testing.T) *net.UDPConn {
	t.Helper()
	return echoServerAt(t, net.IPv4(127, 0, 0, 1))
}

func echoServerAt(t *testing.T, loopback net.IP) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: loopback})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		buf := make([]byte, 65536)
		for {
			k, from, err := c.ReadFromUDP(buf[2:])
			if err != nil {
				return
			}
			binary.BigEndian.PutUint16(buf, uint16(from.Port))
			_, _ = c.WriteToUDP(buf[:min(k+2, 65507)], from)
		}
	}()
	return c
}

func exchange(c net.Conn, text []byte) (port uint16, answer []byte, err error) {
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write(text); err != nil {
		return 0, nil, err
	}
	buf := make([]byte, 65536)
	k, err := c.Read(buf)
	if err != nil || k < 2 {
		return 0, nil, err
	}
	return binary.BigEndian.Uint16(buf), buf[2:k], nil
}

func TestDatagrams(t *testing.T) {
	p := newUplinkPod(t, nil)
	server := echoServer(t)
	address := at(p.HostIP, server.LocalAddr().(*net.UDPAddr).Port)
	open := func() net.Conn {
		c, err := dial(t, p.netns, "udp4", address, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	c := open()
	first, _, err := exchange(c, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 1400, 9000, 65492 - 2, 65507 - 2} {
		text := []byte(strings.Repeat("x", size))
		port, answer, err := exchange(c, text)
		if err != nil || string(answer) != string(text) {
			t.Fatalf("a datagram of %d bytes comes back with %d, %v", size, len(answer), err)
		}
		if port != first {
			t.Errorf("a conversation has the source ports %d and %d", first, port)
		}
	}
	t.Run("of others", func(t *testing.T) {
		other, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(first)})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Close() }()
		if _, err := other.Write([]byte("--intruder")); err != nil {
			t.Fatal(err)
		}
		if _, answer, err := exchange(c, []byte("still ours")); err != nil || string(answer) != "still ours" {
			t.Errorf("got %q, %v", answer, err)
		}
	})
	t.Run("many", func(t *testing.T) {
		before := descriptors(t)
		const many = 1500
		for range many {
			one := open()
			if _, err := one.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		// What is yet to come of the many.
		one := open()
		if _, answer, err := exchange(one, []byte("last")); err != nil || string(answer) != "last" {
			t.Errorf("the last of many: %q, %v", answer, err)
		}
		if more := descriptors(t) - before - many - 1; more > 1024 {
			t.Errorf("%d descriptors for %d conversations, want 1024 at most", more, many)
		}
	})
}

// TestManyDatagrams: what a pod sends at once arrives, each datagram by itself and
// in order, and so do the answers.
func TestManyDatagrams(t *testing.T) {
	p := newUplinkPod(t, nil)
	t.Run("IPv4", func(t *testing.T) { manyDatagrams(t, p.netns, p.HostIP, net.IPv4(127, 0, 0, 1)) })
	t.Run("IPv6", func(t *testing.T) { manyDatagrams(t, p.netns, p.HostIP6, net.IPv6loopback) })
}

func manyDatagrams(t *testing.T, netns string, host netip.Addr, loopback net.IP) {
	server := echoServerAt(t, loopback)
	c, err := dial(t, netns, "udp", at(host, server.LocalAddr().(*net.UDPAddr).Port), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, _, err := exchange(c, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 65536)
	for round := range 50 {
		var want [][]byte
		for i := range 32 {
			size := 1400
			if i%8 == 7 {
				size = 1 + (i*round)%1400 // ends those that go together
			}
			d := []byte(strings.Repeat(string(rune('a'+i)), size))
			want = append(want, d)
			if _, err := c.Write(d); err != nil {
				t.Fatal(err)
			}
		}
		for i, w := range want {
			k, err := c.Read(buf)
			if err != nil || k < 2 || string(buf[2:k]) != string(w) {
				t.Fatalf("round %d: answer %d has %d bytes, want %d behind 2, or others; %v", round, i, k, len(w), err)
			}
		}
	}
}

// pinger is a raw ICMP socket in a pod.
func pinger(t *testing.T, netns string, v6 bool) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	err := in(t, netns, func() (err error) {
		if v6 {
			c, err = net.ListenPacket("ip6:ipv6-icmp", "::")
		} else {
			c, err = net.ListenPacket("ip4:icmp", "0.0.0.0")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// ping sends an echo request and returns the first message that is not one,
// from whom it came.
func ping(c net.PacketConn, to net.IP, id, sequence uint16, data string) (message []byte, from string, err error) {
	request := append([]byte{8, 0, 0, 0, 0, 0, 0, 0}, data...)
	if to.To4() == nil {
		request[0] = 128
	}
	binary.BigEndian.PutUint16(request[4:], id)
	binary.BigEndian.PutUint16(request[6:], sequence)
	if to.To4() != nil {
		binary.BigEndian.PutUint16(request[2:], ^internetSum(request))
	}
	if _, err := c.WriteTo(request, &net.IPAddr{IP: to}); err != nil {
		return nil, "", err
	}
	_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
	for {
		buf := make([]byte, 65536)
		k, a, err := c.ReadFrom(buf)
		if err != nil {
			return nil, "", err
		}
		switch buf[0] {
		case 8, 128, 133, 134, 135, 136, 143: // requests, and neighbours
			continue
		}
		return buf[:k], a.String(), nil
	}
}

func internetSum(b []byte) uint16 {
	var n uint32
	for i := range b {
		n += uint32(b[i]) << (8 * (1 - i%2))
	}
	for n>>16 != 0 {
		n = n&0xffff + n>>16
	}
	return uint16(n)
}

// TestPing with the kernel's ping sockets and, where they are not allowed, with
// raw ones.
func TestPing(t *testing.T) {
	blackHole(t, "203.0.113.128/25")
	hostRoute(t, "198.51.100.0/25", unix.RTN_UNREACHABLE, 0)
	hostRoute(t, "198.51.100.128/25", unix.RTN_LOCAL, 1) // the outside that answers
	const knob = "/proc/sys/net/ipv4/ping_group_range"
	for _, name := range []string{"raw sockets", "ping sockets"} { // a new namespace allows no group
		t.Run(name, func(t *testing.T) {
			if name == "ping sockets" {
				if err := os.WriteFile(knob, []byte("0 0"), 0); err != nil {
					t.Fatal(err)
				}
			}
			p := newUplinkPod(t, nil)
			four, six := pinger(t, p.netns, false), pinger(t, p.netns, true)
			for sequence, to := range []string{"198.51.100.130", p.HostIP.String(), p.HostIP6.String(), p.Gateway.String()} {
				ip, socket := net.ParseIP(to), four
				if ip.To4() == nil {
					socket = six
				}
				data := strings.Repeat("payload", 1000*sequence)
				m, from, err := ping(socket, ip, 0x1234, uint16(sequence), data)
				if err != nil {
					t.Errorf("%s: %v", to, err)
					continue
				}
				if m[0] != 0 && m[0] != 129 || binary.BigEndian.Uint16(m[4:]) != 0x1234 || binary.BigEndian.Uint16(m[6:]) != uint16(sequence) ||
					string(m[8:]) != data || from != to || ip.To4() != nil && internetSum(m) != 0xffff {
					t.Errorf("%s: answer %x with %d bytes from %s", to, m[:8], len(m), from)
				}
			}
			m, _, err := ping(four, net.IPv4(198, 51, 100, 1), 1, 7, "x")
			if err != nil || m[0] != 3 || m[1] != 1 {
				t.Errorf("unreachable: %x, %v; want host unreachable", m, err)
			}
			if m, _, err := ping(four, net.IPv4(203, 0, 113, 130), 1, 7, "x"); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("silent: %x, %v", m, err)
			}
		})
	}
}
