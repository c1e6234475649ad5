package cni

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// How long an answer of our own may be kept, in seconds: as long as CoreDNS
// says for pods, and that there is none hardly at all. A pod that is waited
// for comes at any moment.
const (
	localTTL    = 5
	negativeTTL = 1
)

// DefaultClusterDomain is what a kubelet is told by --cluster-domain, and
// nearly all are told.
const DefaultClusterDomain = "cluster.local"

// Names is what a pod is found by in DNS, and where. See docs/dns.md.
type Names struct {
	Namespace, Name     string
	Hostname, Subdomain string // Subdomain is "" for a pod that has none
	Addrs               []netip.Addr
	Host                bool // the pod is in the host's network: Addrs are the host's
}

// records are the names that this node answers for.
type records struct {
	domain string                  // of the cluster, absolute: "cluster.local."
	fixed  map[string][]netip.Addr // absolute names that no pod has
	zones  map[string]bool         // what is below one of these is known here or nowhere
	host   []netip.Addr            // the host's loopback as pods see it

	mu    sync.Mutex
	pods  map[string]Names // by id
	names map[string]*node // absolute and in lower case; nil: to be made anew
}

// node is what is known of one name. One that has neither addresses nor a
// target is there because names below it are.
type node struct {
	addrs []netip.Addr
	ptr   string
}

// newRecords makes the records of a cluster whose pods have addresses in
// subnets; what cannot be a subnet is left out.
func newRecords(domain string, host, gateway, self []netip.Addr, subnets ...netip.Prefix) *records {
	r := &records{domain: dns.CanonicalName(domain), host: host, pods: map[string]Names{}}
	r.fixed = map[string][]netip.Addr{"ns.dns." + r.domain: self}
	r.zones = map[string]bool{r.domain: true, "localhost.": true, "invalid.": true}
	for _, zone := range []string{"podrun", "docker", "containers"} {
		r.zones[zone+".internal."] = true
		r.fixed["host."+zone+".internal."] = host
		r.fixed["gateway."+zone+".internal."] = gateway
	}
	r.fixed["localhost."] = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	// A search path leaves these: they are no domains of the internet.
	for _, zone := range []string{"pod.", "svc."} {
		r.zones[zone] = true
	}
	for _, subnet := range subnets {
		for _, zone := range reverseZones(subnet) {
			r.zones[zone] = true
		}
	}
	return r
}

// publish gives a pod its names, in the place of those it had.
func (r *records) publish(id string, n Names) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pods[id], r.names = n, nil
}

// withdraw takes them away.
func (r *records) withdraw(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.pods[id]; ok {
		delete(r.pods, id)
		r.names = nil
	}
}

// lookup finds an absolute name in lower case. zone is the zone of ours that it
// is in, "" when it is in none; node is nil when there is no such name.
func (r *records) lookup(name string) (zone string, n *node) {
	r.mu.Lock()
	if r.names == nil {
		r.names = r.index()
	}
	names := r.names
	r.mu.Unlock()
	n = names[name]
	for at := name; at != ""; at = parent(at) {
		if r.zones[at] {
			return at, n
		}
	}
	if n != nil && n.ptr != "" {
		return name, n // an address that a network of others gave
	}
	return "", nil
}

// isPods tells whether a pod in any namespace is called that.
func (r *records) isPods(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pods {
		if strings.EqualFold(p.Name, name) || strings.EqualFold(p.Hostname, name) || strings.EqualFold(p.Subdomain, name) {
			return true
		}
	}
	return false
}

// index makes the names of all pods.
func (r *records) index() map[string]*node {
	names := map[string]*node{}
	at := func(name string) *node {
		name = strings.ToLower(name)
		n := names[name]
		if n == nil {
			n = &node{}
			names[name] = n
			for up := parent(name); up != "" && names[up] == nil; up = parent(up) {
				names[up] = &node{}
			}
		}
		return n
	}
	for zone := range r.zones {
		at(zone)
	}
	for name, addrs := range r.fixed {
		if len(addrs) > 0 {
			at(name).addrs = addrs
		}
	}
	// What a Service would be called: the subdomain of pods, and each pod by
	// its own name where no subdomain is called that.
	subdomains := map[string]bool{}
	for _, p := range r.pods {
		if p.Subdomain != "" {
			subdomains[p.Subdomain+"."+p.Namespace] = true
		}
	}
	for _, p := range r.pods {
		addrs := p.Addrs
		if p.Host {
			addrs = r.hostAddrs(addrs)
		}
		// A Service has one family of addresses unless it asks for two: what
		// listens on IPv4 only is not looked for elsewhere.
		var primary []netip.Addr
		for _, a := range addrs {
			if a.Is4() == addrs[0].Is4() {
				primary = append(primary, a)
			}
		}
		for _, below := range []string{r.domain, ""} { // with the cluster's domain and without
			give := func(name string, addrs ...netip.Addr) {
				n := at(name + "." + below)
				n.addrs = append(n.addrs, addrs...)
			}
			give(p.Name+"."+p.Namespace+".pod", addrs...)
			if !subdomains[p.Name+"."+p.Namespace] {
				give(p.Name+"."+p.Namespace+".svc", primary...)
			}
			service := p.Subdomain + "." + p.Namespace + ".svc"
			if p.Subdomain != "" {
				give(service, primary...)
				give(p.Hostname+"."+service, primary...)
				for _, a := range primary {
					if dashed(a) != p.Hostname {
						give(dashed(a)+"."+service, a)
					}
				}
			}
			for _, a := range addrs {
				give(dashed(a)+"."+p.Namespace+".pod", a)
			}
		}
		if p.Host {
			continue
		}
		for _, a := range addrs {
			if reverse, err := dns.ReverseAddr(a.String()); err == nil {
				at(reverse).ptr = r.fullName(p)
			}
		}
	}
	for name, addrs := range r.fixed {
		// What has many names is called by podrun's.
		if strings.HasSuffix(name, ".podrun.internal.") {
			for _, a := range addrs {
				if reverse, err := dns.ReverseAddr(a.String()); err == nil {
					at(reverse).ptr = name
				}
			}
		}
	}
	return names
}

