package cni_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/cni"
)

// lost is less than the time that a connection takes which has lost a packet:
// TCP, ARP and neighbour discovery all send anew after a second.
const lost = 900 * time.Millisecond

// uplinkPod is a network with one pod on it.
type uplinkPod struct {
	*cni.Result
	netns string
}

func newUplinkPod(t *testing.T, change func(*cni.Options)) uplinkPod {
	t.Helper()
	n := openNetwork(t, stateDir(t), change)
	p := cni.Pod{ID: "a", NetNS: podNetNS(t)}
	r, err := n.Add(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return uplinkPod{r, p.NetNS}
}

// both runs a test with the kernel's TCP and with the fallback.
func both(t *testing.T, test func(t *testing.T, p uplinkPod)) {
	for _, user := range []bool{false, true} {
		name := "kernel"
		if user {
			name = "user mode"
		}
		t.Run(name, func(t *testing.T) {
			test(t, newUplinkPod(t, func(o *cni.Options) { o.Settings.UserTCP = user }))
		})
	}
}

func dial(t *testing.T, netns, network, address string, timeout time.Duration) (conn net.Conn, err error) {
	t.Helper()
	err = in(t, netns, func() error {
		conn, err = net.DialTimeout(network, address, timeout)
		return err
	})
	return conn, err
}

// TestStreams: halves, resets and IPv6.
func TestStreams(t *testing.T) {
	both(t, func(t *testing.T, p uplinkPod) {
		l, err := net.Listen("tcp", "[::1]:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		accepted := make(chan *net.TCPConn, 1)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				accepted <- c.(*net.TCPConn)
			}
		}()
		port := l.Addr().(*net.TCPAddr).Port
		pair := func(t *testing.T, host netip.Addr) (pod, outside *net.TCPConn) {
			c, err := dial(t, p.netns, "tcp", at(host, port), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			pod, outside = c.(*net.TCPConn), <-accepted
			t.Cleanup(func() { _ = pod.Close(); _ = outside.Close() })
			for _, c := range []*net.TCPConn{pod, outside} {
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			}
			return pod, outside
		}
		for _, host := range []netip.Addr{p.HostIP6, p.HostIP} { // of one that listens on ::1 only
			t.Run("half-close "+host.String(), func(t *testing.T) {
				pod, outside := pair(t, host)
				for _, ends := range [][2]*net.TCPConn{{pod, outside}, {outside, pod}} {
					text := strings.Repeat("0123456789", 100_000)
					go func() {
						_, _ = io.WriteString(ends[0], text)
						_ = ends[0].CloseWrite()
					}()
					if got, err := io.ReadAll(ends[1]); err != nil || string(got) != text {
						t.Errorf("%d bytes, %v", len(got), err)
					}
				}
			})
		}
		t.Run("reset", func(t *testing.T) {
			for _, name := range []string{"pod", "outside"} {
				pod, outside := pair(t, p.HostIP)
				from, to := pod, outside
				if name == "outside" {
					from, to = outside, pod
				}
				if _, err := from.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, err := to.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				_ = from.SetLinger(0)
				_ = from.Close()
				if _, err := to.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("a reset of %s arrives as %v", name, err)
				}
			}
		})
	})
}

