package cni

import (
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// message is an answer to a question for the name of its first record, which
// may be a comment: "; NAME TYPE RCODE".
func message(t *testing.T, name string, code int, answer, authority []string) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	m.Response, m.Rcode = true, code
	parse := func(lines []string) (out []dns.RR) {
		for _, line := range lines {
			rr, err := dns.NewRR(line)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, rr)
		}
		return out
	}
	m.Answer, m.Ns = parse(answer), parse(authority)
	return m
}

const soaLine = "example. 600 IN SOA ns.example. h.example. 1 2 3 4 "

func TestKeepFor(t *testing.T) {
	for _, c := range []struct {
		name              string
		code              int
		answer, authority []string
		want              time.Duration
	}{
		{"the shortest of all", 0, []string{"a. 60 IN CNAME b.", "b. 20 IN A 192.0.2.1"}, nil, 20 * time.Second},
		{"very long", 0, []string{"a. 999999 IN A 192.0.2.1"}, nil, maxTTL},
		{"not to be kept", 0, []string{"a. 0 IN A 192.0.2.1"}, nil, 0},
		{"no such name", dns.RcodeNameError, nil, []string{soaLine + "10"}, 10 * time.Second},
		{"no such name, long", dns.RcodeNameError, nil, []string{soaLine + "3600"}, maxNegativeTTL},
		{"no such name, without SOA", dns.RcodeNameError, nil, nil, 0},
		{"none of that type", 0, nil, []string{soaLine + "10"}, 10 * time.Second},
		{"an alias of nothing", 0, []string{"a. 60 IN CNAME b."}, []string{soaLine + "10"}, 10 * time.Second},
		{"an alias of nothing, without SOA", 0, []string{"a. 60 IN CNAME b."}, nil, 0},
		{"failed", dns.RcodeServerFailure, nil, nil, failureTTL},
		{"refused", dns.RcodeRefused, nil, nil, 0},
	} {
		if got := keepFor(message(t, "a.", c.code, c.answer, c.authority)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	truncated := message(t, "a.", 0, []string{"a. 60 IN A 192.0.2.1"}, nil)
	if truncated.Truncated = true; keepFor(truncated) != 0 {
		t.Error("a truncated answer is kept")
	}
}

func TestAnswerCache(t *testing.T) {
	c := newAnswerCache()
	now := time.Unix(1_000_000, 0)
	key := cacheKey{name: "a.", kind: dns.TypeA, class: dns.ClassINET}
	c.put(key, message(t, "a.", 0, []string{"a. 60 IN CNAME b.", "b. 20 IN A 192.0.2.1"}, nil), now, maxTTL)
	m := c.get(key, now.Add(15*time.Second+500*time.Millisecond))
	if m == nil || m.Answer[0].Header().Ttl != 5 || m.Answer[1].Header().Ttl != 5 {
		t.Fatalf("after 15.5 s: %v, want what is left of the shortest", m)
	}
	if signed := (cacheKey{name: "a.", kind: dns.TypeA, class: dns.ClassINET, dnssec: true}); c.get(signed, now) != nil {
		t.Error("an answer without signatures for one who wants them")
	}
	if m := c.get(key, now.Add(20*time.Second)); m != nil {
		t.Errorf("after its time: %v", m)
	}
	if c.bytes != 0 || len(c.entries) != 0 {
		t.Errorf("%d bytes, %d entries after it was found too old", c.bytes, len(c.entries))
	}
	c.put(key, message(t, "a.", 0, []string{"a. 60 IN A 192.0.2.1"}, nil), now, nearTTL)
	if c.get(key, now.Add(nearTTL-1)) == nil || c.get(key, now.Add(nearTTL)) != nil {
		t.Error("the limit is not held")
	}
}

func TestAnswerCacheIsBounded(t *testing.T) {
	c := newAnswerCache()
	now := time.Unix(1_000_000, 0)
	long := "x.example. 60 IN TXT " + fmt.Sprintf("%0250d %0250d %0250d %0250d", 1, 2, 3, 4)
	first := cacheKey{name: "0.example."}
	for i := range 3 * maxCacheEntries {
		answer := "x.example. 60 IN A 192.0.2.1"
		if i > maxCacheEntries {
			answer = long
		}
		c.put(cacheKey{name: fmt.Sprintf("%d.example.", i)}, message(t, "x.example.", 0, []string{answer}, nil), now, maxTTL)
		c.get(first, now) // used all the time: stays
		if len(c.entries) > maxCacheEntries || c.bytes > maxCacheBytes || len(c.entries) != c.recent.Len() {
			t.Fatalf("%d entries, %d bytes", len(c.entries), c.bytes)
		}
	}
	if c.entries[first] == nil {
		t.Error("the most used entry has gone")
	}
	if len(c.entries) < 100 {
		t.Errorf("only %d entries", len(c.entries))
	}
}
