package cni_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/cni"
)

func TestPodsReachEachOther(t *testing.T) {
	n := openNetwork(t, stateDir(t), nil)
	a, b := cni.Pod{ID: "a", NetNS: podNetNS(t)}, cni.Pod{ID: "b", NetNS: podNetNS(t)}
	ipA, ipB := add(t, n, a), add(t, n, b)
	if ipA == ipB {
		t.Fatalf("both pods have %s", ipA)
	}
	serve(t, b.NetNS, "0.0.0.0:80", "from b")
	if got, err := ask(t, a.NetNS, ipB.String()+":80"); err != nil || got != "from b" {
		t.Errorf("a to b: %q, %v", got, err)
	}
	if got, err := ask(t, b.NetNS, "127.0.0.1:80"); err != nil || got != "from b" {
		t.Errorf("b to itself: %q, %v", got, err)
	}
	if _, err := ask(t, a.NetNS, "127.0.0.1:80"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a's own localhost has b's server: %v", err)
	}
	c, err := n.Dial(t.Context(), "tcp", ipB.String()+":80")
	if err != nil {
		t.Fatalf("the node to b: %v", err)
	}
	_ = c.Close()
}

func TestUplink(t *testing.T) {
	n := openNetwork(t, stateDir(t), nil)
	p := cni.Pod{ID: "a", NetNS: podNetNS(t)}
	r, err := n.Add(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	server := serve(t, "", "127.0.0.1:0", "from the host")
	port := server.(*net.TCPAddr).Port

	t.Run("TCP, half-closed", func(t *testing.T) {
		got, err := ask(t, p.NetNS, at(r.HostIP, port))
		if err != nil || got != "from the host" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("refused is refused", func(t *testing.T) {
		began := time.Now()
		_, err := ask(t, p.NetNS, r.HostIP.String()+":1")
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(began) > 2*time.Second {
			t.Errorf("%v after %s, want ECONNREFUSED at once", err, time.Since(began))
		}
	})
	t.Run("nothing listens on the gateway", func(t *testing.T) {
		if _, err := ask(t, p.NetNS, at(r.Gateway, port)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v, want ECONNREFUSED", err)
		}
	})
	t.Run("UDP", func(t *testing.T) {
		echo, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = echo.Close() }()
		go func() {
			buf := make([]byte, 1500)
			for {
				n, from, err := echo.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = echo.WriteTo(buf[:n], from)
			}
		}()
		err = in(t, p.NetNS, func() error {
			c, err := net.Dial("udp4", at(r.HostIP, echo.LocalAddr().(*net.UDPAddr).Port))
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Write([]byte("hello")); err != nil {
				return err
			}
			buf := make([]byte, 10)
			k, err := c.Read(buf)
			if string(buf[:k]) != "hello" {
				t.Errorf("echo %q", buf[:k])
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		var wait sync.WaitGroup
		for range 50 {
			wait.Go(func() {
				if got, err := ask(t, p.NetNS, at(r.HostIP, port)); err != nil || got != "from the host" {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
		wait.Wait()
	})
}

func TestDNS(t *testing.T) {
	dir := stateDir(t)
	// The host's resolver, on the host's loopback.
	packets, err := net.ListenPacket("udp4", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	upstream := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		rr, err := dns.NewRR(q.Question[0].Name + " 60 IN A 192.0.2.7")
		if err != nil {
			t.Error(err)
		}
		m.Answer = []dns.RR{rr}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = upstream.ActivateAndServe() }()
	t.Cleanup(func() { _ = upstream.Shutdown() })
	conf := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(conf, []byte("search example.org\nnameserver 127.0.0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := openNetwork(t, dir, func(o *cni.Options) { o.Settings.ResolvConf = conf })
	p := cni.Pod{ID: "a", NetNS: podNetNS(t)}
	r, err := n.Add(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.DNS.Servers) != 1 || len(r.DNS.Searches) != 1 || r.DNS.Searches[0] != "example.org" {
		t.Fatalf("DNS = %+v", r.DNS)
	}
	query := func() (*dns.Msg, error) {
		var answer *dns.Msg
		err := in(t, p.NetNS, func() (err error) {
			answer, err = dns.Exchange(new(dns.Msg).SetQuestion("host.example.org.", dns.TypeA), r.DNS.Servers[0]+":53")
			return err
		})
		return answer, err
	}
	if m, err := query(); err != nil || len(m.Answer) != 1 || !strings.Contains(m.Answer[0].String(), "192.0.2.7") {
		t.Errorf("answer %v, %v", m, err)
	}
	// The host's resolvers change: the next query goes to the new ones.
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.77\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := query(); err != nil || m.Rcode != dns.RcodeServerFailure {
		t.Errorf("without a resolver: %v, %v; want SERVFAIL", m, err)
	}
}

// The bridge's hardware address stays while ports come and go: pods that have
// asked the node ask it again without a delay.
func TestBridgeStaysWhereItIs(t *testing.T) {
	n := openNetwork(t, stateDir(t), func(o *cni.Options) { o.Uplink = false })
	var pods []cni.Pod
	var server string
	asks := func(p cni.Pod) error {
		return in(t, p.NetNS, func() error {
			client := dns.Client{Timeout: time.Second}
			_, _, err := client.Exchange(new(dns.Msg).SetQuestion("localhost.", dns.TypeA), server)
			return err
		})
	}
	for i := range 8 {
		p := cni.Pod{ID: fmt.Sprint(i), NetNS: podNetNS(t)}
		r, err := n.Add(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		server = net.JoinHostPort(r.DNS.Servers[0], "53")
		pods = append(pods, p)
		// A port of the bridge forwards a moment after it was made.
		for err = asks(p); err != nil; err = asks(p) {
			t.Log(err)
		}
	}
	for len(pods) > 1 {
		if err := n.Del(t.Context(), pods[0]); err != nil {
			t.Fatal(err)
		}
		pods = pods[1:]
		for _, p := range pods {
			if err := asks(p); err != nil {
				t.Errorf("pod %s after another has gone: %v", p.ID, err)
			}
		}
	}
}

func TestAddresses(t *testing.T) {
	dir := stateDir(t)
	n := openNetwork(t, dir, nil)
	a := cni.Pod{ID: "a", NetNS: podNetNS(t)}
	ip := add(t, n, a)
	if again := add(t, n, a); again != ip {
		t.Errorf("a second Add gives %s, the first gave %s", again, ip)
	}
	if err := n.Del(t.Context(), cni.Pod{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	if err := n.Del(t.Context(), cni.Pod{ID: "a"}); err != nil {
		t.Errorf("a second Del: %v", err)
	}
	if left := addressFiles(t, dir); len(left) != 0 {
		t.Errorf("addresses left after Del: %v", left)
	}
	b := cni.Pod{ID: "b", NetNS: podNetNS(t), RequestIP: ip}
	if got := add(t, n, b); got != ip {
		t.Errorf("asked for %s, got %s", ip, got)
	}
	c := cni.Pod{ID: "c", NetNS: podNetNS(t), RequestIP: ip}
	if got := add(t, n, c); got == ip {
		t.Errorf("%s was given twice", ip)
	}

	var mu sync.Mutex
	var wait sync.WaitGroup
	given := map[netip.Addr]string{}
	for i := range 20 {
		p := cni.Pod{ID: fmt.Sprintf("p%d", i), NetNS: podNetNS(t)}
		wait.Go(func() {
			r, err := n.Add(t.Context(), p)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if other, twice := given[r.IPs[0].Addr()]; twice {
				t.Errorf("%s was given to %s and %s", r.IPs[0].Addr(), other, p.ID)
			}
			given[r.IPs[0].Addr()] = p.ID
		})
	}
	wait.Wait()
	if err := n.Sweep(t.Context(), map[string]bool{"b": true}); err != nil {
		t.Fatal(err)
	}
	if left := addressFiles(t, dir); len(left) != 1 || left[0] != ip.String() {
		t.Errorf("addresses after a sweep that keeps b: %v, want %s", left, ip)
	}
}

// addressFiles returns the addresses that host-local has as given.
func addressFiles(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "cni", "addresses", "podrun"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err == nil {
			out = append(out, e.Name())
		}
	}
	return out
}

func TestFailedAddLeavesNothing(t *testing.T) {
	dir := stateDir(t)
	n := openNetwork(t, dir, nil)
	if _, err := n.Add(t.Context(), cni.Pod{ID: "a", NetNS: "/proc/self/ns/nosuch"}); err == nil {
		t.Fatal("Add to a namespace that is not there succeeded")
	}
	if left := addressFiles(t, dir); len(left) != 0 {
		t.Errorf("addresses left: %v", left)
	}
	// A namespace that has an eth0 already: the veth pair cannot be made.
	p := cni.Pod{ID: "b", NetNS: podNetNS(t)}
	add(t, n, p)
	if _, err := n.Add(t.Context(), cni.Pod{ID: "c", NetNS: p.NetNS}); err == nil {
		t.Fatal("a second eth0 in one namespace")
	}
	if left := addressFiles(t, dir); len(left) != 1 {
		t.Errorf("addresses left: %v, want b's only", left)
	}
}

// A pod network outlives the process that made it, kill -9 included: the pods
// keep their addresses, and the next process gives them the way out again.
func TestReopen(t *testing.T) {
	dir := stateDir(t)
	server := serve(t, "", "127.0.0.1:0", "from the host")
	port := server.(*net.TCPAddr).Port
	p := cni.Pod{ID: "a", NetNS: podNetNS(t)}
	first := openNetwork(t, dir, nil)
	ip := add(t, first, p)
	if err := first.Close(); err != nil { // what the kernel does when a process is killed
		t.Fatal(err)
	}
	second := openNetwork(t, dir, nil)
	r, err := second.Add(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if r.IPs[0].Addr() != ip {
		t.Errorf("the pod's address was %s and is %s", ip, r.IPs[0].Addr())
	}
	if got, err := ask(t, p.NetNS, at(r.HostIP, port)); err != nil || got != "from the host" {
		t.Errorf("to the host: %q, %v", got, err)
	}
	q := cni.Pod{ID: "b", NetNS: podNetNS(t)}
	if got := add(t, second, q); got == ip {
		t.Errorf("%s was given twice", ip)
	}
}

func TestNoTUN(t *testing.T) {
	if err := unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount("/dev/net", unix.MNT_DETACH) }()
	n, err := cni.Open(t.Context(), cni.Options{StateDir: stateDir(t), Uplink: true})
	if err != nil {
		t.Fatalf("without /dev/net/tun there is no network at all: %v", err)
	}
	defer func() { _ = n.Close() }()
	if p := n.Problems(); len(p) != 1 || p[0].Mend == "" {
		t.Errorf("problems %+v, want one with a mend", p)
	}
	a, b := cni.Pod{ID: "a", NetNS: podNetNS(t)}, cni.Pod{ID: "b", NetNS: podNetNS(t)}
	add(t, n, a)
	ip := add(t, n, b)
	serve(t, b.NetNS, "0.0.0.0:80", "from b")
	if got, err := ask(t, a.NetNS, ip.String()+":80"); err != nil || got != "from b" {
		t.Errorf("a to b: %q, %v", got, err)
	}
}

func FuzzParseConflist(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"bridge"}]}`))
	f.Add([]byte(`{"name":"x","plugins":[]}`))
	f.Add([]byte(`{"cniVersion":"0.3.1","name":"x","plugins":[{"type":""},{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := cni.ParseConflist(data)
		if err == nil && (list == nil || len(list.Plugins) == 0) {
			t.Error("a list without plugins was accepted")
		}
		if err == nil {
			if _, again := cni.ParseConflist(list.Bytes); again != nil {
				t.Errorf("its own bytes are no list: %v", again)
			}
		}
	})
}
