package cni

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// hostServer is one of the host's resolvers in tests, on loopback.
type hostServer struct {
	mu    sync.Mutex
	asked []string // the questions' names and, over TCP, " tcp"
}

func (h *hostServer) questions() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.asked)
}

// startServer makes a resolver at addr that answers as fn makes the reply;
// one that fn makes nil of is not answered.
func startServer(t *testing.T, addr string, fn func(reply, query *dns.Msg, tcp bool) *dns.Msg) *hostServer {
	t.Helper()
	h := &hostServer{}
	packets, err := net.ListenPacket("udp", net.JoinHostPort(addr, dnsPort))
	if err != nil {
		t.Fatal(err)
	}
	streams, err := net.Listen("tcp", net.JoinHostPort(addr, dnsPort))
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	t.Cleanup(wait.Wait)
	for _, server := range []*dns.Server{{PacketConn: packets}, {Listener: streams}} {
		tcp := server.Listener != nil
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		server.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			h.mu.Lock()
			name := q.Question[0].Name
			if tcp {
				name += " tcp"
			}
			h.asked = append(h.asked, name)
			h.mu.Unlock()
			if m := fn(new(dns.Msg).SetReply(q), q, tcp); m != nil {
				_ = w.WriteMsg(m)
			}
		})
		wait.Go(func() { _ = server.ActivateAndServe() })
		<-started
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return h
}

// says answers every question for an address with addr.
func says(addr string) func(reply, query *dns.Msg, tcp bool) *dns.Msg {
	return func(reply, query *dns.Msg, _ bool) *dns.Msg {
		rr, err := dns.NewRR(query.Question[0].Name + " 60 IN A " + addr)
		if err != nil {
			panic(err)
		}
		reply.Answer = []dns.RR{rr}
		return reply
	}
}

// fails answers every question with code.
func fails(code int) func(reply, query *dns.Msg, tcp bool) *dns.Msg {
	return func(reply, query *dns.Msg, _ bool) *dns.Msg {
		reply.Rcode = code
		if code == dns.RcodeNameError {
			rr, _ := dns.NewRR(soaLine + "10")
			reply.Ns = []dns.RR{rr}
		}
		return reply
	}
}

func silent(_, _ *dns.Msg, _ bool) *dns.Msg { return nil }

func after(d time.Duration, fn func(reply, query *dns.Msg, tcp bool) *dns.Msg) func(reply, query *dns.Msg, tcp bool) *dns.Msg {
	return func(reply, query *dns.Msg, tcp bool) *dns.Msg {
		time.Sleep(d)
		return fn(reply, query, tcp)
	}
}

// lookUp asks upstreams for an address and tells what was said, and how long
// it took.
func lookUp(t *testing.T, u *upstreams, conf string, name string) (string, time.Duration) {
	t.Helper()
	began := time.Now()
	query := new(dns.Msg).SetQuestion(name, dns.TypeA)
	query.SetEdns0(ednsSize, false)
	m, err := u.ask(t.Context(), query, parseResolvConf([]byte(strings.ReplaceAll(conf, ";", "\n"))))
	took := time.Since(began)
	switch {
	case err != nil:
		return "error: " + err.Error(), took
	case m.Rcode != dns.RcodeSuccess:
		return dns.RcodeToString[m.Rcode], took
	}
	return data(m.Answer), took
}

