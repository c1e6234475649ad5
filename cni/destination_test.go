package cni_test

import (
	"errors"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostRoute adds a route of a kind to what stands for the host, for the time of
// the test.
func hostRoute(t *testing.T, to string, kind, link int) {
	t.Helper()
	_, subnet, err := net.ParseCIDR(to)
	if err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{Dst: subnet, Type: kind, LinkIndex: link}
	if kind == unix.RTN_LOCAL {
		route.Scope, route.Table = unix.RT_SCOPE_HOST, unix.RT_TABLE_LOCAL
	}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.RouteDel(route) })
}

// blackHole makes a subnet of the outside where nobody answers.
func blackHole(t *testing.T, subnet string) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	request, err := unix.NewIfreq("hole")
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName("hole")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(203, 0, 113, 1), Mask: net.CIDRMask(32, 32)}}); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	hostRoute(t, subnet, unix.RTN_UNICAST, link.Attrs().Index)
}

// wantSoftErrors makes a UDP socket tell what may pass by, too.
func wantSoftErrors(t *testing.T, c net.Conn) {
	t.Helper()
	udp, ok := c.(*net.UDPConn)
	if !ok {
		return
	}
	raw, err := udp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		if udp.RemoteAddr().(*net.UDPAddr).IP.To4() != nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestConnectErrors: what the host's kernel says of a destination is what the
// pod's says.
func TestConnectErrors(t *testing.T) {
	hostRoute(t, "198.51.100.0/25", unix.RTN_UNREACHABLE, 0)
	hostRoute(t, "198.51.100.128/25", unix.RTN_PROHIBIT, 0)
	hostRoute(t, "2001:db8:1::/64", unix.RTN_UNREACHABLE, 0)
	blackHole(t, "203.0.113.128/25")
	both(t, func(t *testing.T, p uplinkPod) {
		for _, c := range []struct {
			name, address string
			want          error
		}{
			{"refused", at(p.HostIP, 1), syscall.ECONNREFUSED},
			{"refused, IPv6", at(p.HostIP6, 1), syscall.ECONNREFUSED},
			{"no route", "192.0.2.1:80", syscall.ENETUNREACH},
			{"no route, IPv6", "[2001:db8:2::1]:80", syscall.ENETUNREACH},
			{"unreachable", "198.51.100.1:80", syscall.EHOSTUNREACH},
			{"unreachable, IPv6", "[2001:db8:1::1]:80", syscall.EHOSTUNREACH},
			{"prohibited", "198.51.100.129:80", syscall.EHOSTUNREACH},
			{"silent", "203.0.113.129:80", os.ErrDeadlineExceeded},
		} {
			for _, network := range []string{"tcp", "udp"} {
				if network == "udp" && errors.Is(c.want, os.ErrDeadlineExceeded) {
					continue
				}
				t.Run(c.name+" "+network, func(t *testing.T) {
					began := time.Now()
					conn, err := dial(t, p.netns, network, c.address, 700*time.Millisecond)
					if err == nil {
						defer func() { _ = conn.Close() }()
						wantSoftErrors(t, conn)
						_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
						if _, err = conn.Write([]byte("x")); err == nil {
							_, err = conn.Read(make([]byte, 1))
						}
					}
					var timeout net.Error
					if c.want == os.ErrDeadlineExceeded {
						if !errors.As(err, &timeout) || !timeout.Timeout() {
							t.Errorf("got %v, want a timeout", err)
						}
						return
					}
					if !errors.Is(err, c.want) {
						t.Errorf("got %v, want %v", err, c.want)
					}
					if took := time.Since(began); took > time.Second/2 {
						t.Errorf("the error took %s", took)
					}
				})
			}
		}
	})
}

// TestDeadDestination: connections to where nobody answers hold up no other.
func TestDeadDestination(t *testing.T) {
	blackHole(t, "203.0.113.128/25")
	server := serve(t, "", "127.0.0.1:0", "from the host")
	port := server.(*net.TCPAddr).Port
	both(t, func(t *testing.T, p uplinkPod) {
		// On a quiet machine each takes a few milliseconds. To wait for one of the
		// others would be a minute, a packet that is lost a second.
		connect := func() (took []time.Duration) {
			for range 9 {
				began := time.Now()
				got, err := ask(t, p.netns, at(p.HostIP, port))
				if err != nil || got != "from the host" {
					t.Fatalf("got %q, %v", got, err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			return took
		}
		if took := connect(); took[len(took)-1] > lost+10*took[0] {
			t.Errorf("one of these connections took too long: %s", took)
		}
		const waiting = 2000
		var fds []int
		defer func() {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
		}()
		err := in(t, p.netns, func() error {
			for i := range waiting {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				fds = append(fds, fd)
				to := &unix.SockaddrInet4{Port: 1 + i, Addr: [4]byte{203, 0, 113, byte(129 + i%100)}}
				if err := unix.Connect(fd, to); err != unix.EINPROGRESS {
					return err
				}
			}
			return nil
		})
		if err != nil || len(fds) != waiting {
			t.Fatalf("%d connections, %v", len(fds), err)
		}
		// Thousands of SYNs that are sent again leave some of these little of a busy
		// processor; to be held up would be all of them.
		if took := connect(); took[len(took)/3] > lost {
			t.Errorf("connections beside %d that wait took %s", waiting, took)
		}
		for _, fd := range fds {
			if e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || e != 0 {
				t.Fatalf("one that waits was told %v, %v", syscall.Errno(e), err)
			}
		}
	})
}
