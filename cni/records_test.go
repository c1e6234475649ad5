package cni

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// testRecords are those of a node with four pods.
func testRecords() *records {
	r := newRecords(DefaultClusterDomain, addrs("10.88.255.253", "fd12::fffd"), addrs("10.88.0.1", "fd12::1"), addrs("10.88.255.254"),
		netip.MustParsePrefix("10.88.0.0/16"), netip.MustParsePrefix("fd12::/64"), netip.Prefix{})
	r.publish("web", Names{Namespace: "default", Name: "web", Hostname: "web", Addrs: addrs("10.88.0.5", "fd12::5")})
	r.publish("db", Names{Namespace: "default", Name: "db", Hostname: "Db-1", Subdomain: "dbs", Addrs: addrs("10.88.0.6", "fd12::6")})
	r.publish("dbs", Names{Namespace: "default", Name: "dbs", Hostname: "dbs", Addrs: addrs("10.88.0.8")})
	r.publish("other", Names{Namespace: "other", Name: "web", Hostname: "web", Addrs: addrs("10.88.0.7")})
	r.publish("net", Names{Namespace: "default", Name: "net", Hostname: "net", Host: true, Addrs: addrs("192.0.2.1", "127.0.0.1")})
	r.publish("foreign", Names{Namespace: "default", Name: "foreign", Hostname: "foreign", Addrs: addrs("203.0.113.9")})
	return r
}

