package cni

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/relay"
)

const (
	// maxConnecting is how many connections of one pod may wait for their
	// destinations. For one more, the one that has waited longest is given up:
	// its pod will ask again.
	maxConnecting = 1024
	// connectTimeout is how long a destination has to answer. Then it is asked
	// anew when the pod asks again, which it does until its own timeout.
	connectTimeout = 60 * time.Second
	// acceptTimeout is how long a pod has to go on with a connection whose
	// destination has answered.
	acceptTimeout = 30 * time.Second
)

// A destination that vanishes without a word is noticed after 4 minutes.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Minute, Interval: 30 * time.Second, Count: 4}

// ends is a connection or conversation as the pod sees it.
type ends struct{ pod, outside netip.AddrPort }

// connector makes the pods' connections to the outside anew from the host. A
// pod's SYN waits until the destination has answered, so that what that says is
// what the pod is told: a refusal as such, nothing as nothing.
//
//	pod                       connector                        destination
//	 |--SYN------------------->| dial ----------------------------->|
//	 |                         |<---------------- accepts, refuses, |
//	 |<--RST or ICMP error-----| or not                 unreachable |
//	 |                         | release(SYN): a listening socket   |
//	 |<--SYN+ACK---------------| of ours gets it                    |
//	 |--ACK------------------->| accepted: both are joined          |
type connector struct {
	ctx  context.Context
	log  *slog.Logger
	rule rules
	// release lets a SYN through to what accepts it.
	release func(syn []byte) error
	// answer sends a packet to a pod.
	answer func([]byte)

	wait  sync.WaitGroup
	mu    sync.Mutex
	known map[ends]*connection
	// connecting are the pods' connections that wait, the oldest first.
	connecting map[netip.Addr]*list.List
}

func newConnector(ctx context.Context, log *slog.Logger, rule rules, answer func([]byte)) *connector {
	return &connector{
		ctx: ctx, log: log, rule: rule, answer: answer,
		known: map[ends]*connection{}, connecting: map[netip.Addr]*list.List{},
	}
}

// connection is one that a pod has asked for.
type connection struct {
	ends    ends
	cancel  context.CancelFunc
	place   *list.Element // among those that wait; nil afterwards
	outside *net.TCPConn  // nil until the destination has answered
	expire  *time.Timer   // not before that either
	joined  bool
}

// syn takes a pod's request for a connection. It does not block.
func (c *connector) syn(p packet) {
	from, to := p.ports()
	f := ends{from, to}
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.known[f]; known != nil {
		if known.outside != nil {
			_ = c.release(p.raw) // sent again: the kernel knows what it is about
		}
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, connectTimeout)
	n := &connection{ends: f, cancel: cancel}
	waiting := c.connecting[from.Addr()]
	if waiting == nil {
		waiting = list.New()
		c.connecting[from.Addr()] = waiting
	}
	if waiting.Len() >= maxConnecting {
		waiting.Front().Value.(*connection).cancel()
		c.forget(waiting.Front().Value.(*connection))
	}
	c.known[f], n.place = n, waiting.PushBack(n)
	p.raw = append([]byte(nil), p.raw...)
	p, _ = parsePacket(p.raw)
	c.wait.Go(func() { c.dial(ctx, n, p) })
}

// dial connects to the destination and tells the pod.
func (c *connector) dial(ctx context.Context, n *connection, syn packet) {
	defer n.cancel()
	outside, err := c.rule.dialTCP(ctx, n.ends.outside)
	if err != nil {
		c.log.Debug("connect for a pod", "to", n.ends.outside, "err", err)
		c.mu.Lock()
		known := c.known[n.ends] == n
		c.forget(n)
		c.mu.Unlock()
		if known {
			c.refuse(syn, err)
		}
		return
	}
	c.mu.Lock()
	if c.known[n.ends] != n { // given up in the meantime
		c.mu.Unlock()
		abort(outside)
		return
	}
	c.noLongerConnecting(n)
	n.outside = outside
	n.expire = time.AfterFunc(acceptTimeout, func() { c.expired(n) })
	err = c.release(syn.raw)
	c.mu.Unlock()
	if err != nil {
		c.log.Debug("accept from a pod", "to", n.ends.outside, "err", err)
	}
}

