package cni

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/eventloop"
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
	// sweepInterval is how much later either may be noticed.
	sweepInterval = time.Second
)

// ends is a connection or conversation as the pod sees it.
type ends struct{ pod, outside netip.AddrPort }

// connector makes the pods' connections to the outside anew from the host. A
// pod's SYN waits until the destination has answered, so that what that says is
// what the pod is told: a refusal as such, nothing as nothing.
//
//	pod                       connector                        destination
//	 |--SYN------------------->| connect ------------------------>|
//	 |                         |<---------------- accepts, refuses, |
//	 |<--RST or ICMP error-----| or not                 unreachable |
//	 |                         | release(SYN): a listening socket   |
//	 |<--SYN+ACK---------------| of ours gets it                    |
//	 |--ACK------------------->| accepted: both are joined          |
//
// All of it happens on the loop's goroutine.
type connector struct {
	loop  *eventloop.Loop
	log   *slog.Logger
	rule  rules
	pipes relay.Pipes
	// release lets a SYN through to what accepts it.
	release func(syn []byte) error
	// answer sends a packet to a pod.
	answer func([]byte)

	known   map[ends]*connection
	sweeper *time.Timer // one for all: each that begins wakes a thread up
	sweepAt time.Time   // when it is due; zero when it is not

	// connecting are the pods' connections that wait, the oldest first.
	connecting map[netip.Addr]*list.List
}

func newConnector(loop *eventloop.Loop, log *slog.Logger, rule rules, answer func([]byte)) *connector {
	return &connector{
		loop: loop, log: log, rule: rule, answer: answer,
		known: map[ends]*connection{}, connecting: map[netip.Addr]*list.List{},
	}
}

// connection is one that a pod has asked for.
type connection struct {
	c        *connector
	ends     ends
	syn      []byte        // what the pod asked with
	place    *list.Element // among those that wait; nil afterwards
	to       netip.AddrPort
	outside  int // socket; -1 when it is not ours, or no longer
	answered bool
	deadline time.Time   // zero when there is none
	pair     *relay.Pair // nil until it was accepted
}

// syn takes a pod's request for a connection.
func (c *connector) syn(p packet) {
	from, to := p.ports()
	f := ends{from, to}
	if known := c.known[f]; known != nil {
		if known.answered {
			_ = c.release(p.raw) // sent again: the kernel knows what it is about
		}
		return
	}
	n := &connection{c: c, ends: f, outside: -1}
	var err error
	if n.to, err = c.rule.destination(to); err == nil {
		err = n.connect()
	}
	if other := otherLoopback(n.to.Addr()); other.IsValid() && errors.Is(err, unix.ECONNREFUSED) {
		// Servers on localhost listen on either.
		n.to = netip.AddrPortFrom(other, n.to.Port())
		if n.connect() == nil {
			err = nil
		}
	}
	if err != nil {
		c.refuse(p, to, err)
		return
	}
	n.syn = append([]byte(nil), p.raw...)
	c.known[f] = n
	if n.answered {
		n.letThrough()
		return
	}
	c.wait(n)
}

