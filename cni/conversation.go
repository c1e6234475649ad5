package cni

import (
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxConversations is how many conversations one pod may have at a time, each
	// with a descriptor. The one that was silent longest makes room.
	maxConversations = 1024
	// A conversation ends after that long without a word of either side: RFC 4787
	// has two minutes. One that was never answered ends sooner.
	conversationTimeout = 2 * time.Minute
	unansweredTimeout   = 30 * time.Second
)

// conversations are the pods' UDP and ping with the outside: for each pod,
// port, destination and port a connected socket in the host's network
// namespace. Only the destination's answers come back through it.
type conversations struct {
	ctx    context.Context
	log    *slog.Logger
	rule   rules
	answer func([]byte) // sends a packet to a pod

	wait  sync.WaitGroup
	mu    sync.Mutex
	known map[conversationKey]*conversation
	byPod map[netip.Addr]*list.List // the longest silent first
}

func newConversations(ctx context.Context, log *slog.Logger, rule rules, answer func([]byte)) *conversations {
	return &conversations{
		ctx: ctx, log: log, rule: rule, answer: answer,
		known: map[conversationKey]*conversation{}, byPod: map[netip.Addr]*list.List{},
	}
}

// conversationKey has, for ping, the echo request's identifier in the place of
// the pod's port.
type conversationKey struct {
	ends
	protocol byte
}

type conversation struct {
	key   conversationKey
	place *list.Element // in byPod
	file  *os.File
	raw   syscall.RawConn
	ping  *ping // nil for UDP

	last     atomic.Int64 // when it last spoke, in nanoseconds since 1970
	answered atomic.Bool

	mu   sync.Mutex
	head []byte // of the last packet, for errors about it
	hops byte   // what the socket sends with
}

// packet passes on a UDP datagram or an echo request. It does not block.
func (c *conversations) packet(p packet) {
	var key conversationKey
	payload := p.transport
	switch {
	case p.protocol == unix.IPPROTO_UDP && len(p.transport) >= udpHeader:
		from, to := p.ports()
		key = conversationKey{ends{from, to}, p.protocol}
		payload = payload[udpHeader:]
	case isEchoRequest(p):
		id := binary.BigEndian.Uint16(p.transport[4:])
		key = conversationKey{ends{netip.AddrPortFrom(p.from, id), netip.AddrPortFrom(p.to, 0)}, p.protocol}
	default:
		return
	}
	n, err := c.find(key)
	if err == nil {
		err = n.send(p, payload)
	}
	switch {
	case err == nil, errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, os.ErrClosed):
		// Sent, or lost as datagrams may be.
	default:
		c.log.Debug("datagram of a pod", "to", key.outside, "err", err)
		c.answer(unreachable(p.to, err).about(p.head()))
	}
}

// find returns a conversation, a new one if need be.
func (c *conversations) find(key conversationKey) (*conversation, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pod := key.pod.Addr()
	if n := c.known[key]; n != nil {
		c.byPod[pod].MoveToBack(n.place)
		return n, nil
	}
	n, err := c.open(key)
	if err != nil {
		return nil, err
	}
	of := c.byPod[pod]
	if of == nil {
		of = list.New()
		c.byPod[pod] = of
	}
	if of.Len() >= maxConversations {
		c.end(of.Front().Value.(*conversation))
	}
	c.known[key], n.place = n, of.PushBack(n)
	if c.byPod[pod] == nil { // ended with its last
		c.byPod[pod] = of
	}
	c.wait.Go(func() {
		n.listen(c)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.end(n)
	})
	return n, nil
}

// end is called with mu, once or more often.
func (c *conversations) end(n *conversation) {
	if n.place == nil {
		return
	}
	_ = n.file.Close()
	of := c.byPod[n.key.pod.Addr()]
	of.Remove(n.place)
	n.place = nil
	if of.Len() == 0 {
		delete(c.byPod, n.key.pod.Addr())
	}
	delete(c.known, n.key)
}

// close ends all conversations.
func (c *conversations) close() {
	c.mu.Lock()
	for _, n := range c.known {
		c.end(n)
	}
	c.mu.Unlock()
	c.wait.Wait()
}

func (c *conversations) open(key conversationKey) (*conversation, error) {
	to, err := c.rule.destination(key.outside)
	if err != nil {
		return nil, err
	}
	n := &conversation{key: key}
	n.last.Store(time.Now().UnixNano()) // what opens it is about to be sent
	var fd int
	if key.protocol == unix.IPPROTO_UDP {
		fd, err = unix.Socket(family(to.Addr()), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
		err = os.NewSyscallError("socket", err)
	} else {
		n.ping = &ping{}
		fd, err = n.ping.open(to.Addr())
	}
	if err != nil {
		return nil, err
	}
	if err := connectDatagrams(fd, to); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	n.file = os.NewFile(uintptr(fd), "datagrams")
	if n.raw, err = n.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, n.file.Close())
	}
	return n, nil
}

// connectDatagrams binds a socket to one destination and asks for what routers
// say of its packets.
func connectDatagrams(fd int, to netip.AddrPort) error {
	level, option := unix.SOL_IP, unix.IP_RECVERR
	if to.Addr().Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_RECVERR
	}
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	return os.NewSyscallError("connect", unix.Connect(fd, sockaddr(to)))
}

