package cni

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// startResolver makes a resolver with testRecords that listens on loopback, and
// asks whom conf, the text of a resolv.conf, names.
func startResolver(t testing.TB, conf string) (r *resolver, address, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", "127.0.0.10:0")
	if err != nil {
		t.Fatal(err)
	}
	address = packets.LocalAddr().String()
	streams, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	r = newResolver(path, testRecords(), dnsPort, slog.New(slog.DiscardHandler))
	r.serve(packets, streams)
	t.Cleanup(r.close)
	return r, address, path
}

// query asks over network, and returns the answer.
func query(t *testing.T, network, address, name string, kind uint16, change ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, kind)
	for _, c := range change {
		c(m)
	}
	client := dns.Client{Net: network, Timeout: 15 * time.Second}
	answer, _, err := client.Exchange(m, address)
	if err != nil {
		t.Fatalf("%s %s: %v", name, dns.TypeToString[kind], err)
	}
	return answer
}

func TestResolverProtocol(t *testing.T) {
	upstream := startServer(t, "127.0.0.11", says("192.0.2.1"))
	_, address, _ := startResolver(t, "nameserver 127.0.0.11\n")
	edns := func(m *dns.Msg) { m.SetEdns0(1232, true) }
	for _, c := range []struct {
		name   string
		ask    string
		kind   uint16
		change func(*dns.Msg)
		code   int
	}{
		{"ours", "web.default.svc.cluster.local.", dns.TypeA, nil, dns.RcodeSuccess},
		{"ours, with EDNS", "web.default.svc.cluster.local.", dns.TypeA, edns, dns.RcodeSuccess},
		{"zone transfer", "cluster.local.", dns.TypeAXFR, nil, dns.RcodeRefused},
		{"zone transfer of others", "example.", dns.TypeIXFR, nil, dns.RcodeRefused},
		{"another class", "version.bind.", dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		{"NOTIFY", "cluster.local.", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		{"UPDATE", "cluster.local.", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		{"EDNS of the future", "web.default.svc.cluster.local.", dns.TypeA, func(m *dns.Msg) { edns(m); m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
		{"two questions", "web.default.svc.cluster.local.", dns.TypeA, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		{"a pod that is gone", "gone.default.svc.cluster.local.", dns.TypeA, nil, dns.RcodeNameError},
		{"what a search path leaves of a pod", "web.", dns.TypeA, nil, dns.RcodeNameError},
		{"of a subdomain", "DBS.", dns.TypeA, nil, dns.RcodeNameError},
	} {
		t.Run(c.name, func(t *testing.T) {
			var changes []func(*dns.Msg)
			if c.change != nil {
				changes = append(changes, c.change)
			}
			for _, network := range []string{"udp", "tcp"} {
				m := query(t, network, address, c.ask, c.kind, changes...)
				asked := new(dns.Msg).SetQuestion(c.ask, c.kind)
				for _, change := range changes {
					change(asked)
				}
				want, got := asked.IsEdns0(), m.IsEdns0()
				if m.Rcode != c.code || (want == nil) != (got == nil) || want != nil && want.Do() != got.Do() {
					t.Errorf("%s: got %v, want %s", network, m, dns.RcodeToString[c.code])
				}
			}
		})
	}
	if asked := upstream.questions(); len(asked) > 0 {
		t.Errorf("the host's resolver was asked %q", asked)
	}
	if m := query(t, "udp", address, "nas.", dns.TypeA); data(m.Answer) != "192.0.2.1" {
		t.Errorf("a single label that no pod has: %v", m)
	}
}

// large answers with n addresses.
func large(n int) func(reply, query *dns.Msg, tcp bool) *dns.Msg {
	return func(reply, query *dns.Msg, tcp bool) *dns.Msg {
		for i := range n {
			rr, _ := dns.NewRR(fmt.Sprintf("%s 60 IN A 192.0.2.%d", query.Question[0].Name, i))
			reply.Answer = append(reply.Answer, rr)
		}
		if !tcp {
			reply.Truncate(dns.MinMsgSize)
		}
		return reply
	}
}

func TestLargeAnswers(t *testing.T) {
	startServer(t, "127.0.0.11", large(200))
	_, address, _ := startResolver(t, "nameserver 127.0.0.11\n")
	m := query(t, "udp", address, "large.example.", dns.TypeA)
	m.Compress = true
	if !m.Truncated || m.Len() > dns.MinMsgSize {
		t.Errorf("in 512 bytes: truncated %v, %d bytes", m.Truncated, m.Len())
	}
	if m := query(t, "tcp", address, "large.example.", dns.TypeA); m.Truncated || len(m.Answer) != 200 {
		t.Errorf("over TCP: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
	m = query(t, "udp", address, "large.example.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(4096, false) })
	if m.Truncated || len(m.Answer) != 200 {
		t.Errorf("in 4096 bytes: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
}

func TestEqualQueriesAreOne(t *testing.T) {
	h := startServer(t, "127.0.0.11", after(300*time.Millisecond, says("192.0.2.1")))
	_, address, _ := startResolver(t, "nameserver 127.0.0.11\n")
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			if m := query(t, "udp", address, "a.example.", dns.TypeA); data(m.Answer) != "192.0.2.1" {
				t.Errorf("got %v", m)
			}
		})
	}
	wait.Wait()
	query(t, "udp", address, "A.Example.", dns.TypeA)
	if asked := h.questions(); len(asked) != 1 {
		t.Errorf("asked %q, want once", asked)
	}
	query(t, "udp", address, "a.example.", dns.TypeAAAA)
	query(t, "udp", address, "a.example.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, true) })
	if asked := h.questions(); len(asked) != 3 {
		t.Errorf("asked %q, want three times: another type, and with signatures", asked)
	}
}

// The host's resolvers change by a new text, another file in the place, another
// link: the next query goes to the new ones, and what the old ones said is gone.
func TestResolvConfIsFollowed(t *testing.T) {
	startServer(t, "127.0.0.11", says("192.0.2.1"))
	startServer(t, "127.0.0.12", says("192.0.2.2"))
	_, address, path := startResolver(t, "nameserver 127.0.0.11\n")
	ask := func() string { return data(query(t, "udp", address, "a.example.", dns.TypeA).Answer) }
	expect := func(how, want string) {
		t.Helper()
		if got := ask(); got != want {
			t.Errorf("%s: got %q, want %q", how, got, want)
		}
	}
	expect("at first", "192.0.2.1")
	write := func(path, server string) {
		if err := os.WriteFile(path, []byte("nameserver "+server+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "127.0.0.12")
	expect("written", "192.0.2.2")
	write(path+".new", "127.0.0.11")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	expect("replaced", "192.0.2.1")
	write(path+".stub", "127.0.0.12")
	if err := os.Symlink(path+".stub", path+".link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".link", path); err != nil {
		t.Fatal(err)
	}
	expect("a link in its place", "192.0.2.2")
	write(path+".stub", "127.0.0.11")
	expect("what the link is to, written", "192.0.2.1")
}

func TestAnswersOfOthersPass(t *testing.T) {
	startServer(t, "127.0.0.11", func(reply, query *dns.Msg, _ bool) *dns.Msg {
		reply.AuthenticatedData = query.AuthenticatedData
		switch query.Question[0].Qtype {
		case dns.TypeMX:
			rr, _ := dns.NewRR("a.example. 60 IN MX 10 mx.example.")
			more, _ := dns.NewRR("mx.example. 60 IN A 192.0.2.25")
			reply.Answer, reply.Extra = []dns.RR{rr}, []dns.RR{more}
		case 65280:
			rr, _ := dns.NewRR(`a.example. 60 IN TYPE65280 \# 3 010203`)
			reply.Answer = []dns.RR{rr}
		case dns.TypeTXT:
			return fails(dns.RcodeNameError)(reply, query, false)
		default:
			return fails(dns.RcodeRefused)(reply, query, false)
		}
		return reply
	})
	_, address, _ := startResolver(t, "nameserver 127.0.0.11\n")
	for range 2 { // the second time from the cache
		if m := query(t, "udp", address, "a.example.", dns.TypeMX); data(m.Answer) != "10 mx.example." || data(m.Extra) != "192.0.2.25" || m.Authoritative || m.AuthenticatedData {
			t.Errorf("MX: %v", m)
		}
		if m := query(t, "udp", address, "a.example.", dns.TypeMX, func(m *dns.Msg) { m.SetEdns0(1232, true) }); !m.AuthenticatedData {
			t.Errorf("MX with DO: %v, want AD", m)
		}
		if m := query(t, "udp", address, "a.example.", 65280); len(m.Answer) != 1 || !strings.HasSuffix(m.Answer[0].String(), `\# 3 010203`) {
			t.Errorf("an unknown type: %v", m)
		}
		if m := query(t, "udp", address, "a.example.", dns.TypeTXT); m.Rcode != dns.RcodeNameError || len(m.Ns) != 1 {
			t.Errorf("none: %v", m)
		}
		if m := query(t, "udp", address, "a.example.", dns.TypeA); m.Rcode != dns.RcodeRefused {
			t.Errorf("refused: %v", m)
		}
	}
}

// A pod that asks and asks takes no place from others.
func TestWaitingIsBounded(t *testing.T) {
	startServer(t, "127.0.0.11", silent)
	r, _, _ := startResolver(t, "nameserver 127.0.0.11\noptions timeout:4 attempts:1\n")
	greedy, other := netip.MustParseAddr("10.88.0.5"), netip.MustParseAddr("10.88.0.6")
	ask := func(name string, from netip.Addr) *dns.Msg {
		return r.reply(new(dns.Msg).SetQuestion(name, dns.TypeA), from)
	}
	var wait sync.WaitGroup
	for i := range maxPodWaiting {
		wait.Go(func() { ask(fmt.Sprintf("%d.example.", i), greedy) })
	}
	for begun := time.Now(); ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		n := r.all
		r.mu.Unlock()
		if n == maxPodWaiting {
			break
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("%d wait, want %d", n, maxPodWaiting) // the first have given up before the last began
		}
	}
	began := time.Now()
	if m := ask("more.example.", greedy); m.Rcode != dns.RcodeServerFailure || time.Since(began) > 2*time.Second {
		t.Errorf("one more: %v after %v, want SERVFAIL at once", m, time.Since(began))
	}
	if m := ask("web.default.pod.", greedy); len(m.Answer) != 1 {
		t.Errorf("a name of ours: %v", m)
	}
	wait.Go(func() { ask("0.example.", other) })
	wait.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all != 0 || len(r.waiting) != 0 || len(r.flights) != 0 {
		t.Errorf("%d wait, %v, %d flights", r.all, r.waiting, len(r.flights))
	}
}

func TestStreamsAreBounded(t *testing.T) {
	_, address, _ := startResolver(t, "nameserver 127.0.0.77\n")
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for range maxPodStreams {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("one connection more: %v, want it to be closed", err)
	}
	_ = c.Close()
	_ = open[0].Close()
	// Its place is free as soon as the server has seen it end.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		client := dns.Client{Net: "tcp", Timeout: 5 * time.Second}
		if _, _, err = client.Exchange(new(dns.Msg).SetQuestion("web.default.pod.", dns.TypeA), address); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after one has ended: %v", err)
		}
	}
}

func TestParseResolvConf(t *testing.T) {
	r := parseResolvConf([]byte(`# nameserver 192.0.2.9
nameserver 127.0.0.53
 nameserver	fe80::1%eth0
nameserver nonsense
nameserver 192.0.2.1
nameserver 192.0.2.2
domain first.example
search one.example. two.example .
options ndots:2 timeout:99 attempts:0
options ndots:3 rotate edns0 use-vc no-tld-query
search`))
	if got := fmt.Sprint(r.servers, r.searches, r.options); got != "[127.0.0.53 fe80::1%eth0 192.0.2.1] [one.example two.example .] [timeout:99 attempts:0 ndots:3 rotate edns0 use-vc no-tld-query]" {
		t.Errorf("got %s", got)
	}
	if r.timeout != maxTimeout || r.attempts != 1 || !r.rotate || !r.edns || !r.tcp || !r.noTLD {
		t.Errorf("got %+v", r)
	}
	none := parseResolvConf(nil)
	if got := fmt.Sprint(none.servers, none.ask(), none.timeout, none.attempts); got != "[] [127.0.0.1] 5s 2" {
		t.Errorf("of an empty file: %s", got)
	}
}

// FuzzQuery hands what a pod may send to the resolver, as the server does.
func FuzzQuery(f *testing.F) {
	path := filepath.Join(f.TempDir(), "resolv.conf")
	// Nothing listens there: queries that leave are refused at once.
	if err := os.WriteFile(path, []byte("nameserver 127.0.0.77\n"), 0o600); err != nil {
		f.Fatal(err)
	}
	r := newResolver(path, testRecords(), dnsPort, slog.New(slog.DiscardHandler))
	defer r.close()
	for _, name := range []string{"web.default.svc.cluster.local.", "5.0.88.10.in-addr.arpa.", "a.example.", "single.", ".", `a\.b\000.pod.cluster.local.`} {
		for _, kind := range []uint16{dns.TypeA, dns.TypePTR, dns.TypeANY, dns.TypeAXFR, dns.TypeOPT, dns.TypeTSIG} {
			m := new(dns.Msg).SetQuestion(name, kind)
			if kind == dns.TypeA {
				m.SetEdns0(100, true)
			}
			wire, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(wire)
		}
	}
	from := netip.MustParseAddr("10.88.0.5")
	f.Fuzz(func(t *testing.T, wire []byte) {
		query := new(dns.Msg)
		if query.Unpack(wire) != nil || query.Response {
			return // the server sees to these
		}
		reply := r.reply(query, from)
		if reply == nil {
			t.Fatal("no reply")
		}
		if reply.Id != query.Id || !reply.Response {
			t.Errorf("to %v: %v", query, reply)
		}
		if _, err := reply.Pack(); err != nil {
			t.Errorf("to %v: %v: %v", query, reply, err)
		}
		reply.Truncate(dns.MinMsgSize)
		if packed, err := reply.Pack(); err == nil && len(packed) > dns.MinMsgSize && len(query.Question) < 2 {
			t.Errorf("to %v: %d bytes", query, len(packed))
		}
	})
}

// BenchmarkQuery is a query for a pod, over a socket and back.
func BenchmarkQuery(b *testing.B) {
	_, address, _ := startResolver(b, "nameserver 127.0.0.77\n")
	c, err := net.Dial("udp", address)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	wire, err := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 512)
	for b.Loop() {
		if _, err := c.Write(wire); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadAtLeast(c, buf, 12); err != nil {
			b.Fatal(err)
		}
	}
	if !strings.Contains(string(buf), "web") {
		b.Error("no answer")
	}
}