// expired gives a connection up with which the pod has not gone on.
func (c *connector) expired(n *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !n.joined {
		c.forget(n)
		abort(n.outside)
	}
}

// accepted joins what a listening socket has accepted with its destination.
// It returns when both are done.
func (c *connector) accepted(f ends, inside relay.Half) {
	c.mu.Lock()
	n := c.known[f]
	if n == nil || n.outside == nil || n.joined {
		c.mu.Unlock()
		_ = inside.Close()
		return
	}
	n.joined = true
	n.expire.Stop()
	c.mu.Unlock()
	relay.Join(c.ctx, inside, n.outside)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(n)
}

// refuse tells the pod why there is no connection.
func (c *connector) refuse(syn packet, err error) {
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		c.answer(reset(syn))
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, unix.ETIMEDOUT), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		// The pod asks again, or no longer.
	default:
		c.answer(unreachable(syn.to, err).about(syn.head()))
	}
}

// close waits for all that was begun; its context has ended.
func (c *connector) close() {
	c.wait.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.known {
		n.expire.Stop()
		abort(n.outside)
	}
}

// forget and noLongerConnecting are called with mu.
func (c *connector) forget(n *connection) {
	c.noLongerConnecting(n)
	if c.known[n.ends] == n {
		delete(c.known, n.ends)
	}
}

func (c *connector) noLongerConnecting(n *connection) {
	if n.place == nil {
		return
	}
	pod := n.ends.pod.Addr()
	waiting := c.connecting[pod]
	waiting.Remove(n.place)
	n.place = nil
	if waiting.Len() == 0 {
		delete(c.connecting, pod)
	}
}

// abort closes a connection with a reset.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// rules say what pods reach.
type rules struct {
	// hosts are addresses that stand for others: the host's loopback. The zero
	// Addr is refused.
	hosts map[netip.Addr]netip.Addr
}

// errForbidden is for what is this machine's own, by an address that no router
// would pass on.
var errForbidden = errors.New("not an address of the outside")

// destination is where what is sent to an address goes.
func (r rules) destination(to netip.AddrPort) (netip.AddrPort, error) {
	if host, ok := r.hosts[to.Addr()]; ok {
		if !host.IsValid() {
			return netip.AddrPort{}, unix.ECONNREFUSED
		}
		return netip.AddrPortFrom(host, to.Port()), nil
	}
	a := to.Addr().Unmap()
	if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.AddrPort{}, errForbidden
	}
	return netip.AddrPortFrom(a, to.Port()), nil
}

// otherLoopback is the loopback address of the other family; of any other
// address the zero Addr.
func otherLoopback(a netip.Addr) netip.Addr {
	switch {
	case !a.IsLoopback():
		return netip.Addr{}
	case a.Is4():
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func (r rules) dialTCP(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	to, err := r.destination(to)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{KeepAliveConfig: keepAlive}
	c, err := dialer.DialContext(ctx, "tcp", to.String())
	if other := otherLoopback(to.Addr()); other.IsValid() && errors.Is(err, unix.ECONNREFUSED) {
		// Servers on localhost listen on either.
		if again, err2 := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(other, to.Port()).String()); err2 == nil {
			c, err = again, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// unreachable is the ICMP error that makes the sender's kernel say err.
func unreachable(to netip.Addr, err error) icmpError {
	kinds := map[error][2]byte{ // by RFC 792 and RFC 4443: the code in each
		unix.ECONNREFUSED: {3, 4}, unix.ENETUNREACH: {0, 0}, unix.EHOSTUNREACH: {1, 3}, nil: {13, 1},
	}
	code := kinds[nil]
	for errno, c := range kinds {
		if errno != nil && errors.Is(err, errno) {
			code = c
		}
	}
	if to.Is4() {
		return icmpError{kind: 3, code: code[0]}
	}
	return icmpError{kind: 1, code: code[1]}
}
