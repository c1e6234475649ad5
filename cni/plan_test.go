package cni_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/internal/hint"
)

// settings writes a network.toml and reads it.
func settings(t *testing.T, text string) (cni.Settings, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "network.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := cni.ReadSettings(filepath.Join(t.TempDir(), "none"), file)
	if err != nil {
		err = errors.New(strings.TrimPrefix(err.Error(), file+": "))
	}
	return s, err
}

func TestReadSettings(t *testing.T) {
	for _, c := range []struct{ text, err string }{
		{"", ""},
		{"subnet = '10.1.0.0/24'\nsubnet6 = 'fd12:3456::/64'", ""},
		{"subnet6 = 'none'", ""},
		{"subnet = '10.1.0.0'", `subnet "10.1.0.0" is not a subnet such as 10.1.0.0/16`},
		{"subnet = '10.1.0.0/29'", "subnet 10.1.0.0/29: an IPv4 subnet between /8 and /28 is needed"},
		{"subnet = '10.0.0.0/7'", "subnet 10.0.0.0/7: an IPv4 subnet between /8 and /28 is needed"},
		{"subnet = 'fd12::/64'", "subnet fd12::/64: an IPv4 subnet between /8 and /28 is needed"},
		{"subnet6 = 'fd12::/48'", "subnet6 fd12::/48: an IPv6 subnet of /64 is needed"},
		{"subnet6 = '10.1.0.0/16'", "subnet6 10.1.0.0/16: an IPv6 subnet of /64 is needed"},
		{"subnet6 = 'off'", `subnet6 "off" is not a subnet such as fd12:3456::/64, nor "none"`},
		{"subnet = '10.1.0.0/24'\nsubmet6 = 'none'", `line 2: there is no setting "submet6"`},
		{"[pods]\nsubnet = '10.1.0.0/24'", `line 1: there is no setting "pods"`},
		{"subnet = 5", "line 1: subnet has a value of another type than is needed"},
		{"host-loopback = 'no'", "line 1: host-loopback has a value of another type than is needed"},
		{"subnet = ", "line 1:"},
		{"cluster-domain = 'lab.example.'\nresolv-conf = '/run/resolv.conf'", ""},
		{"cluster-domain = 'Lab.example'", `cluster-domain "Lab.example" is not a domain such as cluster.local`},
		{"cluster-domain = 'lab..example'", `cluster-domain "lab..example" is not a domain such as cluster.local`},
		{"resolv-conf = 'resolv.conf'", `resolv-conf "resolv.conf" is not an absolute path`},
	} {
		_, err := settings(t, c.text)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.HasPrefix(err.Error(), c.err)) {
			t.Errorf("%q: %v, want %q", c.text, err, c.err)
		}
	}
	if _, err := cni.ReadSettings("/nonexistent/network.toml"); err != nil {
		t.Errorf("without a file: %v", err)
	}
}

// use is Options with what a network.toml says.
func use(t *testing.T, text string) func(*cni.Options) {
	t.Helper()
	s, err := settings(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *cni.Options) { o.Settings = s }
}

// hostLink gives the host of the tests a network of its own.
func hostLink(t *testing.T, address string) {
	t.Helper()
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}}
	ip, err := netlink.ParseAddr(address)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkAdd(link), netlink.AddrAdd(link, ip), netlink.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
}

