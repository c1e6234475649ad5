package cni_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"get.podrun.dev/podrun/cni"
)

// peers says over TCP and UDP by which address it sees who asks, in a namespace.
func peers(t *testing.T, path, address string) {
	t.Helper()
	err := in(t, path, func() error {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		p, err := net.ListenPacket("udp", address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close(); _ = p.Close() })
		go acceptAll(l, func(c net.Conn) {
			defer func() { _ = c.Close() }()
			_, _ = fmt.Fprintln(c, c.RemoteAddr())
			_, _ = io.Copy(c, c)
		})
		go func() {
			b := make([]byte, 64<<10)
			for {
				n, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = p.WriteTo(append(fmt.Appendln(nil, from), b[:n]...), from)
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// seenBy returns the address by which the server behind a port sees us, and our
// own.
func seenBy(network, address string) (seen, own string, err error) {
	c, err := net.DialTimeout(network, address, 5*time.Second)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if strings.HasPrefix(network, "udp") {
		if _, err := io.WriteString(c, "hello\n"); err != nil {
			return "", "", err
		}
	}
	seen, err = bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(seen), c.LocalAddr().String(), err
}

// neighbour makes a namespace on a link with the host of these tests: a machine
// beside it.
func neighbour(t *testing.T) (path string) {
	t.Helper()
	path = podNetNS(t)
	other, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "lan0"}, PeerName: "lan1", PeerNamespace: netlink.NsFd(other),
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netlink.LinkAdd(veth))
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	setUp := func(name string, addresses ...string) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range addresses {
			address, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			address.Flags = syscall.IFA_F_NODAD
			if err := netlink.AddrAdd(link, address); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	}
	must(setUp("lan0", "198.51.100.1/24", "198.51.100.9/24", "2001:db8::1/64", "fe80::9/64"))
	must(in(t, path, func() error {
		return setUp("lan1", "198.51.100.2/24", "198.51.100.3/24", "2001:db8::2/64", "fe80::2/64")
	}))
	return path
}

// target is a pod of the test as host ports have it.
func target(r *cni.Result, path string) cni.Target {
	t := cni.Target{NetNS: func() (*os.File, error) { return os.Open(path) }}
	for _, ip := range r.IPs {
		t.IPs = append(t.IPs, ip.Addr())
	}
	return t
}

// openPorts opens host ports that lead to a pod until the test ends.
func openPorts(t *testing.T, n *cni.Network, id string, to cni.Target, ports ...cni.HostPort) *cni.HostPorts {
	t.Helper()
	h, err := n.OpenHostPorts(id, ports)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close(); n.ReleaseHostPorts(id, ports) })
	if err := h.Serve(to); err != nil {
		t.Fatal(err)
	}
	return h
}

func podWithPorts(t *testing.T, n *cni.Network, id string) (r *cni.Result, path string) {
	t.Helper()
	path = podNetNS(t)
	r, err := n.Add(t.Context(), cni.Pod{ID: id, NetNS: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Del(t.Context(), cni.Pod{ID: id}) })
	return r, path
}

// TestHostPortClients: the pod sees who the client is, from wherever it comes,
// and all of the host's addresses lead to it.
func TestHostPortClients(t *testing.T) {
	n := openNetwork(t, stateDir(t), nil)
	lan := neighbour(t)
	r, path := podWithPorts(t, n, "a")
	peers(t, path, ":80")
	openPorts(t, n, "a", target(r, path),
		cni.HostPort{Protocol: "tcp", Port: 8080, PodPort: 80}, cni.HostPort{Protocol: "udp", Port: 8080, PodPort: 80})
	has6 := len(r.IPs) > 1
	host, host6 := r.HostIP.String(), r.HostIP.String()
	if has6 {
		host6 = r.HostIP6.String()
	}
	for _, tt := range []struct {
		name, from, to string
		want           string // "" for the client's own address
	}{
		{"a machine beside it", lan, "198.51.100.1:8080", ""},
		{"another address of the host", lan, "198.51.100.9:8080", ""},
		{"the host by its own address", "", "198.51.100.1:8080", ""},
		{"the host's loopback", "", "127.0.0.1:8080", host},
		{"another loopback address", "", "127.0.0.2:8080", host},
		{"IPv6", lan, "[2001:db8::1]:8080", map[bool]string{true: "", false: host}[has6]},
		{"IPv6 of the link", lan, "[fe80::9%lan1]:8080", host6},
		{"IPv6 loopback", "", "[::1]:8080", host6},
	} {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(tt.name+" "+network, func(t *testing.T) {
				var seen, own string
				ask := func() (err error) {
					seen, own, err = seenBy(network, tt.to)
					return err
				}
				err := error(nil)
				if tt.from == "" {
					err = ask()
				} else {
					err = in(t, tt.from, ask)
				}
				if err != nil {
					t.Fatal(err)
				}
				want := own
				if tt.want != "" {
					_, port, _ := net.SplitHostPort(own)
					want = net.JoinHostPort(tt.want, port)
				}
				if seen != want {
					t.Errorf("the pod sees %s, want %s", seen, want)
				}
			})
		}
	}
}

