package cni

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/miekg/dns"
)

const (
	dnsPort = "53"
	// maxQuestions is how many questions may be on their way to the host's
	// resolvers at once, equal ones counted once; more wait.
	maxQuestions = 256
	// How many queries may wait for an answer of the host's resolvers, of one
	// pod and of all; one more fails at once (SERVFAIL).
	maxPodWaiting = 512
	maxWaiting    = 4096
	// maxUDPAnswer is the most that is sent in a packet, in bytes, to one who
	// takes that much; the pod network never splits it.
	maxUDPAnswer = 4096
)

// resolver answers the pods' DNS queries, in the pod network: for names of
// pods and of the host by itself, for all others with what the host's
// resolvers say. It asks them from the host's network namespace: a resolver on
// the host's loopback, such as systemd-resolved's, is reached.
type resolver struct {
	path      string // of the host's resolv.conf
	log       *slog.Logger
	records   *records
	cache     *answerCache
	upstreams *upstreams
	questions chan struct{} // a place for each that is on its way
	servers   []*dns.Server
	listener  *podListener
	ctx       context.Context // of questions to the host's resolvers
	cancel    context.CancelFunc
	wait      sync.WaitGroup

	mu      sync.Mutex
	text    []byte       // of resolv.conf, as last read
	conf    hostResolver // what it says
	age     int          // how often it has changed
	flights map[flightKey]*flight
	waiting map[netip.Addr]int // queries by pod
	all     int                // queries that wait
}

// flightKey is what queries have in common that share one question.
type flightKey struct {
	cacheKey
	recursion, edns bool
	age             int
}

// flight is a question on its way to the host's resolvers.
type flight struct {
	done   chan struct{}
	answer *dns.Msg // when done: never nil, and not changed any more
}

