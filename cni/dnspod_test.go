package cni_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"get.podrun.dev/podrun/cni"
)

// resolverAt answers on an address of the host's loopback, over UDP, with what fn
// has for a name; with "" for none.
func resolverAt(t *testing.T, address string, fn func(name string) string) {
	t.Helper()
	packets, err := net.ListenPacket("udp", net.JoinHostPort(address, "53"))
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	server := &dns.Server{PacketConn: packets, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if value := fn(q.Question[0].Name); value == "" {
			m.Rcode = dns.RcodeNameError
		} else if q.Question[0].Qtype == dns.StringToType[strings.Fields(value)[0]] {
			rr, err := dns.NewRR(q.Question[0].Name + " 60 IN " + value)
			if err != nil {
				t.Error(err)
			}
			m.Answer = []dns.RR{rr}
		}
		_ = w.WriteMsg(m)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = server.Shutdown(); <-done })
}

// asked returns the data of the answer that a pod gets for a name, or its code.
func asked(t *testing.T, netns, network, server, name string, kind uint16) string {
	t.Helper()
	var m *dns.Msg
	err := in(t, netns, func() (err error) {
		c := dns.Client{Net: network}
		m, _, err = c.Exchange(new(dns.Msg).SetQuestion(name, kind), net.JoinHostPort(server, "53"))
		return err
	})
	switch {
	case err != nil:
		return err.Error()
	case m.Rcode != dns.RcodeSuccess || len(m.Answer) == 0:
		return dns.RcodeToString[m.Rcode]
	}
	return dns.Field(m.Answer[0], 1)
}

// TestDNSOverIPv6: the node answers at the gateway's IPv6 address too, and asks
// a resolver of the host's by IPv6.
func TestDNSOverIPv6(t *testing.T) {
	dir := stateDir(t)
	resolverAt(t, "::1", func(string) string { return "AAAA 2001:db8::7" })
	conf := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver ::1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := openNetwork(t, dir, func(o *cni.Options) { o.Settings.ResolvConf = conf })
	r, path := podWithPorts(t, n, "a")
	for _, server := range []string{r.Gateway.String(), r.Gateway6.String()} {
		for _, network := range []string{"udp", "tcp"} {
			if got := asked(t, path, network, server, "host.example.org.", dns.TypeAAAA); got != "2001:db8::7" {
				t.Errorf("%s at %s: %s", network, server, got)
			}
		}
	}
}

// TestSplitDNS: with systemd-resolved the host's resolv.conf is a link to a file
// that names its stub, which knows which server is for which domain. Pods see
// what it says, search its domains, and follow when a VPN comes and goes; the
// list of its servers, beside that file, is of no use to them.
func TestSplitDNS(t *testing.T) {
	dir := stateDir(t)
	resolverAt(t, "127.0.0.53", func(name string) string {
		if strings.HasSuffix(name, ".corp.example.") {
			return "A 192.0.2.53" // by the VPN's server
		}
		return "A 192.0.2.1"
	})
	resolverAt(t, "127.0.0.99", func(string) string { return "" }) // knows nothing of the VPN
	run := filepath.Join(dir, "resolve")
	write := func(name, text string) {
		t.Helper()
		// As systemd-resolved does: another file in the place of the one before.
		if err := os.WriteFile(filepath.Join(run, name+".new"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(run, name+".new"), filepath.Join(run, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	write("resolv.conf", "nameserver 127.0.0.99\nsearch home.example\n")
	write("stub-resolv.conf", "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch home.example\n")
	conf := filepath.Join(dir, "resolv.conf")
	if err := os.Symlink("resolve/stub-resolv.conf", conf); err != nil {
		t.Fatal(err)
	}
	n := openNetwork(t, dir, func(o *cni.Options) { o.Settings.ResolvConf = conf })
	r, path := podWithPorts(t, n, "a")
	server := r.DNS.Servers[0]
	for name, want := range map[string]string{"www.example.org.": "192.0.2.1", "wiki.corp.example.": "192.0.2.53"} {
		if got := asked(t, path, "udp", server, name, dns.TypeA); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if got := strings.Join(r.DNS.Searches, " "); got != "home.example" {
		t.Errorf("search path %q", got)
	}
	// A VPN brings a domain: pods that are made from now on search it.
	write("stub-resolv.conf", "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch home.example corp.example\n")
	r, _ = podWithPorts(t, n, "b")
	if got := strings.Join(r.DNS.Searches, " "); got != "home.example corp.example" {
		t.Errorf("with a VPN, search path %q", got)
	}
}
