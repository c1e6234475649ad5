package cni

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// raceAfter is how long a resolver has before the next one is asked too.
	raceAfter = 300 * time.Millisecond
	// deferTo is how long a resolver's "there is none" waits for one that stands
	// before it in resolv.conf, and may know names that it does not.
	deferTo = 1500 * time.Millisecond
	// A resolver that was silent that often, one time after the other, is asked
	// last for that long; then it is tried again beside the others.
	maxSilent = 3
	coolDown  = 30 * time.Second
	// maxAsk bounds a question, whatever resolv.conf says.
	maxAsk = 20 * time.Second
	// ednsSize is what resolvers may send over UDP (DNS Flag Day 2020).
	ednsSize = 1232
)

// upstreams asks the host's resolvers as resolv.conf(5) says: in turn, with its
// timeout, attempts and rotate. But a slow one is not waited for that long: the
// next is asked beside it. Safe for concurrent use.
type upstreams struct {
	port string // "53" but in tests

	probes sync.WaitGroup // silent servers that are tried again; they end with their context

	mu     sync.Mutex
	health map[netip.Addr]*health
	turn   int // of rotate
}

// health is what is remembered of a resolver.
type health struct {
	silent int       // questions since it last answered
	retry  time.Time // when it is asked again although it is silent
}

func newUpstreams(port string) *upstreams {
	return &upstreams{port: port, health: map[netip.Addr]*health{}}
}

// forget makes all resolvers new ones.
func (u *upstreams) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	clear(u.health)
}

// order returns the servers in the order in which they are asked, and those of
// them that are only tried: nobody waits for these.
func (u *upstreams) order(conf hostResolver, now time.Time) (servers, tried []netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := slices.Clone(conf.ask())
	if conf.rotate {
		u.turn++
		at := u.turn % len(all)
		all = append(all[at:], all[:at]...)
	}
	var silent []netip.Addr
	for _, s := range all {
		h := u.health[s]
		if h == nil || h.silent < maxSilent {
			servers = append(servers, s)
			continue
		}
		silent = append(silent, s)
		if now.After(h.retry) {
			h.retry = now.Add(coolDown)
			tried = append(tried, s)
		}
	}
	if len(servers) == 0 {
		return silent, nil
	}
	return append(servers, silent...), tried
}

// heard notes whether a server that was asked has answered.
func (u *upstreams) heard(server netip.Addr, answered bool, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if answered {
		delete(u.health, server)
		return
	}
	h := u.health[server]
	if h == nil {
		h = &health{}
		u.health[server] = h
	}
	if h.silent++; h.silent == maxSilent {
		h.retry = now.Add(coolDown)
	}
}

// reply is what came of asking one server.
type reply struct {
	server int // its place in the order
	msg    *dns.Msg
	err    error
}

// ask returns the answer of the first resolver that has one, or else what the
// first in the order had to say, or an error when none said anything. What it
// learns of silent ones goes on until ctx ends.
func (u *upstreams) ask(ctx context.Context, query *dns.Msg, conf hostResolver) (*dns.Msg, error) {
	servers, tried := u.order(conf, time.Now())
	for _, s := range tried {
		u.probes.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, conf.timeout)
			defer cancel()
			_, err := u.exchange(ctx, query, s, conf)
			u.heard(s, !errors.Is(err, context.DeadlineExceeded), time.Now())
		})
	}
	// Not ctx: what learns of silent ones has that.
	during, cancel := context.WithTimeout(ctx, min(time.Duration(conf.attempts)*conf.timeout, maxAsk))
	defer cancel()
	replies := make(chan reply, len(servers)*conf.attempts)
	var wait sync.WaitGroup
	defer wait.Wait() // after cancel: nothing is left when this returns
	defer cancel()
	send := func(i int) {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(during, conf.timeout)
			defer cancel()
			m, err := u.exchange(ctx, query, servers[i], conf)
			replies <- reply{i, m, err}
		})
	}
	r := race{conf: conf, began: make([]time.Time, len(servers)), replies: make([]*reply, len(servers)), send: send}
	m, err := r.run(during, replies)
	now := time.Now()
	for i, s := range servers {
		switch {
		case r.began[i].IsZero():
		case r.replies[i] != nil:
			// An error is an answer of the network: it takes no time.
			u.heard(s, true, now)
		case now.Sub(r.began[i]) >= raceAfter:
			u.heard(s, false, now)
		}
	}
	return m, err
}

// race is one question on its way to several servers.
type race struct {
	conf    hostResolver
	send    func(server int)
	began   []time.Time // when each server was asked last
	replies []*reply    // what each said last; nil: it is silent
}

func (r *race) start(i int) {
	r.began[i] = time.Now()
	r.send(i)
}