// openDNS listens in the pod network, on every address that this process has
// there: the bridge's own, and those of bridges that executed plugins made. A
// kernel socket costs less than one of the gateway's stack, and pods without
// an uplink have names too.
func (n *Network) openDNS() (*resolver, error) {
	var packets net.PacketConn
	var streams net.Listener
	err := n.pods.Do(func(ns.NetNS) (err error) {
		if packets, err = net.ListenPacket("udp", ":"+dnsPort); err != nil {
			return err
		}
		if streams, err = net.Listen("tcp", ":"+dnsPort); err != nil {
			return errors.Join(err, packets.Close())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r := newResolver(n.resolvConf(), n.names, dnsPort, n.log)
	r.serve(packets, streams)
	return r, nil
}

// resolvConf is where the host's resolvers are named.
func (n *Network) resolvConf() string {
	return cmp.Or(n.o.Settings.ResolvConf, "/etc/resolv.conf")
}

// hostResolver is what stands there now; what cannot be read says nothing.
func (n *Network) hostResolver() hostResolver {
	return parseResolvConf(resolvConfText(n.resolvConf()))
}

// openNames begins the names: those that no pod has are there at once.
func (n *Network) openNames() {
	p := n.plan
	n.names = newRecords(cmp.Or(n.o.Settings.ClusterDomain, DefaultClusterDomain), n.hostAddrs(), both(p.gateway, p.gateway6), both(p.bridge, p.bridge6), p.subnet, p.subnet6)
}

// hostAddrs is where pods reach the host's loopback: by IPv4, for most of what
// listens there does so on 127.0.0.1.
func (n *Network) hostAddrs() []netip.Addr {
	if n.uplink == nil || n.o.Settings.NoHost {
		return nil
	}
	return []netip.Addr{n.plan.host}
}

// both are those of the two addresses that there are.
func both(v4, v6 netip.Addr) []netip.Addr {
	if !v6.IsValid() {
		return []netip.Addr{v4}
	}
	return []netip.Addr{v4, v6}
}

// ClusterDomain is the domain of pods' names, without a dot at its end.
func (n *Network) ClusterDomain() string { return strings.TrimSuffix(n.names.domain, ".") }

// Publish gives a pod its names in DNS, in the place of those it had. They are
// kept in memory only: a node publishes again what it finds running.
func (n *Network) Publish(id string, names Names) { n.names.publish(id, names) }

// Withdraw takes a pod's names away. It may be called again.
func (n *Network) Withdraw(id string) { n.names.withdraw(id) }

// resultDNS says whom a pod asks for names. On the built-in network that is
// this node, with the search path and the options of the host. A network of
// others has said so itself; if not, it is this node where it is the pod's
// gateway, and else the host's resolvers.
func (n *Network) resultDNS(out *Result, builtin bool) {
	if len(out.DNS.Servers) > 0 {
		if first, err := netip.ParseAddr(out.DNS.Servers[0]); err == nil && n.dns != nil && n.isOwn(first) {
			out.DNS.ClusterDomain = n.ClusterDomain()
		}
		return
	}
	host := n.hostResolver().dns()
	switch {
	case n.dns == nil:
		if builtin {
			return // nobody would answer
		}
	case builtin:
		// It answers on the bridge's IPv6 address too, but some programs ask all
		// servers they know each time: one is enough.
		host.Servers = []string{n.plan.bridge.String()}
		out.DNS.ClusterDomain = n.ClusterDomain()
	case n.isOwn(out.Gateway):
		host.Servers = []string{out.Gateway.String()}
		out.DNS.ClusterDomain = n.ClusterDomain()
	}
	out.DNS.Servers = host.Servers
	if out.DNS.Searches == nil {
		out.DNS.Searches = host.Searches
	}
	if out.DNS.Options == nil {
		out.DNS.Options = host.Options
	}
}

// isOwn tells whether this process answers at addr in the pod network.
func (n *Network) isOwn(addr netip.Addr) bool {
	if !addr.IsValid() {
		return false
	}
	var c net.PacketConn
	err := n.pods.Do(func(ns.NetNS) (err error) {
		c, err = net.ListenPacket("udp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	if err != nil {
		return false // of somebody else
	}
	_ = c.Close()
	return true
}

func newResolver(path string, names *records, upstreamPort string, log *slog.Logger) *resolver {
	r := &resolver{
		path: path, log: log, records: names, cache: newAnswerCache(), upstreams: newUpstreams(upstreamPort),
		questions: make(chan struct{}, maxQuestions),
		flights:   map[flightKey]*flight{}, waiting: map[netip.Addr]int{},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// serve answers what comes in by the two until close, which closes them.
func (r *resolver) serve(packets net.PacketConn, streams net.Listener) {
	r.listener = newPodListener(streams)
	r.servers = []*dns.Server{
		// The library wakes up after each ReadTimeout to read on: an idle node
		// does not wake up.
		{PacketConn: packets, Handler: r, ReadTimeout: math.MaxInt32 * time.Second, UDPSize: maxUDPAnswer},
		{Listener: r.listener, Handler: r},
	}
	for _, server := range r.servers {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		r.wait.Go(func() {
			if err := server.ActivateAndServe(); err != nil {
				r.log.Debug("DNS ends", "err", err)
			}
		})
		<-started
	}
}

// close ends the answering. Queries that wait get SERVFAIL.
func (r *resolver) close() {
	r.cancel()
	for _, s := range r.servers {
		_ = s.Shutdown()
	}
	r.wait.Wait()
	r.upstreams.probes.Wait()
}

// ServeDNS answers one query.
func (r *resolver) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	var from netip.Addr
	size := dns.MaxMsgSize
	switch a := w.RemoteAddr().(type) {
	case *net.UDPAddr:
		from = a.AddrPort().Addr().Unmap()
		size = dns.MinMsgSize
		if opt := query.IsEdns0(); opt != nil {
			size = min(max(size, int(opt.UDPSize())), maxUDPAnswer)
		}
	case *net.TCPAddr:
		from = a.AddrPort().Addr().Unmap()
	}
	reply := r.reply(query, from)
	if reply == nil {
		return
	}
	reply.Compress = true
	reply.Truncate(size)
	if err := w.WriteMsg(reply); err != nil {
		r.log.Debug("answer DNS", "err", err)
	}
}

// reply is the answer to a query of the pod at from; nil for none.
func (r *resolver) reply(query *dns.Msg, from netip.Addr) *dns.Msg {
	reply := new(dns.Msg).SetReply(query)
	reply.RecursionAvailable = true
	opt := query.IsEdns0()
	if opt != nil {
		reply.SetEdns0(maxUDPAnswer, opt.Do())
	}
	fail := func(code int) *dns.Msg {
		reply.Rcode = code
		return reply
	}
	if query.Opcode != dns.OpcodeQuery {
		return fail(dns.RcodeNotImplemented)
	}
	if len(query.Question) != 1 {
		return fail(dns.RcodeFormatError)
	}
	if opt != nil && opt.Version() != 0 {
		return fail(dns.RcodeBadVers)
	}
	q := query.Question[0]
	switch {
	case q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR || q.Qclass != dns.ClassINET:
		return fail(dns.RcodeRefused)
	case r.records.answer(reply, q):
		return reply
	}
	conf, age := r.follow()
	if label, single := strings.CutSuffix(dns.CanonicalName(q.Name), "."); single && label != "" && !strings.Contains(label, ".") {
		// What a search path leaves of a pod's name is nobody else's business.
		if conf.noTLD || r.records.isPods(label) {
			reply.Ns = append(reply.Ns, r.records.soa(".", negativeTTL))
			return fail(dns.RcodeNameError)
		}
	}
	answer := r.forward(query, q, from, conf, age)
	if answer == nil {
		return fail(dns.RcodeServerFailure)
	}
	reply.Rcode = answer.Rcode
	if reply.Rcode > dns.RcodeNotZone && opt == nil {
		return fail(dns.RcodeServerFailure) // only EDNS has room for it
	}
	reply.AuthenticatedData = answer.AuthenticatedData && (query.AuthenticatedData || opt != nil && opt.Do())
	reply.Answer, reply.Ns = answer.Answer, answer.Ns
	for _, rr := range answer.Extra {
		if rr.Header().Rrtype != dns.TypeOPT { // that is from hop to hop
			reply.Extra = append(reply.Extra, rr)
		}
	}
	return reply
}

// follow returns what the host's resolv.conf says now. It is read for each
// query: it is small, and it changes with the network, by being written, by
// being replaced, or by a link on the way to it. With it goes all that was
// learned from other resolvers.
func (r *resolver) follow() (conf hostResolver, age int) {
	text := resolvConfText(r.path)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.age == 0 || !bytes.Equal(text, r.text) {
		r.text, r.conf = text, parseResolvConf(text)
		r.age++
		r.cache.clear()
		r.upstreams.forget()
	}
	return r.conf, r.age
}

// forward returns what the host's resolvers answer, or have answered not long
// ago; nil when there is no room for the query.
func (r *resolver) forward(query *dns.Msg, q dns.Question, from netip.Addr, conf hostResolver, age int) *dns.Msg {
	opt := query.IsEdns0()
	key := flightKey{
		cacheKey: cacheKey{
			name: dns.CanonicalName(q.Name), kind: q.Qtype, class: q.Qclass,
			dnssec: opt != nil && opt.Do(), unchecked: query.CheckingDisabled,
		},
		recursion: query.RecursionDesired, edns: opt != nil, age: age,
	}
	if key.recursion {
		if m := r.cache.get(key.cacheKey, time.Now()); m != nil {
			return m
		}
	}
	r.mu.Lock()
	if r.waiting[from] >= maxPodWaiting || r.all >= maxWaiting || r.ctx.Err() != nil {
		r.mu.Unlock()
		return nil
	}
	r.waiting[from]++
	r.all++
	f := r.flights[key]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		r.flights[key] = f
		r.wait.Go(func() { r.fly(key, f, q, conf) })
	}
	r.mu.Unlock()
	<-f.done
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all--
	if r.waiting[from]--; r.waiting[from] == 0 {
		delete(r.waiting, from)
	}
	return f.answer.Copy()
}

// fly asks the host's resolvers for all who wait for f.
func (r *resolver) fly(key flightKey, f *flight, q dns.Question, conf hostResolver) {
	question := new(dns.Msg).SetQuestion(q.Name, q.Qtype)
	question.RecursionDesired, question.CheckingDisabled = key.recursion, key.unchecked
	question.AuthenticatedData = key.dnssec
	if key.edns || conf.edns {
		question.SetEdns0(ednsSize, key.dnssec)
	}
	answer, err := (*dns.Msg)(nil), error(nil)
	select {
	case r.questions <- struct{}{}:
		answer, err = r.upstreams.ask(r.ctx, question, conf)
		<-r.questions
	case <-r.ctx.Done():
	}
	if answer == nil {
		r.log.Debug("resolvers failed", "name", q.Name, "err", err)
		answer = new(dns.Msg).SetRcode(question, dns.RcodeServerFailure)
	}
	limit := maxTTL
	for _, server := range conf.ask() {
		if server.IsLoopback() {
			limit = nearTTL
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if key.recursion && key.age == r.age && r.ctx.Err() == nil {
		r.cache.put(key.cacheKey, answer, time.Now(), limit)
	}
	f.answer = answer
	delete(r.flights, key)
	close(f.done)
}
