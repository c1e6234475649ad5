package cni_test

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/cni"
)

// TestAddWaitsForLinks: when a pod has been joined, both ends of its link pass
// packets on. A first packet that is lost would be sent again a second later.
func TestAddWaitsForLinks(t *testing.T) {
	dir := stateDir(t)
	n := openNetwork(t, dir, nil)
	for i := range 20 {
		_, path := podWithPorts(t, n, fmt.Sprint("pod", i))
		for _, at := range []string{path, filepath.Join(dir, "netns")} {
			err := in(t, at, func() error {
				// All links at once: to ask for one has the kernel make up for it.
				links, err := netlink.LinkList()
				if err != nil {
					return err
				}
				for _, l := range links {
					if a := l.Attrs(); (l.Type() == "veth" || l.Type() == "bridge") && a.OperState != netlink.OperUp {
						return fmt.Errorf("%s is %s", a.Name, a.OperState)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatalf("pod %d: %v", i, err)
			}
		}
	}
}

// TestAddWaitsForAddresses: when a pod has been joined, it takes what is sent to
// its addresses. An answer that is dropped would be sent again a second later.
func TestAddWaitsForAddresses(t *testing.T) {
	n := openNetwork(t, stateDir(t), nil)
	for i := range 50 {
		p := cni.Pod{ID: fmt.Sprint("pod", i), NetNS: podNetNS(t)}
		r, err := n.Add(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		for _, ip := range r.IPs {
			if err := in(t, p.NetNS, func() error {
				routes, err := netlink.RouteGet(ip.Addr().AsSlice())
				if err == nil && routes[0].Type != unix.RTN_LOCAL {
					err = fmt.Errorf("the route is %s", routes[0])
				}
				return err
			}); err != nil {
				t.Fatalf("pod %d, %s: %v", i, ip.Addr(), err)
			}
		}
	}
}

// TestSmallMTU: pods reach what lies behind a link whose packets are smaller
// than theirs, as behind a VPN, by IPv4 and by IPv6, with much and with large
// datagrams.
func TestSmallMTU(t *testing.T) {
	const smallest = 1280 // of IPv6 (RFC 8200)
	lan := neighbour(t)
	narrow := func(name string) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(link, smallest)
	}
	if err := narrow("lan0"); err != nil {
		t.Fatal(err)
	}
	if err := in(t, lan, func() error { return narrow("lan1") }); err != nil {
		t.Fatal(err)
	}
	peers(t, lan, ":7000")
	both(t, func(t *testing.T, p uplinkPod) {
		for _, to := range []string{"198.51.100.2", "2001:db8::2"} {
			address := netip.MustParseAddr(to)
			c, err := dial(t, p.netns, "tcp", at(address, 7000), 30*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			text := strings.Repeat("x", 1<<20)
			go func() { _, _ = c.Write([]byte(text)) }()
			got := 0
			for b := make([]byte, 1<<16); got < len(text); {
				k, err := c.Read(b)
				if got += k; err != nil {
					t.Fatalf("tcp to %s: %d bytes came back, then %v", to, got, err)
				}
			}
			u, err := dial(t, p.netns, "udp", at(address, 7000), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = u.Close() }()
			if err := echoed(u, strings.Repeat("y", 8000)); err != nil {
				t.Errorf("udp to %s: %v", to, err)
			}
		}
	})
}

// echoed sends a datagram to a server of peers and waits for its answer.
func echoed(c net.Conn, text string) error {
	var b [64 << 10]byte
	var k int
	err := error(nil)
	for range 5 { // datagrams may be lost
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err = c.Write([]byte(text)); err != nil {
			continue
		}
		if k, err = c.Read(b[:]); err == nil {
			break
		}
	}
	if err == nil && !strings.HasSuffix(string(b[:k]), text) {
		err = fmt.Errorf("%d bytes came back, want %d", k, len(text))
	}
	return err
}

// TestMTU: a pod's interface takes the largest packets.
func TestMTU(t *testing.T) {
	p := newUplinkPod(t, func(*cni.Options) {})
	err := in(t, p.netns, func() error {
		link, err := netlink.LinkByName(p.Interface)
		if err == nil && link.Attrs().MTU != 65520 {
			err = fmt.Errorf("MTU %d", link.Attrs().MTU)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