func TestSubnetOfTheSettings(t *testing.T) {
	dir := stateDir(t)
	n := openNetwork(t, dir, use(t, "subnet = '10.1.2.0/28'\nsubnet6 = 'fd12:3456::/64'"))
	p := cni.Pod{ID: "a", NetNS: podNetNS(t)}
	r, err := n.Add(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(r.IPs, r.Gateway, r.Gateway6); got != "[10.1.2.2/28 fd12:3456::2/64] 10.1.2.1 fd12:3456::1" {
		t.Errorf("addresses %s", got)
	}
	// A /28 has 11 addresses for pods; the next pod is told why it has none.
	for i := range 10 {
		add(t, n, cni.Pod{ID: fmt.Sprint("more", i), NetNS: podNetNS(t)})
	}
	if _, err := n.Add(t.Context(), cni.Pod{ID: "last", NetNS: podNetNS(t)}); err == nil || !strings.Contains(err.Error(), "no free address in 10.1.2.0/28") || hint.Of(err) == "" {
		t.Errorf("the twelfth pod: %v; %s", err, hint.Of(err))
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}

	// The settings change while pods have addresses: those stay, and it is said.
	changed := use(t, "subnet = '10.3.0.0/24'")
	o := cni.Options{StateDir: dir}
	changed(&o)
	n, err = cni.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if problems := fmt.Sprint(n.Problems()); !strings.Contains(problems, "pods have addresses of 10.1.2.0/28") {
		t.Errorf("problems %s", problems)
	}
	if again := add(t, n, p); again.String() != "10.1.2.2" {
		t.Errorf("the pod's address has become %s", again)
	}
	if err := errors.Join(n.Sweep(t.Context(), nil), n.Close()); err != nil {
		t.Fatal(err)
	}
	// Without pods the next process takes the new subnet, on the bridge too.
	n = openNetwork(t, dir, changed)
	a, b := cni.Pod{ID: "a", NetNS: podNetNS(t)}, cni.Pod{ID: "b", NetNS: podNetNS(t)}
	ip := add(t, n, a)
	if ip.String() != "10.3.0.2" {
		t.Errorf("address %s, want the new subnet's", ip)
	}
	serve(t, a.NetNS, "0.0.0.0:80", "from a")
	add(t, n, b)
	if got, err := ask(t, b.NetNS, ip.String()+":80"); err != nil || got != "from a" {
		t.Errorf("in the new subnet: %q, %v", got, err)
	}
	if c, err := n.Dial(t.Context(), "tcp", ip.String()+":80"); err != nil {
		t.Errorf("the node to a pod of the new subnet: %v", err)
	} else {
		_ = c.Close()
	}
}

func TestSubnetOverlapsTheHosts(t *testing.T) {
	hostLink(t, "10.88.7.1/24")
	o := cni.Options{StateDir: stateDir(t)}
	use(t, "subnet = '10.88.0.0/16'")(&o)
	if _, err := cni.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "overlaps the host's route to 10.88.7.0/24") || hint.Of(err) == "" {
		t.Errorf("%v; %s", err, hint.Of(err))
	}
	// Left to itself podrun takes another one.
	dir := stateDir(t)
	n := openNetwork(t, dir, nil)
	if ip := add(t, n, cni.Pod{ID: "a", NetNS: podNetNS(t)}); ip.String() != "10.98.0.2" {
		t.Errorf("address %s, want one of 10.98.0.0/16", ip)
	}
	// The host's network comes to overlap later: said while there are pods.
	if err := netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4(10, 98, 1, 0), Mask: net.CIDRMask(24, 32)}, Gw: net.IPv4(10, 88, 7, 2)}); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n, err := cni.Open(t.Context(), cni.Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if problems := fmt.Sprint(n.Problems()); !strings.Contains(problems, "pods cannot reach 10.98.1.0/24") {
		t.Errorf("problems %s", problems)
	}
	if err := errors.Join(n.Sweep(t.Context(), nil), n.Close()); err != nil {
		t.Fatal(err)
	}
	n = openNetwork(t, dir, nil)
	if ip := add(t, n, cni.Pod{ID: "a", NetNS: podNetNS(t)}); ip.String() != "10.208.0.2" {
		t.Errorf("address %s, want one that overlaps nothing", ip)
	}
}