func TestUpstreams(t *testing.T) {
	const two = "nameserver 127.0.0.11;nameserver 127.0.0.12"
	type answer = func(reply, query *dns.Msg, tcp bool) *dns.Msg
	for _, c := range []struct {
		name          string
		first, second answer // nil: nothing is there
		conf          string
		want          string
		atLeast, most time.Duration
		both          bool // whether the second is asked
	}{
		{name: "the first answers", first: says("192.0.2.1"), second: says("192.0.2.2"), conf: two, want: "192.0.2.1", most: raceAfter / 2},
		{name: "the first says there is none", first: fails(dns.RcodeNameError), second: says("192.0.2.2"), conf: two, want: "NXDOMAIN", most: raceAfter / 2},
		{name: "the first is not there", second: says("192.0.2.2"), conf: two, want: "192.0.2.2", most: raceAfter / 2, both: true},
		{name: "the first fails", first: fails(dns.RcodeServerFailure), second: says("192.0.2.2"), conf: two, want: "192.0.2.2", most: raceAfter / 2, both: true},
		{name: "the first refuses", first: fails(dns.RcodeRefused), second: says("192.0.2.2"), conf: two, want: "192.0.2.2", most: raceAfter / 2, both: true},
		{name: "both fail", first: fails(dns.RcodeServerFailure), second: fails(dns.RcodeRefused), conf: two, want: "SERVFAIL", most: raceAfter / 2, both: true},
		{name: "the first is silent", first: silent, second: says("192.0.2.2"), conf: two, want: "192.0.2.2", atLeast: raceAfter, most: 2 * raceAfter, both: true},
		{name: "the first is slow and knows more", first: after(2*raceAfter, says("192.0.2.1")), second: fails(dns.RcodeNameError), conf: two, want: "192.0.2.1", atLeast: 2 * raceAfter, most: deferTo, both: true},
		{name: "the first is silent, the second says there is none", first: silent, second: fails(dns.RcodeNameError), conf: two, want: "NXDOMAIN", atLeast: deferTo, most: deferTo + 2*raceAfter, both: true},
		{name: "the first is silent, the second fails", first: silent, second: fails(dns.RcodeServerFailure), conf: two, want: "SERVFAIL", atLeast: deferTo, most: deferTo + 2*raceAfter, both: true},
		{name: "nobody is there", conf: two, want: "error: ", most: raceAfter / 2},
		{name: "an answer too large for a packet", first: func(reply, query *dns.Msg, tcp bool) *dns.Msg {
			reply.Truncated = !tcp
			return says("192.0.2.9")(reply, query, tcp)
		}, conf: two, want: "192.0.2.9", most: raceAfter / 2},
		{name: "one that knows no EDNS", first: func(reply, query *dns.Msg, tcp bool) *dns.Msg {
			if query.IsEdns0() != nil {
				return fails(dns.RcodeFormatError)(reply, query, tcp)
			}
			return says("192.0.2.9")(reply, query, tcp)
		}, conf: two, want: "192.0.2.9", most: raceAfter / 2},
		{name: "TCP only", first: func(reply, query *dns.Msg, tcp bool) *dns.Msg {
			if !tcp {
				return nil
			}
			return says("192.0.2.9")(reply, query, tcp)
		}, conf: two + ";options use-vc", want: "192.0.2.9", most: raceAfter / 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var second *hostServer
			if c.first != nil {
				startServer(t, "127.0.0.11", c.first)
			}
			if c.second != nil {
				second = startServer(t, "127.0.0.12", c.second)
			}
			got, took := lookUp(t, newUpstreams(dnsPort), c.conf, "a.example.")
			if got != c.want && (c.want != "error: " || !strings.HasPrefix(got, c.want)) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			// A busy machine adds to the most.
			if took < c.atLeast || took > c.most+time.Second {
				t.Errorf("took %v, want %v to %v", took, c.atLeast, c.most)
			}
			if second != nil && (len(second.questions()) > 0) != c.both {
				t.Errorf("the second was asked %q", second.questions())
			}
		})
	}
}

// One that is silent costs a wait a few times, then it is asked last, and when
// it is back it has its place again.
func TestSilentUpstream(t *testing.T) {
	var mu sync.Mutex
	dead := true
	first := startServer(t, "127.0.0.11", func(reply, query *dns.Msg, tcp bool) *dns.Msg {
		mu.Lock()
		defer mu.Unlock()
		if dead {
			return nil
		}
		return says("192.0.2.1")(reply, query, tcp)
	})
	startServer(t, "127.0.0.12", says("192.0.2.2"))
	u := newUpstreams(dnsPort)
	const conf = "nameserver 127.0.0.11;nameserver 127.0.0.12"
	for range maxSilent {
		if got, took := lookUp(t, u, conf, "a.example."); got != "192.0.2.2" || took < raceAfter {
			t.Fatalf("%s after %v", got, took)
		}
	}
	asked := len(first.questions())
	for range 10 {
		if got, took := lookUp(t, u, conf, "a.example."); got != "192.0.2.2" || took > raceAfter {
			t.Errorf("%s after %v: the silent one was waited for", got, took)
		}
	}
	if now := len(first.questions()); now != asked {
		t.Errorf("the silent one was asked %d times more", now-asked)
	}
	mu.Lock()
	dead = false
	mu.Unlock()
	u.mu.Lock()
	u.health[netip.MustParseAddr("127.0.0.11")].retry = time.Now().Add(-1)
	u.mu.Unlock()
	lookUp(t, u, conf, "a.example.") // it is tried beside
	u.probes.Wait()
	if got, _ := lookUp(t, u, conf, "a.example."); got != "192.0.2.1" {
		t.Errorf("after it has answered again: %s", got)
	}
}