// TestHostPortLoopbackServer: a server that listens on the pod's loopback only
// is reached too, and where none listens the connection is reset.
func TestHostPortLoopbackServer(t *testing.T) {
	n := openNetwork(t, stateDir(t), nil)
	r, path := podWithPorts(t, n, "a")
	peers(t, path, "127.0.0.1:80")
	openPorts(t, n, "a", target(r, path),
		cni.HostPort{Protocol: "tcp", Port: 8080, PodPort: 80}, cni.HostPort{Protocol: "udp", Port: 8080, PodPort: 80},
		cni.HostPort{Protocol: "tcp", Port: 8081, PodPort: 81})
	for _, network := range []string{"tcp4", "udp4"} {
		seen, _, err := seenBy(network, "127.0.0.1:8080")
		if err != nil || !strings.HasPrefix(seen, "127.0.0.1:") {
			t.Errorf("%s: %q, %v", network, seen, err)
		}
	}
	if _, _, err := seenBy("tcp4", "127.0.0.1:8081"); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("where nothing listens: %v, want ECONNRESET", err)
	}
}

// TestHostPortEnds: half-close and reset go through, both ways.
func TestHostPortEnds(t *testing.T) {
	n := openNetwork(t, stateDir(t), nil)
	r, path := podWithPorts(t, n, "a")
	serve(t, path, "0.0.0.0:80", "the rest")
	openPorts(t, n, "a", target(r, path), cni.HostPort{Protocol: "tcp", Port: 8080, PodPort: 80}, cni.HostPort{Protocol: "tcp", Port: 8081, PodPort: 81})
	if got, err := ask(t, "/proc/thread-self/ns/net", "127.0.0.1:8080"); err != nil || got != "the rest" {
		t.Errorf("half-close: %q, %v", got, err)
	}

	accepted := make(chan *net.TCPConn, 1)
	err := in(t, path, func() error {
		l, err := net.Listen("tcp4", ":81")
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go acceptAll(l, func(c net.Conn) { accepted <- c.(*net.TCPConn) })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, side := range []string{"client", "server"} {
		c, err := net.Dial("tcp4", "127.0.0.1:8081")
		if err != nil {
			t.Fatal(err)
		}
		broken, other := c.(*net.TCPConn), <-accepted
		if side == "server" {
			broken, other = other, broken
		}
		_ = broken.SetLinger(0)
		_ = broken.Close()
		_ = other.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := other.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("reset by the %s: %v, want ECONNRESET", side, err)
		}
		_ = other.Close()
	}
}

// shelf keeps descriptors as the reaper does.
type shelf struct {
	mu    sync.Mutex
	files map[string]int
}

func (s *shelf) options(o *cni.Options) {
	s.files = map[string]int{}
	o.Keep = func(key string, f *os.File) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		fd, err := syscall.Dup(int(f.Fd()))
		s.files[key] = fd
		return err
	}
	o.Kept = func(key string) (*os.File, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		fd, ok := s.files[key]
		if !ok {
			return nil, false
		}
		copied, err := syscall.Dup(fd)
		return os.NewFile(uintptr(copied), key), err == nil
	}
	o.Drop = func(key string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if fd, ok := s.files[key]; ok {
			_ = syscall.Close(fd)
			delete(s.files, key)
		}
	}
}