func TestDualStack(t *testing.T) {
	dir, data := stateDir(t), t.TempDir()
	n := openNetwork(t, dir, func(o *cni.Options) { o.DataDir = data })
	a, b := cni.Pod{ID: "a", NetNS: podNetNS(t)}, cni.Pod{ID: "b", NetNS: podNetNS(t)}
	add(t, n, a)
	r, err := n.Add(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.IPs) != 2 || !r.IPs[1].Addr().Is6() || r.IPs[1].Addr().As16()[0] != 0xfd || r.IPs[1].Bits() != 64 || r.IPs[1].Masked().Contains(netip.MustParseAddr("fd00::1")) {
		t.Fatalf("addresses %v, want an IPv4 and a unique local IPv6 one", r.IPs)
	}
	ip6 := r.IPs[1].Addr()
	if b4, b6 := r.IPs[0].Addr().As4(), ip6.As16(); b4[3] != b6[15] {
		t.Errorf("%s and %s have different places in their subnets", r.IPs[0], r.IPs[1])
	}
	// At once: an address that is probed for duplicates cannot be listened on.
	err = in(t, b.NetNS, func() error {
		l, err := net.Listen("tcp6", at(ip6, 80))
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatalf("listen on the new address: %v", err)
	}
	began := time.Now()
	err = in(t, a.NetNS, func() error {
		c, err := net.DialTimeout("tcp6", at(ip6, 80), 5*time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	if err != nil {
		t.Errorf("pod to pod over IPv6: %v", err)
	}
	if took := time.Since(began); took > lost {
		t.Errorf("pod to pod over IPv6 took %s", took)
	}
	began = time.Now()
	if c, err := n.Dial(t.Context(), "tcp", at(ip6, 80)); err != nil {
		t.Errorf("the node to a pod over IPv6: %v", err)
	} else {
		_ = c.Close()
	}
	if took := time.Since(began); took > lost {
		t.Errorf("the node to a pod over IPv6 took %s", took)
	}
	if !n.Contains(ip6) {
		t.Errorf("the network does not know %s", ip6)
	}
	// A pod believes no router, whoever sends the advertisement.
	for _, knob := range []string{"accept_ra", "accept_dad"} {
		var got []byte
		if err := in(t, b.NetNS, func() (err error) {
			got, err = os.ReadFile("/proc/sys/net/ipv6/conf/eth0/" + knob)
			return err
		}); err != nil || strings.TrimSpace(string(got)) != "0" {
			t.Errorf("%s = %q, %v", knob, got, err)
		}
	}
	// The prefix is kept when the state is gone, as after a reboot.
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	again := openNetwork(t, stateDir(t), func(o *cni.Options) { o.DataDir = data })
	r, err = again.Add(t.Context(), cni.Pod{ID: "c", NetNS: podNetNS(t)})
	if err != nil || len(r.IPs) != 2 || !r.IPs[1].Masked().Contains(ip6) {
		t.Errorf("after a reboot: %v, %v; want the prefix of %s", r, err, ip6)
	}
}

// What fits into one packet on the bridge goes as one, and what does not is put
// together again.
func TestLargeDatagrams(t *testing.T) {
	n := openNetwork(t, stateDir(t), func(o *cni.Options) { o.Uplink = false })
	a, b := cni.Pod{ID: "a", NetNS: podNetNS(t)}, cni.Pod{ID: "b", NetNS: podNetNS(t)}
	add(t, n, a)
	r, err := n.Add(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	for _, ip := range r.IPs {
		var server net.PacketConn
		if err := in(t, b.NetNS, func() (err error) {
			server, err = net.ListenPacket("udp", at(ip.Addr(), 9))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		_ = server.SetDeadline(time.Now().Add(10 * time.Second))
		for _, size := range []int{60_000, 65_507} { // the largest of UDP over IPv4
			if err := in(t, a.NetNS, func() error {
				c, err := net.Dial("udp", server.LocalAddr().String())
				if err != nil {
					return err
				}
				defer func() { _ = c.Close() }()
				_, err = c.Write(make([]byte, size))
				return err
			}); err != nil {
				t.Errorf("send %d bytes to %s: %v", size, ip.Addr(), err)
			}
			buffer := make([]byte, 1<<16)
			if got, _, err := server.ReadFrom(buffer); err != nil || got != size {
				t.Errorf("%s got %d of %d bytes: %v", ip.Addr(), got, size, err)
			}
		}
		_ = server.Close()
	}
}

// Without IPv6, by whatever it is off, pods have IPv4 and it is said.
func TestNoIPv6(t *testing.T) {
	check := func(t *testing.T, n *cni.Network, said string) {
		t.Helper()
		r, err := n.Add(t.Context(), cni.Pod{ID: "a", NetNS: podNetNS(t)})
		if err != nil || len(r.IPs) != 1 || r.HostIP6.IsValid() {
			t.Errorf("got %+v, %v; want IPv4 only", r, err)
		}
		if got := n.Addresses(); !strings.Contains(got, said) {
			t.Errorf("said %q, want %q in it", got, said)
		}
	}
	t.Run("by the settings", func(t *testing.T) {
		check(t, openNetwork(t, stateDir(t), use(t, "subnet6 = 'none'")), "IPv6 is switched off in ")
	})
	const knob = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
	t.Run("on the host", func(t *testing.T) {
		set(t, knob, "1")
		check(t, openNetwork(t, stateDir(t), nil), "net.ipv6.conf.all.disable_ipv6 is 1")
	})
	t.Run("in the pod network", func(t *testing.T) {
		dir := stateDir(t)
		if err := openNetwork(t, dir, use(t, "subnet6 = 'none'")).Close(); err != nil {
			t.Fatal(err)
		}
		if err := in(t, filepath.Join(dir, "netns"), func() error { return os.WriteFile(knob, []byte("1"), 0) }); err != nil {
			t.Fatal(err)
		}
		check(t, openNetwork(t, dir, nil), "give the bridge its IPv6 address")
	})
	t.Run("in the kernel", func(t *testing.T) {
		hide(t, "/proc/sys/net/ipv6")
		check(t, openNetwork(t, stateDir(t), nil), "the kernel has none")
	})
}

// set writes a kernel parameter of the host of the tests, until the test ends.
func set(t *testing.T, knob, value string) {
	t.Helper()
	old, err := os.ReadFile(knob)
	if err == nil {
		err = os.WriteFile(knob, []byte(value), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(knob, old, 0); err != nil {
			t.Error(err)
		}
		// With IPv6 went the address of the loopback.
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			_ = netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)}})
		}
	})
}

// hide puts an empty directory over another one, until the test ends.
func hide(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}