// TestNoHost: host-loopback = false closes the host's loopback by whatever
// address, and nothing else.
func TestNoHost(t *testing.T) {
	hostRoute(t, "198.51.100.0/24", unix.RTN_LOCAL, 1)
	server := serve(t, "", "0.0.0.0:0", "from the host")
	port := server.(*net.TCPAddr).Port
	change := func(o *cni.Options) { o.Settings.NoHost = true }
	n := openNetwork(t, stateDir(t), func(*cni.Options) {})
	alias, err := n.Add(t.Context(), cni.Pod{ID: "x", NetNS: podNetNS(t)})
	if err != nil {
		t.Fatal(err)
	}
	p := newUplinkPod(t, change)
	if p.HostIP.IsValid() || p.HostIP6.IsValid() {
		t.Errorf("pods are told of the host at %s, %s", p.HostIP, p.HostIP6)
	}
	if _, err := ask(t, p.netns, at(alias.HostIP, port)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("at %s: %v, want ECONNREFUSED", alias.HostIP, err)
	}
	for _, to := range []string{"127.0.0.1", "0.0.0.0", "127.1.2.3"} {
		// In the pod that is the pod itself; the way out must not do it either.
		if _, err := ask(t, p.netns, to+":"+at(alias.HostIP, port)[strings.LastIndex(at(alias.HostIP, port), ":")+1:]); err == nil {
			t.Errorf("%s leads to the host", to)
		}
	}
	c, err := dial(t, p.netns, "udp4", at(alias.HostIP, port), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, _, err := exchange(c, []byte("x")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("UDP: %v, want ECONNREFUSED", err)
	}
	if got, err := ask(t, p.netns, at(netip.MustParseAddr("198.51.100.7"), port)); err != nil || got != "from the host" {
		t.Errorf("an address of the host's that is none of its loopback: %q, %v", got, err)
	}
}

// TestForgedDestination: a packet that says 127.0.0.1 or ::ffff:127.0.0.1 and
// gets as far as the gateway goes no further.
func TestForgedDestination(t *testing.T) {
	server := echoServer(t)
	p := newUplinkPod(t, nil)
	arrived := make(chan []byte, 1)
	_ = server.SetReadDeadline(time.Time{})
	err := in(t, p.netns, func() error {
		link, err := netlink.LinkByName(p.Interface)
		if err != nil {
			return err
		}
		gateway := net.HardwareAddr{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdc}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		to := &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: link.Attrs().Index, Halen: 6}
		copy(to.Addr[:], gateway)
		for _, destination := range []string{"127.0.0.1", "0.0.0.0"} {
			payload := []byte("forged")
			ip := make([]byte, 28, 64)
			ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
			binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
			source := p.IPs[0].Addr().As4()
			copy(ip[12:], source[:])
			copy(ip[16:], net.ParseIP(destination).To4())
			binary.BigEndian.PutUint16(ip[10:], ^internetSum(ip[:20]))
			binary.BigEndian.PutUint16(ip[20:], 4000)
			binary.BigEndian.PutUint16(ip[22:], uint16(server.LocalAddr().(*net.UDPAddr).Port))
			binary.BigEndian.PutUint16(ip[24:], uint16(8+len(payload)))
			if err := unix.Sendto(fd, append(ip, payload...), 0, to); err != nil {
				return err
			}
		}
		c, err := net.ListenPacket("udp4", ":4000")
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		buf := make([]byte, 100)
		if k, _, err := c.ReadFrom(buf); err == nil {
			arrived <- buf[:k]
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-arrived:
		t.Errorf("the host's loopback answered %q", m)
	default:
	}
}

// TestReadOnlySysctls: /proc/sys is read-only in some containers.
func TestReadOnlySysctls(t *testing.T) {
	if err := unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount("/proc/sys", unix.MNT_DETACH) }()
	if err := unix.Mount("", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	server := serve(t, "", "127.0.0.1:0", "from the host")
	n, err := cni.Open(t.Context(), cni.Options{StateDir: stateDir(t), Uplink: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Close() }()
	p := cni.Pod{ID: "a", NetNS: podNetNS(t)}
	r, err := n.Add(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t, p.NetNS, at(r.HostIP, server.(*net.TCPAddr).Port)); err != nil || got != "from the host" {
		t.Errorf("%q, %v; problems %+v", got, err, n.Problems())
	}
	if _, err := dial(t, p.NetNS, "tcp6", "[2001:db8::1]:80", 3*time.Second); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("IPv6: %v, want ENETUNREACH at once", err)
	}
}

// TestCloseLeavesNothing of connections and conversations.
func TestCloseLeavesNothing(t *testing.T) {
	server, echo := serve(t, "", "127.0.0.1:0", "from the host"), echoServer(t)
	blackHole(t, "203.0.113.128/25")
	for _, user := range []bool{false, true} {
		dir := stateDir(t)
		p := cni.Pod{ID: "a", NetNS: podNetNS(t)}
		var open []net.Conn
		fds, goroutines := descriptors(t), runtime.NumGoroutine()
		n := openNetwork(t, dir, func(o *cni.Options) { o.Settings.UserTCP = user })
		r, err := n.Add(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		c, err := dial(t, p.NetNS, "tcp4", at(r.HostIP, server.(*net.TCPAddr).Port), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		u, err := dial(t, p.NetNS, "udp4", at(r.HostIP, echo.LocalAddr().(*net.UDPAddr).Port), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := exchange(u, []byte("x")); err != nil {
			t.Fatal(err)
		}
		var wait sync.WaitGroup
		wait.Go(func() {
			if c, err := dial(t, p.NetNS, "tcp4", "203.0.113.140:80", 300*time.Millisecond); err == nil {
				_ = c.Close()
			}
		})
		wait.Wait()
		open = append(open, c, u)
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		if !user {
			// The pod is told: not by its own timeout.
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
				t.Errorf("the pod's connection: %v, want its end", err)
			}
		}
		for _, c := range open {
			_ = c.Close()
		}
		left := 0
		for range 100 {
			runtime.GC() // which has the pipes that io.Copy keeps for later
			if left = runtime.NumGoroutine() - goroutines; left <= 0 && descriptors(t) <= fds {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if fdsLeft := descriptors(t) - fds; left > 0 || fdsLeft > 0 {
			t.Errorf("user mode %v: %d goroutines and %d descriptors are left", user, left, fdsLeft)
		}
		if _, err := os.Stat(filepath.Join(dir, "netns")); err != nil {
			t.Error(err)
		}
	}
}