func TestUpstreamTimeoutAndAttempts(t *testing.T) {
	h := startServer(t, "127.0.0.11", silent)
	got, took := lookUp(t, newUpstreams(dnsPort), "nameserver 127.0.0.11;options timeout:1 attempts:2", "a.example.")
	if !strings.HasPrefix(got, "error: no resolver") || took < 2*time.Second || took > 4*time.Second {
		t.Errorf("%s after %v", got, took)
	}
	if n := len(h.questions()); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
}

func TestUpstreamRotate(t *testing.T) {
	startServer(t, "127.0.0.11", says("192.0.2.1"))
	startServer(t, "127.0.0.12", says("192.0.2.2"))
	u := newUpstreams(dnsPort)
	seen := map[string]int{}
	for range 10 {
		got, _ := lookUp(t, u, "nameserver 127.0.0.11;nameserver 127.0.0.12;options rotate", "a.example.")
		seen[got]++
	}
	if seen["192.0.2.1"] != 5 || seen["192.0.2.2"] != 5 {
		t.Errorf("answers %v", seen)
	}
}

// What does not answer the question is not believed, whoever sends it: the
// answer that does is waited for. Ids and ports are other ones each time.
func TestForgedAnswers(t *testing.T) {
	packets, err := net.ListenPacket("udp", "127.0.0.11:"+dnsPort)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	ids, ports := map[uint16]bool{}, map[int]bool{}
	var wait sync.WaitGroup
	wait.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if err := q.Unpack(buf[:n]); err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			ids[q.Id], ports[from.(*net.UDPAddr).Port] = true, true
			mu.Unlock()
			good := says("192.0.2.1")(new(dns.Msg).SetReply(q), q, false)
			for _, forge := range []func(m *dns.Msg){
				func(m *dns.Msg) { m.Id++ },
				func(m *dns.Msg) { m.Question[0].Name = "b.example." },
				func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
				func(m *dns.Msg) { m.Question = nil },
				func(m *dns.Msg) { m.Response = false },
				nil,
			} {
				m := good.Copy()
				if forge != nil {
					m.Answer = says("203.0.113.66")(new(dns.Msg).SetReply(q), q, false).Answer
					forge(m)
				}
				wire, _ := m.Pack()
				_, _ = packets.WriteTo(wire, from)
			}
			_, _ = packets.WriteTo([]byte("rubbish"), from)
		}
	})
	t.Cleanup(func() {
		_ = packets.Close()
		wait.Wait()
	})
	u := newUpstreams(dnsPort)
	for range 20 {
		if got, _ := lookUp(t, u, "nameserver 127.0.0.11", "a.example."); got != "192.0.2.1" {
			t.Fatalf("got %q", got)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ids) < 19 || len(ports) < 10 {
		t.Errorf("%d ids and %d ports in 20 questions", len(ids), len(ports))
	}
}

func FuzzParseAnswer(f *testing.F) {
	question := new(dns.Msg).SetQuestion("a.example.", dns.TypeA)
	question.Id = 7
	for _, m := range []*dns.Msg{
		says("192.0.2.1")(new(dns.Msg).SetReply(question), question, false),
		fails(dns.RcodeNameError)(new(dns.Msg).SetReply(question), question, false),
		fails(dns.RcodeFormatError)(new(dns.Msg).SetReply(question), question, false),
	} {
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
		f.Add(wire[:len(wire)-1])
		m.Truncated = true
		wire, _ = m.Pack()
		f.Add(wire[:len(wire)-1])
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		m := parseAnswer(wire, question)
		if m == nil {
			return
		}
		if m.Id != question.Id || !m.Response || len(m.Question) == 1 && !strings.EqualFold(m.Question[0].Name, "a.example.") {
			t.Errorf("believed %v", m)
		}
		c := newAnswerCache()
		now := time.Unix(1_000_000, 0)
		c.put(cacheKey{}, m, now, maxTTL)
		if kept := c.get(cacheKey{}, now); kept != nil && len(kept.Answer) != len(m.Answer) {
			t.Errorf("kept %v of %v", kept, m)
		}
	})
}