// data are the values of records, in order.
func data(rrs []dns.RR) string {
	var out []string
	for _, rr := range rrs {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestRecords(t *testing.T) {
	r := testRecords()
	const none = "NXDOMAIN"
	for _, c := range []struct{ name, kind, want string }{
		// Of a pod.
		{"web.default.pod.cluster.local.", "A", "10.88.0.5"},
		{"web.default.pod.cluster.local.", "AAAA", "fd12::5"},
		{"WEB.Default.pod.Cluster.LOCAL.", "A", "10.88.0.5"},
		{"web.default.svc.cluster.local.", "A", "10.88.0.5"},
		{"web.default.pod.", "A", "10.88.0.5"},
		{"web.other.svc.cluster.local.", "A", "10.88.0.7"},
		{"10-88-0-5.default.pod.cluster.local.", "A", "10.88.0.5"},
		{"fd12--5.default.pod.cluster.local.", "AAAA", "fd12::5"},
		{"10-88-0-5.other.pod.cluster.local.", "A", none},
		// Nothing of that type, and nothing at all.
		{"web.other.pod.cluster.local.", "AAAA", ""},
		{"web.default.pod.cluster.local.", "MX", ""},
		{"web.default.pod.cluster.local.", "TYPE65280", ""},
		{"web.default.pod.cluster.local.", "ANY", "10.88.0.5 fd12::5"},
		{"default.pod.cluster.local.", "A", ""},
		{"pod.cluster.local.", "A", ""},
		{"no.default.pod.cluster.local.", "A", none},
		{"a.web.default.pod.cluster.local.", "A", none},
		{"web.no.svc.cluster.local.", "A", none},
		{"web.default.cluster.local.", "A", none},
		{"web.default.svc.", "A", "10.88.0.5"},
		{"web.default.svc.", "AAAA", ""},
		{"web.default.pod.", "AAAA", "fd12::5"},
		{"other.pod.", "A", ""},
		// With a subdomain, as behind a headless Service.
		{"db-1.dbs.default.svc.cluster.local.", "A", "10.88.0.6"},
		{"10-88-0-6.dbs.default.svc.cluster.local.", "A", "10.88.0.6"},
		{"dbs.default.svc.cluster.local.", "A", "10.88.0.6"},
		{"dbs.default.svc.cluster.local.", "AAAA", ""},
		{"db-1.dbs.default.svc.cluster.local.", "AAAA", ""},
		{"dbs.default.pod.cluster.local.", "A", "10.88.0.8"},
		{"db.default.svc.cluster.local.", "A", "10.88.0.6"},
		// In the host's network.
		{"net.default.pod.cluster.local.", "A", "10.88.255.253 192.0.2.1"},
		// Addresses.
		{"5.0.88.10.in-addr.arpa.", "PTR", "web.default.pod.cluster.local."},
		{"6.0.88.10.in-addr.arpa.", "PTR", "Db-1.dbs.default.svc.cluster.local."},
		{"5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.1.d.f.ip6.arpa.", "PTR", "web.default.pod.cluster.local."},
		{"9.113.0.203.in-addr.arpa.", "PTR", "foreign.default.pod.cluster.local."},
		{"5.0.88.10.in-addr.arpa.", "A", ""},
		{"0.88.10.in-addr.arpa.", "PTR", ""},
		{"99.0.88.10.in-addr.arpa.", "PTR", none},
		{"253.255.88.10.in-addr.arpa.", "PTR", "host.podrun.internal."},
		{"1.0.88.10.in-addr.arpa.", "PTR", "gateway.podrun.internal."},
		// The host.
		{"host.podrun.internal.", "A", "10.88.255.253"},
		{"host.docker.internal.", "AAAA", "fd12::fffd"},
		{"host.containers.internal.", "A", "10.88.255.253"},
		{"gateway.docker.internal.", "A", "10.88.0.1"},
		{"other.docker.internal.", "A", none},
		{"localhost.", "A", "127.0.0.1"},
		{"localhost.", "AAAA", "::1"},
		{"x.invalid.", "A", none},
		// The zone itself.
		{"cluster.local.", "NS", "ns.dns.cluster.local."},
		{"ns.dns.cluster.local.", "A", "10.88.255.254"},
		{"cluster.local.", "SOA", "ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 1"},
		// Not ours.
		{"1.2.0.192.in-addr.arpa.", "PTR", "forwarded"},
		{"0.89.10.in-addr.arpa.", "PTR", "forwarded"},
		{"local.", "A", "forwarded"},
		{"xcluster.local.", "A", "forwarded"},
		{"internal.", "A", "forwarded"},
		{".", "NS", "forwarded"},
	} {
		t.Run(c.name+" "+c.kind, func(t *testing.T) {
			kind, known := dns.StringToType[c.kind]
			if !known {
				kind = 65280
			}
			reply := new(dns.Msg).SetQuestion(c.name, kind)
			ours := r.answer(reply, reply.Question[0])
			got := data(reply.Answer)
			switch {
			case !ours:
				got = "forwarded"
			case reply.Rcode != dns.RcodeSuccess:
				got = dns.RcodeToString[reply.Rcode]
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if !ours {
				return
			}
			if !reply.Authoritative {
				t.Error("not authoritative")
			}
			// RFC 2308: what says there is none says for how long.
			if negative := len(reply.Answer) == 0; negative != (len(reply.Ns) == 1) || negative && (reply.Ns[0].Header().Rrtype != dns.TypeSOA || !dns.IsSubDomain(reply.Ns[0].Header().Name, c.name)) {
				t.Errorf("authority %v", reply.Ns)
			}
			if _, err := reply.Pack(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRecordsFollowPods(t *testing.T) {
	r := testRecords()
	ask := func(name string) string {
		reply := new(dns.Msg).SetQuestion(name, dns.TypeA)
		r.answer(reply, reply.Question[0])
		return data(reply.Answer)
	}
	if got := ask("web.default.svc.cluster.local."); got != "10.88.0.5" {
		t.Fatalf("got %q", got)
	}
	r.publish("web", Names{Namespace: "default", Name: "web", Hostname: "web", Addrs: addrs("10.88.0.55")})
	if got := ask("web.default.svc.cluster.local."); got != "10.88.0.55" {
		t.Errorf("with another address: %q", got)
	}
	r.withdraw("web")
	r.withdraw("web")
	if got := ask("web.default.svc.cluster.local."); got != "" {
		t.Errorf("without the pod: %q", got)
	}
	r.withdraw("db")
	if got := ask("dbs.default.svc.cluster.local."); got != "10.88.0.8" {
		t.Errorf("without the subdomain of that name: %q", got)
	}
}

func TestHostSwitchedOff(t *testing.T) {
	r := newRecords("cluster.local", nil, nil, nil)
	reply := new(dns.Msg).SetQuestion("host.docker.internal.", dns.TypeA)
	if !r.answer(reply, reply.Question[0]) || reply.Rcode != dns.RcodeNameError {
		t.Errorf("got %v, want NXDOMAIN of our own", reply)
	}
}

func TestReverseZones(t *testing.T) {
	for _, c := range []struct{ subnet, first, last string }{
		{"10.88.0.0/16", "88.10.in-addr.arpa.", "88.10.in-addr.arpa."},
		{"192.168.216.0/22", "216.168.192.in-addr.arpa.", "219.168.192.in-addr.arpa."},
		{"192.168.1.240/28", "240.1.168.192.in-addr.arpa.", "255.1.168.192.in-addr.arpa."},
		{"fd12:3456::/64", "0.0.0.0.0.0.0.0.6.5.4.3.2.1.d.f.ip6.arpa.", "0.0.0.0.0.0.0.0.6.5.4.3.2.1.d.f.ip6.arpa."},
	} {
		zones := reverseZones(netip.MustParsePrefix(c.subnet))
		if zones[0] != c.first || zones[len(zones)-1] != c.last {
			t.Errorf("%s: %v", c.subnet, zones)
		}
	}
}
