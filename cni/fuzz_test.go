package cni

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

// answering is a plugin that answers with these bytes.
type answering struct {
	data []byte
	version.PluginDecoder
}

func (a *answering) ExecPlugin(context.Context, string, []byte, []string) ([]byte, error) {
	return a.data, nil
}
func (*answering) FindInPath(plugin string, _ []string) (string, error) { return plugin, nil }

// What of a plugin's answer gets to a pod is addresses.
func FuzzPluginResult(f *testing.F) {
	for _, s := range []string{
		``, `{}`, `null`, `{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24","gateway":"10.1.2.1"}],"dns":{"nameservers":["10.1.2.1"]}}`,
		`{"cniVersion":"1.0.0","ips":[{"address":"::ffff:10.1.2.3/120"},{"address":"fd00::3/64","gateway":"fd00::1"}]}`,
		`{"cniVersion":"0.2.0","ip4":{"ip":"10.1.2.3/24","gateway":"10.1.2.1","routes":[{"dst":"0.0.0.0/0"}]},"ip6":{"ip":"fd00::3/64"}}`,
		`{"cniVersion":"0.4.0","interfaces":[{"name":"eth0"}],"ips":[{"version":"4","interface":7,"address":"10.1.2.3/24"}]}`,
		`{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/99"}]}`, `{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3"}]}`, `{"cniVersion":"9.9.9","ips":[{}]}`,
	} {
		for _, v := range []string{"0.2.0", "0.4.0", "1.0.0", "1.1.0"} {
			f.Add(v, []byte(s))
		}
	}
	n := &Network{log: slog.New(slog.DiscardHandler)}
	f.Fuzz(func(t *testing.T, cniVersion string, data []byte) {
		conf, err := json.Marshal(map[string]string{"cniVersion": cniVersion, "name": "x", "type": "y"})
		if err != nil {
			t.Fatal(err)
		}
		answer, err := invoke.ExecPluginWithResult(t.Context(), "y", conf, &invoke.Args{}, &answering{data: data})
		if err != nil || answer == nil {
			return
		}
		r, err := n.result("x", answer, false)
		if err != nil {
			return
		}
		if len(r.IPs) == 0 {
			t.Error("accepted without an address")
		}
		for _, ip := range r.IPs {
			if !ip.IsValid() || ip.Addr().Is4In6() || ip.Addr().Zone() != "" {
				t.Errorf("accepted the address %v", ip)
			}
		}
		if r.Gateway.IsValid() && !r.Gateway.Is4() || r.Gateway6.IsValid() && !r.Gateway6.Is6() {
			t.Errorf("accepted the gateways %v, %v", r.Gateway, r.Gateway6)
		}
	})
}

// Whatever a pod sends, what is answered to it is an IP packet.
func FuzzPacket(f *testing.F) {
	v4, v6 := netip.MustParseAddr("10.88.0.5"), netip.MustParseAddr("fd00::5")
	for _, to := range []netip.Addr{v4, v6} {
		for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6} {
			whole, _ := build(make([]byte, vnetHeader+maxPacket), to, to, protocol, tcpHeader+3)
			f.Add(whole)
			f.Add(whole[:len(whole)-2])
		}
	}
	// One that is all extension headers but for the end of it.
	const extensions = 4096
	whole, rest := build(make([]byte, vnetHeader+maxPacket), v6, v6, unix.IPPROTO_HOPOPTS, extensions)
	for i := 0; i < extensions; i += 8 {
		rest[i] = unix.IPPROTO_DSTOPTS
	}
	rest[extensions-16] = unix.IPPROTO_UDP
	f.Add(whole)
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, ok := parsePacket(raw)
		if !ok {
			return
		}
		check := func(what string, answer []byte) {
			t.Helper()
			again, ok := parsePacket(answer)
			if !ok || again.to != p.from || len(answer) > vnetHeader+maxPacket {
				t.Errorf("%s: %d bytes to %v, an IP packet: %v; want one to %v", what, len(answer), again.to, ok, p.from)
			}
			if again.to.Is6() && len(answer) > vnetHeader+1280 {
				t.Errorf("%s has %d bytes, more than every link takes (RFC 4443 2.4)", what, len(answer)-vnetHeader)
			}
		}
		switch {
		case p.protocol == unix.IPPROTO_TCP && len(p.transport) >= tcpHeader:
			check("reset", reset(p))
			check("stray", resetStray(p))
			check("unreachable", unreachable(p.to, unix.EHOSTUNREACH).about(p.head()))
		case p.protocol == unix.IPPROTO_UDP && len(p.transport) >= udpHeader:
			from, to := p.ports()
			if from.Addr() != p.from || to.Addr() != p.to {
				t.Errorf("ports of %v and %v are of %v and %v", p.from, p.to, from, to)
			}
			check("unreachable", unreachable(p.to, unix.ENETUNREACH).about(p.head()))
		case isEchoRequest(p):
			own := (&ping{raw: true, id: 7}).request(p.transport)
			if len(own) != len(p.transport) {
				t.Errorf("a request of %d bytes becomes one of %d", len(p.transport), len(own))
			}
			check("unreachable", unreachable(p.to, unix.EHOSTUNREACH).about(p.head()))
		}
	})
}

// A file that says nothing, or nonsense, leaves resolv.conf(5)'s limits kept.
func FuzzResolvConf(f *testing.F) {
	for _, s := range []string{
		"nameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch a.example. b.\noptions ndots:5 timeout:9999 attempts:-1 rotate\n",
		"domain .\n", "options\nnameserver", "nameserver ::ffff:192.0.2.1\noptions timeout:x use-vc edns0 no-tld-query\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r := parseResolvConf(text)
		if len(r.servers) > maxResolvers || r.timeout <= 0 || r.timeout > maxTimeout || r.attempts < 1 || r.attempts > maxAttempts {
			t.Errorf("got %+v", r)
		}
		if len(r.ask()) == 0 {
			t.Error("nobody to ask")
		}
		for _, word := range append(r.dns().Searches, r.dns().Options...) {
			if strings.ContainsAny(word, " \t\n") {
				t.Errorf("%q would be more than a word in a pod's file", word)
			}
		}
	})
}

// network.toml: what is accepted can be used.
func FuzzSettings(f *testing.F) {
	for _, s := range []string{
		"subnet = \"10.1.0.0/16\"\nsubnet6 = \"fd12:3456::/64\"\ncluster-domain = \"x.\"\nresolv-conf = \"/r\"\nhost-loopback = false\nuser-mode-tcp = true\n",
		"subnet6 = \"none\"", "subnet = 1", "[a]", "a = 1", "subnet = \"10.1.0.0/32\"", "subnet = \"::/0\"",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parseSettings(text)
		if err != nil {
			return
		}
		if s.Subnet.IsValid() && !s.Subnet.Addr().Is4() || s.Subnet6.IsValid() && !s.Subnet6.Addr().Is6() || s.NoIPv6 && s.Subnet6.IsValid() || !isDomain(s.ClusterDomain) {
			t.Errorf("accepted %+v", s)
		}
	})
}