// TestHostPortsKept: between two nodes clients wait instead of being refused,
// and released ports are free at once.
func TestHostPortsKept(t *testing.T) {
	var kept shelf
	n := openNetwork(t, stateDir(t), kept.options)
	r, path := podWithPorts(t, n, "a")
	peers(t, path, ":80")
	ports := []cni.HostPort{{Protocol: "tcp", Port: 8080, PodPort: 80}, {Protocol: "udp", Port: 8080, PodPort: 80}}
	h := openPorts(t, n, "a", target(r, path), ports...)
	if _, _, err := seenBy("tcp", "127.0.0.1:8080"); err != nil {
		t.Fatal(err)
	}
	h.Close()
	var waiting sync.WaitGroup
	for _, network := range []string{"tcp", "udp"} {
		waiting.Go(func() {
			if _, _, err := seenBy(network, "127.0.0.1:8080"); err != nil {
				t.Errorf("%s, asked between two nodes: %v", network, err)
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	h = openPorts(t, n, "a", target(r, path), ports...)
	waiting.Wait()
	h.Close()
	n.ReleaseHostPorts("a", ports)
	if len(kept.files) != 0 {
		t.Errorf("still kept: %v", kept.files)
	}
	if _, _, err := seenBy("tcp", "127.0.0.1:8080"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a released port: %v, want ECONNREFUSED", err)
	}
}

// TestHostPortRefusedBeforeServe: a port is taken, and not open, until there is
// a pod to go to.
func TestHostPortRefusedBeforeServe(t *testing.T) {
	n := openNetwork(t, stateDir(t), nil)
	h, err := n.OpenHostPorts("a", []cni.HostPort{{Protocol: "tcp", Port: 8080, PodPort: 80}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, _, err := seenBy("tcp4", "127.0.0.1:8080"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v, want ECONNREFUSED", err)
	}
}

func TestHostPortTaken(t *testing.T) {
	n := openNetwork(t, stateDir(t), nil)
	l, err := net.Listen("tcp4", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	p, err := net.ListenPacket("udp4", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		ports []cni.HostPort
		want  string
	}{
		{[]cni.HostPort{{Protocol: "tcp", Port: 8080}}, fmt.Sprintf("host port 8080/TCP is in use by %s (pid %d)", strings.TrimSpace(string(comm)), os.Getpid())},
		{[]cni.HostPort{{Protocol: "udp", Port: 8080}}, fmt.Sprintf("host port 8080/UDP is in use by %s (pid %d)", strings.TrimSpace(string(comm)), os.Getpid())},
		{[]cni.HostPort{{Protocol: "tcp", Port: 8081, HostIP: netip.MustParseAddr("192.0.2.77")}}, "host port 192.0.2.77:8081/TCP: the host has no address 192.0.2.77"},
		{[]cni.HostPort{{Protocol: "tcp", Port: 8081, PodPort: 1}, {Protocol: "tcp", Port: 8081, PodPort: 2, HostIP: netip.MustParseAddr("127.0.0.1")}},
			"host port 127.0.0.1:8081/TCP is asked for twice by the same pod"},
		{[]cni.HostPort{{Protocol: "tcp", Port: 8080, HostIP: netip.MustParseAddr("127.0.0.2")}}, ""},
	} {
		before := descriptors(t)
		h, err := n.OpenHostPorts("a", tt.ports)
		if tt.want == "" {
			if err != nil {
				t.Error(err)
				continue
			}
			h.Close()
		} else if err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
		if after := descriptors(t); after > before {
			t.Errorf("%v: %d descriptors, were %d", tt.ports, after, before)
		}
	}
}

func TestHostPortOverlaps(t *testing.T) {
	port := func(s string) cni.HostPort {
		address, protocol, _ := strings.Cut(s, "/")
		if ap, err := netip.ParseAddrPort(address); err == nil {
			return cni.HostPort{Protocol: protocol, HostIP: ap.Addr(), Port: ap.Port()}
		}
		return cni.HostPort{Protocol: protocol, Port: netip.MustParseAddrPort("0.0.0.0:" + address).Port()}
	}
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"80/tcp", "80/tcp", true},
		{"80/tcp", "81/tcp", false},
		{"80/tcp", "80/udp", false},
		{"80/tcp", "127.0.0.1:80/tcp", true},
		{"80/tcp", "[::1]:80/tcp", true},
		{"0.0.0.0:80/tcp", "[::1]:80/tcp", false},
		{"0.0.0.0:80/tcp", "10.0.0.1:80/tcp", true},
		{"[::]:80/tcp", "10.0.0.1:80/tcp", false},
		{"127.0.0.1:80/tcp", "127.0.0.2:80/tcp", false},
		{"127.0.0.1:80/tcp", "127.0.0.1:80/tcp", true},
	} {
		if got := port(tt.a).Overlaps(port(tt.b)); got != tt.want {
			t.Errorf("%s and %s: %v", tt.a, tt.b, got)
		}
		if got := port(tt.b).Overlaps(port(tt.a)); got != tt.want {
			t.Errorf("%s and %s: %v", tt.b, tt.a, got)
		}
	}
}
