package cni

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// What is kept of the answers of the host's resolvers.
const (
	maxCacheBytes   = 1 << 20 // of messages; about as much again goes into finding them
	maxCacheEntries = 4096
	maxTTL          = time.Hour
	maxNegativeTTL  = 30 * time.Second
	// failureTTL is for what no resolver could answer (RFC 9520, section 3.2).
	failureTTL = 2 * time.Second
	// nearTTL is for answers of a resolver on this machine: it keeps them
	// itself, and it learns when a VPN comes or goes.
	nearTTL = 5 * time.Second
)

// cacheKey is a question and all else that its answer depends on.
type cacheKey struct {
	name        string // in lower case
	kind, class uint16
	dnssec      bool // DO: with signatures
	unchecked   bool // CD
}

// answerCache keeps messages for as long as they say, the least recently used
// ones first to go. It has no timer: what is too old is found so when it is
// asked for, or goes when room is needed. Safe for concurrent use.
type answerCache struct {
	mu      sync.Mutex
	entries map[cacheKey]*list.Element // of *cacheEntry
	recent  *list.List                 // the most recently used first
	bytes   int
}

type cacheEntry struct {
	key         cacheKey
	wire        []byte // the message
	kept, until time.Time
}

func newAnswerCache() *answerCache {
	c := &answerCache{}
	c.clear()
	return c
}

func (c *answerCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries, c.recent, c.bytes = map[cacheKey]*list.Element{}, list.New(), 0
}

// get returns the message for k with its TTLs counted down; nil when there is
// none.
func (c *answerCache) get(k cacheKey, now time.Time) *dns.Msg {
	c.mu.Lock()
	e := c.entries[k]
	if e == nil {
		c.mu.Unlock()
		return nil
	}
	entry := e.Value.(*cacheEntry)
	if !now.Before(entry.until) {
		c.drop(e)
		c.mu.Unlock()
		return nil
	}
	c.recent.MoveToFront(e)
	c.mu.Unlock()
	m := new(dns.Msg)
	if m.Unpack(entry.wire) != nil {
		return nil
	}
	age := uint32(now.Sub(entry.kept) / time.Second)
	left := uint32((entry.until.Sub(now) + time.Second - 1) / time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			h := rr.Header()
			h.Ttl = min(h.Ttl-min(age, h.Ttl), left)
		}
	}
	return m
}

// put keeps a message for k, at most for limit.
func (c *answerCache) put(k cacheKey, m *dns.Msg, now time.Time, limit time.Duration) {
	ttl := min(keepFor(m), limit)
	if ttl <= 0 {
		return
	}
	wire, err := m.Pack()
	if err != nil || len(wire) > maxCacheBytes/16 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[k]; e != nil {
		c.drop(e)
	}
	c.entries[k] = c.recent.PushFront(&cacheEntry{key: k, wire: wire, kept: now, until: now.Add(ttl)})
	c.bytes += len(wire)
	for c.bytes > maxCacheBytes || len(c.entries) > maxCacheEntries {
		c.drop(c.recent.Back())
	}
}

// drop removes an entry. The caller holds mu.
func (c *answerCache) drop(e *list.Element) {
	entry := c.recent.Remove(e).(*cacheEntry)
	delete(c.entries, entry.key)
	c.bytes -= len(entry.wire)
}

// keepFor is how long a message may be kept: as long as every record in it; one
// that says there is nothing, as long as its SOA says (RFC 2308); one that says
// neither, not at all.
func keepFor(m *dns.Msg) time.Duration {
	switch {
	case m.Truncated:
		return 0
	case m.Rcode == dns.RcodeServerFailure:
		return failureTTL
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return 0
	}
	ttl, limit := maxTTL, maxTTL
	negative := m.Rcode == dns.RcodeNameError || !answers(m)
	if negative {
		limit = 0
	}
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
			if soa, ok := rr.(*dns.SOA); ok && negative {
				limit = min(time.Duration(soa.Minttl)*time.Second, maxNegativeTTL)
			}
		}
	}
	return min(ttl, limit)
}

// answers tells whether a message has what was asked for: not only the aliases
// on the way there.
func answers(m *dns.Msg) bool {
	for _, rr := range m.Answer {
		kind := rr.Header().Rrtype
		if len(m.Question) != 1 || m.Question[0].Qtype == dns.TypeANY || kind == m.Question[0].Qtype {
			return true
		}
	}
	return false
}