// run asks one server after the other, round after round those that were
// silent.
func (r *race) run(ctx context.Context, replies <-chan reply) (*dns.Msg, error) {
	next, round := 0, 1
	asked := func() { // the next server that has not answered yet
		for ; next < len(r.began); next++ {
			if r.began[next].IsZero() || round > 1 && r.replies[next] == nil {
				r.start(next)
				next++
				return
			}
		}
	}
	asked()
	roundBegan := time.Now()
	timer := time.NewTimer(raceAfter)
	defer timer.Stop()
	for {
		if m, done := r.decide(); done {
			if m == nil {
				return nil, r.failure()
			}
			return m, nil
		}
		select {
		case got := <-replies:
			if got.err != nil && errors.Is(got.err, context.DeadlineExceeded) {
				continue // it stays silent
			}
			r.replies[got.server] = &got
			if !got.final() && next < len(r.began) {
				asked()
				timer.Reset(raceAfter)
			}
		case now := <-timer.C:
			if next >= len(r.began) && now.Sub(roundBegan) >= r.conf.timeout && round < r.conf.attempts {
				next, roundBegan = 0, now
				round++
			}
			asked()
			// Also the time at which decide no longer waits for a silent one.
			timer.Reset(raceAfter)
		case <-ctx.Done():
			if m := r.best(); m != nil {
				return m, nil
			}
			return nil, r.failure()
		}
	}
}

// final tells whether a server has said something that another would not say
// differently.
func (r *reply) final() bool {
	return r.err == nil && (r.msg.Rcode == dns.RcodeSuccess || r.msg.Rcode == dns.RcodeNameError)
}

// decide tells whether the question is answered, or cannot be.
func (r *race) decide() (*dns.Msg, bool) {
	waiting := false // for a server before the one that is looked at
	for i, got := range r.replies {
		switch {
		case got == nil:
			waiting = waiting || r.began[i].IsZero() || time.Since(r.began[i]) < deferTo
		case got.final() && (!waiting || answers(got.msg)):
			return got.msg, true
		}
	}
	m := r.best()
	for i, got := range r.replies {
		// With something to say, one that stays silent is not waited for.
		if got == nil && (m == nil || r.began[i].IsZero() || time.Since(r.began[i]) < deferTo) {
			return nil, false
		}
	}
	return m, true
}

// best is what is said when no server has an answer: what the first did say.
func (r *race) best() *dns.Msg {
	var failed *dns.Msg
	for _, got := range r.replies {
		switch {
		case got == nil || got.err != nil:
		case got.final():
			return got.msg
		case failed == nil:
			failed = got.msg
		}
	}
	return failed
}

func (r *race) failure() error {
	var errs []error
	for _, got := range r.replies {
		if got != nil && got.err != nil {
			errs = append(errs, got.err)
		}
	}
	if len(errs) == 0 {
		return errors.New("no resolver of the host answers")
	}
	return errors.Join(errs...)
}

// exchange asks one server, over TCP when the answer does not fit into a
// packet, and without EDNS when it does not know that.
func (u *upstreams) exchange(ctx context.Context, query *dns.Msg, server netip.Addr, conf hostResolver) (*dns.Msg, error) {
	network := "udp"
	if conf.tcp {
		network = "tcp"
	}
	m, err := u.over(ctx, network, query, server)
	if err == nil && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) && query.IsEdns0() != nil {
		plain := query.Copy()
		plain.Extra = nil
		query = plain
		m, err = u.over(ctx, network, query, server)
	}
	if err == nil && m.Truncated && network == "udp" {
		m, err = u.over(ctx, "tcp", query, server)
	}
	return m, err
}

// over asks one server over one protocol. Each question has a socket of its
// own, so that its port, which the kernel chooses, is as hard to guess as its
// id; what does not answer it is not looked at (RFC 5452).
func (u *upstreams) over(ctx context.Context, network string, query *dns.Msg, server netip.Addr) (*dns.Msg, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, net.JoinHostPort(server.String(), u.port))
	if err != nil {
		return nil, silence(ctx, err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	question := query.Copy()
	question.Id = dns.Id()
	wire, err := question.Pack()
	if err != nil {
		return nil, err
	}
	if network == "tcp" {
		wire = append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
	}
	if _, err := conn.Write(wire); err != nil {
		return nil, silence(ctx, err)
	}
	buf := make([]byte, ednsSize)
	if network == "tcp" {
		buf = make([]byte, dns.MaxMsgSize)
	}
	for {
		n, err := readMessage(conn, network, buf)
		if err != nil {
			return nil, silence(ctx, err)
		}
		if m := parseAnswer(buf[:n], question); m != nil {
			return m, nil
		}
		if network == "tcp" {
			return nil, fmt.Errorf("resolver %s: its answer is to another question", server)
		}
	}
}

func readMessage(conn net.Conn, network string, buf []byte) (int, error) {
	if network == "udp" {
		return conn.Read(buf)
	}
	if _, err := io.ReadFull(conn, buf[:2]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	return io.ReadFull(conn, buf[:n])
}

// parseAnswer reads an answer to question; nil when it is not one.
func parseAnswer(wire []byte, question *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	err := m.Unpack(wire)
	if !m.Response || m.Id != question.Id || m.Opcode != dns.OpcodeQuery {
		return nil
	}
	if err != nil {
		if m.Truncated { // it may end anywhere
			return &dns.Msg{MsgHdr: m.MsgHdr, Question: question.Question}
		}
		return nil
	}
	want := question.Question[0]
	switch {
	case len(m.Question) == 1:
		got := m.Question[0]
		if !strings.EqualFold(got.Name, want.Name) || got.Qtype != want.Qtype || got.Qclass != want.Qclass {
			return nil
		}
	case len(m.Question) == 0 && m.Rcode == dns.RcodeFormatError:
		// One that could not read the question cannot repeat it.
	default:
		return nil
	}
	return m
}

// silence makes of an error that only says that time is over that of ctx.
func silence(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.DeadlineExceeded
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return context.DeadlineExceeded
	}
	return err
}