// dashed is an address as a label.
func dashed(a netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
}

// fullName is what an address of p is the address of.
func (r *records) fullName(p Names) string {
	if p.Subdomain != "" {
		return p.Hostname + "." + p.Subdomain + "." + p.Namespace + ".svc." + r.domain
	}
	return p.Name + "." + p.Namespace + ".pod." + r.domain
}

// hostAddrs are the host's addresses as pods reach them: its loopback is
// another for them.
func (r *records) hostAddrs(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if a.IsLoopback() {
			out = append(out, r.host...)
		} else {
			out = append(out, a)
		}
	}
	return out
}

// answer fills in the reply to a question for a name of ours; false when it is
// none of ours.
func (r *records) answer(reply *dns.Msg, q dns.Question) bool {
	name := dns.CanonicalName(q.Name)
	zone, n := r.lookup(name)
	if zone == "" {
		return false
	}
	reply.Authoritative = true
	header := func(kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: kind, Class: dns.ClassINET, Ttl: localTTL}
	}
	wants := func(kind uint16) bool { return q.Qtype == kind || q.Qtype == dns.TypeANY }
	if n != nil {
		for _, a := range n.addrs {
			switch {
			case a.Is4() && wants(dns.TypeA):
				reply.Answer = append(reply.Answer, &dns.A{Hdr: header(dns.TypeA), A: a.AsSlice()})
			case !a.Is4() && wants(dns.TypeAAAA):
				reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: header(dns.TypeAAAA), AAAA: a.AsSlice()})
			}
		}
		// Of several pods behind one name each comes first at times.
		rand.Shuffle(len(reply.Answer), func(i, j int) { reply.Answer[i], reply.Answer[j] = reply.Answer[j], reply.Answer[i] })
		if n.ptr != "" && wants(dns.TypePTR) {
			reply.Answer = append(reply.Answer, &dns.PTR{Hdr: header(dns.TypePTR), Ptr: n.ptr})
		}
		if name == zone && wants(dns.TypeNS) {
			reply.Answer = append(reply.Answer, &dns.NS{Hdr: header(dns.TypeNS), Ns: "ns.dns." + r.domain})
		}
		if name == zone && wants(dns.TypeSOA) {
			reply.Answer = append(reply.Answer, r.soa(q.Name, localTTL))
		}
	} else {
		reply.Rcode = dns.RcodeNameError
	}
	if len(reply.Answer) == 0 {
		reply.Ns = append(reply.Ns, r.soa(zone, negativeTTL))
	}
	return true
}

// soa is the record that a negative answer is kept by (RFC 2308).
func (r *records) soa(zone string, ttl uint32) dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  "ns.dns." + r.domain, Mbox: "hostmaster." + r.domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: negativeTTL,
	}
}

// isDomain tells whether pods' names can end with that, which may be "".
func isDomain(name string) bool {
	const most = 100 // leaves room for a pod's name and its namespace
	if name == "" {
		return true
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return len(name) <= most
}

// parent is the name above an absolute one, "" above the last.
func parent(name string) string {
	_, up, _ := strings.Cut(name, ".")
	return up
}

// maxReverseZones bounds what a subnet with an odd length needs.
const maxReverseZones = 256

// reverseZones are the zones below in-addr.arpa or ip6.arpa for all addresses
// of a subnet and no others.
func reverseZones(subnet netip.Prefix) []string {
	if !subnet.IsValid() {
		return nil
	}
	step, suffix := 8, ".in-addr.arpa." // bits of a label
	if subnet.Addr().Is6() {
		step, suffix = 4, ".ip6.arpa."
	}
	bits := (subnet.Bits() + step - 1) / step * step
	base := subnet.Masked().Addr().AsSlice()
	var zones []string
	for i := range min(1<<(bits-subnet.Bits()), maxReverseZones) {
		var labels []string
		for at := 0; at < bits; at += step {
			v := int(base[at/8])
			if step == 4 {
				v = v >> (4 - at%8) & 15
			}
			format := "%d"
			if step == 4 {
				format = "%x"
			}
			if at+step == bits {
				v += i
			}
			labels = append([]string{fmt.Sprintf(format, v)}, labels...)
		}
		zones = append(zones, strings.Join(labels, ".")+suffix)
	}
	return zones
}