// connect begins to connect. What is on this machine answers at once, or
// refuses.
func (n *connection) connect() error {
	fd, err := unix.Socket(family(n.to.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if n.to.Addr().IsLoopback() {
		sendAtOnce(fd) // and nobody vanishes without the kernel's knowledge
	} else {
		setKeepAlive(fd)
	}
	if err = unix.Connect(fd, sockaddr(n.to)); errors.Is(err, unix.EINPROGRESS) {
		err = nil
	}
	if err == nil {
		n.answered, err = n.connected(fd)
	}
	if err != nil {
		return errors.Join(os.NewSyscallError("connect", err), unix.Close(fd))
	}
	n.outside = fd
	return nil
}

// connected is connected for a destination. To a port of this machine where
// nobody listens the kernel may connect from that very port: a socket that speaks
// with itself.
func (n *connection) connected(fd int) (bool, error) {
	there, err := connected(fd)
	if there {
		if self, err := nameOf(fd); err == nil && self == n.to {
			return false, unix.ECONNREFUSED
		}
	}
	return there, err
}

// wait is for a destination that takes its time.
func (c *connector) wait(n *connection) {
	pod := n.ends.pod.Addr()
	waiting := c.connecting[pod]
	if waiting == nil {
		waiting = list.New()
		c.connecting[pod] = waiting
	}
	if waiting.Len() >= maxConnecting {
		waiting.Front().Value.(*connection).giveUp()
		c.connecting[pod] = waiting // it may have been the only one
	}
	n.place = waiting.PushBack(n)
	n.expireAfter(connectTimeout)
	if err := c.loop.Add(n.outside, unix.EPOLLOUT, n); err != nil {
		c.log.Warn("connect for a pod", "to", n.ends.outside, "err", err)
		n.giveUp()
	}
}

// Ready is called when the destination has said something.
func (n *connection) Ready(uint32) {
	answered, err := n.connected(n.outside)
	if !answered && err == nil {
		return
	}
	n.c.loop.Remove(n.outside)
	if err == nil {
		n.c.noLongerConnecting(n)
		n.answered = true
		n.letThrough()
		return
	}
	n.giveUp()
	if syn, ok := parsePacket(n.syn); ok {
		n.c.refuse(syn, n.ends.outside, os.NewSyscallError("connect", err))
	}
}

// letThrough has the pod's request accepted.
func (n *connection) letThrough() {
	n.expireAfter(acceptTimeout)
	if err := n.c.release(n.syn); err != nil {
		n.c.log.Debug("accept from a pod", "to", n.ends.outside, "err", err)
	}
}

// expireAfter gives up a connection in which nothing goes on.
func (n *connection) expireAfter(d time.Duration) {
	n.deadline = time.Now().Add(d)
	n.c.sweepBy(n.deadline)
}

// sweepBy has connections given up that expire until then.
func (c *connector) sweepBy(t time.Time) {
	if !c.sweepAt.IsZero() && !t.Before(c.sweepAt) {
		return
	}
	c.sweepAt = t
	if c.sweeper == nil {
		c.sweeper = time.AfterFunc(time.Until(t), func() { c.loop.Do(c.sweep) })
	} else {
		c.sweeper.Reset(time.Until(t))
	}
}

// sweep gives up connections that have expired.
func (c *connector) sweep() {
	c.sweepAt = time.Time{}
	now := time.Now()
	var next time.Time
	for _, n := range c.known {
		switch {
		case n.deadline.IsZero():
		case !n.deadline.After(now):
			n.giveUp()
		case next.IsZero() || n.deadline.Before(next):
			next = n.deadline
		}
	}
	if !next.IsZero() {
		c.sweepBy(now.Add(max(next.Sub(now), sweepInterval)))
	}
}

// giveUp ends a connection that was not accepted.
func (n *connection) giveUp() {
	n.c.forget(n)
	if n.outside >= 0 {
		n.c.loop.Remove(n.outside)
		relay.Reset(n.outside)
		_ = unix.Close(n.outside)
		n.outside = -1
	}
}

// claim returns the socket to the destination of a connection that was accepted.
func (c *connector) claim(f ends) (n *connection, outside int, ok bool) {
	n = c.known[f]
	if n == nil || !n.answered || n.outside < 0 {
		return nil, -1, false
	}
	outside, n.outside, n.syn, n.deadline = n.outside, -1, nil, time.Time{}
	return n, outside, true
}

// accepted joins what a listening socket has accepted with its destination.
func (c *connector) accepted(f ends, inside int) {
	n, outside, ok := c.claim(f)
	if !ok {
		_ = unix.Close(inside)
		return
	}
	var err error
	if n.pair, err = relay.Splice(c.loop, &c.pipes, inside, outside, func() { c.forget(n) }); err != nil {
		c.log.Warn("join a pod's connection", "to", f.outside, "err", err)
		c.forget(n)
	}
}

// acceptedUser is accepted for a connection of the user-mode TCP. It returns
// when the connection has ended, and is not for the loop's goroutine.
func (c *connector) acceptedUser(ctx context.Context, f ends, inside relay.Half) {
	claimed := make(chan net.Conn, 1)
	var n *connection
	asked := c.loop.Do(func() {
		defer close(claimed)
		known, fd, ok := c.claim(f)
		if !ok {
			return
		}
		n = known
		file := os.NewFile(uintptr(fd), "")
		defer func() { _ = file.Close() }()
		conn, err := net.FileConn(file)
		if err != nil {
			c.log.Warn("join a pod's connection", "to", f.outside, "err", err)
			c.forget(n)
			return
		}
		claimed <- conn
	})
	if !asked {
		close(claimed)
	}
	outside, ok := <-claimed
	if !ok {
		_ = inside.Close()
		return
	}
	relay.Join(ctx, inside, outside.(*net.TCPConn))
	c.loop.Do(func() { c.forget(n) })
}

// refuse tells the pod why there is no connection.
func (c *connector) refuse(syn packet, to netip.AddrPort, err error) {
	c.log.Debug("connect for a pod", "to", to, "err", err)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		c.answer(reset(syn))
	case errors.Is(err, unix.ETIMEDOUT), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		// The pod asks again, or no longer.
	default:
		c.answer(unreachable(syn.to, err).about(syn.head()))
	}
}

// close ends all connections.
func (c *connector) close() {
	if c.sweeper != nil {
		c.sweeper.Stop()
	}
	for _, n := range c.known {
		if n.pair != nil {
			n.pair.Close()
		} else {
			n.giveUp()
		}
	}
}

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