// send passes a pod's payload on, as far as the pod wants it to go.
func (n *conversation) send(p packet, payload []byte) error {
	n.last.Store(time.Now().UnixNano())
	n.mu.Lock()
	defer n.mu.Unlock()
	n.head = append(n.head[:0], p.head()...)
	if n.ping != nil {
		payload = n.ping.request(payload)
	}
	var err error
	outer := n.raw.Write(func(fd uintptr) bool {
		if n.hops != p.hops {
			n.hops = p.hops
			if p.to.Is4() {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TTL, int(p.hops))
			} else {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, int(p.hops))
			}
			if err != nil {
				return true
			}
		}
		for range 2 {
			// The first may return what became of an earlier one.
			_, err = unix.SendmsgN(int(fd), payload, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			if err == nil || err == unix.EAGAIN {
				break
			}
		}
		return true
	})
	if outer != nil {
		return os.ErrClosed // in the meantime; package os does not say it so
	}
	return err
}

// buffers are for packets of any size, so that a silent conversation holds
// none.
var buffers = sync.Pool{New: func() any { return new([vnetHeader + ipv6Header + maxPacket]byte) }}

// listen brings answers to the pod until both sides have been silent for long
// or the file is closed.
func (n *conversation) listen(c *conversations) {
	for {
		idle := unansweredTimeout
		if n.answered.Load() {
			idle = conversationTimeout
		}
		until := time.Unix(0, n.last.Load()).Add(idle)
		if !time.Now().Before(until) {
			return
		}
		if err := n.file.SetReadDeadline(until); err != nil {
			return
		}
		err := n.raw.Read(func(fd uintptr) bool { return n.drain(int(fd), c) })
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

// drain takes all that the socket has; it always wants to be called again.
func (n *conversation) drain(fd int, c *conversations) bool {
	buf := buffers.Get().(*[vnetHeader + ipv6Header + maxPacket]byte)
	defer buffers.Put(buf)
	head := vnetHeader + ipv4Header
	if n.key.pod.Addr().Is6() {
		head = vnetHeader + ipv6Header
	}
	if n.ping == nil {
		head += udpHeader
	}
	for got := 0; ; {
		k, _, err := unix.Recvfrom(fd, buf[head:], unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			// Called for nothing that can be received: for an error, perhaps.
			if got > 0 || !n.drainErrors(fd, c) {
				return false
			}
		case err != nil:
			// What it is about is in the error queue.
			n.drainErrors(fd, c)
		default:
			got++
			n.last.Store(time.Now().UnixNano())
			if n.ping != nil {
				n.pingAnswer(buf[:], head, k, c)
				continue
			}
			n.answered.Store(true)
			whole, t := build(buf[:], n.key.outside.Addr(), n.key.pod.Addr(), unix.IPPROTO_UDP, udpHeader+k)
			binary.BigEndian.PutUint16(t, n.key.outside.Port())
			binary.BigEndian.PutUint16(t[2:], n.key.pod.Port())
			binary.BigEndian.PutUint16(t[4:], uint16(udpHeader+k))
			checksumLater(whole, t, 6)
			c.answer(whole)
		}
	}
}

// drainErrors passes on what the network said of packets, and tells whether it
// said anything.
func (n *conversation) drainErrors(fd int, c *conversations) (any bool) {
	var data [maxQuote]byte
	var control [256]byte
	for {
		k, oob, _, _, err := unix.Recvmsg(fd, data[:], control[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return any
		}
		any = true
		e, ok := parseExtendedError(control[:oob], n.key.pod.Addr().Is6())
		if !ok {
			continue
		}
		n.mu.Lock()
		head := append([]byte(nil), n.head...)
		n.mu.Unlock()
		if n.ping != nil && k >= icmpHeader {
			copy(head[len(head)-2:], data[6:8]) // the sequence number of the one that it is about
		}
		c.answer(e.about(head))
	}
}

// maxQuote is as much of a packet as we look at when an error is about it.
const maxQuote = 64

// parseExtendedError reads a sock_extended_err (ip(7)).
func parseExtendedError(control []byte, ipv6 bool) (icmpError, bool) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return icmpError{}, false
	}
	for _, m := range messages {
		v4, v6 := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR, m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		const size = 16
		if !v4 && !v6 || len(m.Data) < size {
			continue
		}
		errno, origin := unix.Errno(binary.NativeEndian.Uint32(m.Data)), m.Data[4]
		e := icmpError{kind: m.Data[5], code: m.Data[6], info: binary.NativeEndian.Uint32(m.Data[8:])}
		if origin != unix.SO_EE_ORIGIN_ICMP && origin != unix.SO_EE_ORIGIN_ICMP6 {
			to := netip.IPv4Unspecified()
			if ipv6 {
				to = netip.IPv6Unspecified()
			}
			return unreachable(to, errno), true
		}
		offender := m.Data[size:]
		switch {
		case v4 && len(offender) >= 8 && binary.NativeEndian.Uint16(offender) == unix.AF_INET:
			e.by = netip.AddrFrom4([4]byte(offender[4:8]))
		case v6 && len(offender) >= 24 && binary.NativeEndian.Uint16(offender) == unix.AF_INET6:
			e.by = netip.AddrFrom16([16]byte(offender[8:24]))
		}
		if e.by.IsLoopback() {
			e.by = netip.Addr{} // the pod knows it by another name
		}
		return e, true
	}
	return icmpError{}, false
}
