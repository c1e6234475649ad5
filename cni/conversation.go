package cni

import (
	"container/list"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/eventloop"
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
//
// All of it happens on the loop's goroutine.
type conversations struct {
	loop  *eventloop.Loop
	log   *slog.Logger
	rule  rules
	write func([]byte) error // sends a packet to a pod

	known  map[conversationKey]*conversation
	byPod  map[netip.Addr]*list.List // the longest silent first
	expire *time.Timer               // nil while there are none
	look   time.Time                 // when it is due
	in     *inbox
	out    outbox
	// apart tells that the TUN device takes datagrams one by one only.
	apart bool
}

func newConversations(loop *eventloop.Loop, log *slog.Logger, rule rules, write func([]byte) error) *conversations {
	return &conversations{
		loop: loop, log: log, rule: rule, write: write,
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
	c     *conversations
	key   conversationKey
	place *list.Element // in byPod; nil when it has ended
	fd    int
	ping  *ping // nil for UDP

	last     time.Time // when it last spoke
	answered bool
	head     []byte // of the last packet, for errors about it
	hops     byte   // what the socket sends with
}

// packet passes on a UDP datagram or an echo request. The caller calls flush
// when there are no more for now.
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
	c.tell(p.to, p.head(), err)
}

// tell tells a pod why a datagram, which begins with head, has not gone where it
// was to go.
func (c *conversations) tell(to netip.Addr, head []byte, err error) {
	switch {
	case err == nil, errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		// Sent, or lost as datagrams may be.
	default:
		c.log.Debug("datagram of a pod", "to", to, "err", err)
		c.answer(unreachable(to, err).about(head))
	}
}

// answer sends a packet to a pod. One that is lost is lost.
func (c *conversations) answer(packet []byte) {
	if err := c.write(packet); err != nil {
		c.log.Debug("to a pod", "err", err)
	}
}

// find returns a conversation, a new one if need be.
func (c *conversations) find(key conversationKey) (*conversation, error) {
	pod := key.pod.Addr()
	if n := c.known[key]; n != nil {
		c.byPod[pod].MoveToBack(n.place)
		return n, nil
	}
	n, err := c.open(key)
	if err != nil {
		return nil, err
	}
	if of := c.byPod[pod]; of != nil && of.Len() >= maxConversations {
		of.Front().Value.(*conversation).end()
	}
	of := c.byPod[pod]
	if of == nil {
		of = list.New()
		c.byPod[pod] = of
	}
	c.known[key], n.place = n, of.PushBack(n)
	if c.expire == nil || c.look.Sub(n.last) > unansweredTimeout {
		c.expireAfter(unansweredTimeout)
	}
	return n, nil
}

// expireAfter ends what has been silent for too long, after a time.
func (c *conversations) expireAfter(d time.Duration) {
	c.stop()
	c.look = time.Now().Add(d)
	c.expire = time.AfterFunc(d, func() { c.loop.Do(func() { c.endSilent(time.Now()) }) })
}

// endSilent ends the conversations that have been silent for too long at now.
func (c *conversations) endSilent(now time.Time) {
	next := time.Duration(0)
	for _, n := range c.known {
		idle := unansweredTimeout
		if n.answered {
			idle = conversationTimeout
		}
		left := n.last.Add(idle).Sub(now)
		if left <= 0 {
			n.end()
		} else if next == 0 || left < next {
			next = left
		}
	}
	if next > 0 {
		c.expireAfter(next)
	} else {
		c.stop()
	}
}

// end ends a conversation.
func (n *conversation) end() {
	c := n.c
	if c.out.of == n {
		c.flush()
	}
	c.loop.Remove(n.fd)
	_ = unix.Close(n.fd)
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
	for _, n := range c.known {
		n.end()
	}
	c.stop()
}

func (c *conversations) stop() {
	if c.expire != nil {
		c.expire.Stop()
		c.expire = nil
	}
}

func (c *conversations) open(key conversationKey) (*conversation, error) {
	to, err := c.rule.destination(key.outside)
	if err != nil {
		return nil, err
	}
	n := &conversation{c: c, key: key, last: time.Now()}
	if key.protocol == unix.IPPROTO_UDP {
		n.fd, err = unix.Socket(family(to.Addr()), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
		err = os.NewSyscallError("socket", err)
	} else {
		n.ping = &ping{}
		n.fd, err = n.ping.open(to.Addr())
	}
	if err != nil {
		return nil, err
	}
	if err = connectDatagrams(n.fd, to); err == nil {
		err = c.loop.Add(n.fd, unix.EPOLLIN, n)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(n.fd))
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
	n.last = time.Now()
	if n.hops != p.hops {
		n.c.flush()
		n.hops = p.hops
		level, option := unix.SOL_IP, unix.IP_TTL
		if p.to.Is6() {
			level, option = unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS
		}
		if err := unix.SetsockoptInt(n.fd, level, option, int(p.hops)); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	n.head = append(n.head[:0], p.head()...)
	if n.ping != nil {
		return sendDatagram(n.fd, n.ping.request(payload), nil)
	}
	n.c.gather(n, payload)
	return nil
}

// Ready brings answers to the pod, and what the network said of packets.
func (n *conversation) Ready(events uint32) {
	if events&unix.EPOLLERR != 0 {
		n.drainErrors()
	}
	if n.c.in == nil {
		n.c.in = newInbox()
	}
	in := n.c.in
	got, err := in.receive(n.fd, n.headers())
	if err != nil && err != unix.EAGAIN {
		n.drainErrors() // what it is about is in there
	}
	if got > 0 {
		n.last = time.Now()
	}
	for i := 0; i < got; {
		if n.ping != nil {
			b, k := in.datagram(i)
			n.pingAnswer(b, n.headers(), k)
			i++
			continue
		}
		count, bytes := 1, 0
		if !n.c.apart {
			count, bytes = in.join(i, got, n.headers())
		}
		n.udpAnswers(i, count, bytes)
		i += count
	}
}

// headers is how much comes before an answer's payload in a packet to the pod.
func (n *conversation) headers() int {
	head := vnetHeader + ipv4Header
	if n.key.pod.Addr().Is6() {
		head = vnetHeader + ipv6Header
	}
	if n.ping == nil {
		head += udpHeader
	}
	return head
}

// udpAnswers passes on count answers from the inbox, the i-th and those behind
// it. If they are more than one, all of them, bytes long, are behind the headers
// in the buffer of the first, too: the TUN device takes them as one packet, which
// the kernel takes apart where the pod receives (virtio_net_hdr, UDP_L4; Linux
// 6.2).
func (n *conversation) udpAnswers(i, count, bytes int) {
	n.answered = true
	if count > 1 {
		b, size := n.c.in.datagram(i)
		whole, t := n.datagram(b, bytes)
		segments(whole, t, size)
		err := n.c.write(whole)
		if err == nil {
			return
		}
		n.c.apart = errors.Is(err, unix.EINVAL)
	}
	for j := range count {
		b, size := n.c.in.datagram(i + j)
		whole, _ := n.datagram(b, size)
		n.c.answer(whole)
	}
}

// datagram is the packet that brings an answer of k bytes, which is behind its
// headers in b.
func (n *conversation) datagram(b []byte, k int) (whole, transport []byte) {
	whole, t := build(b, n.key.outside.Addr(), n.key.pod.Addr(), unix.IPPROTO_UDP, udpHeader+k)
	binary.BigEndian.PutUint16(t, n.key.outside.Port())
	binary.BigEndian.PutUint16(t[2:], n.key.pod.Port())
	binary.BigEndian.PutUint16(t[4:], uint16(udpHeader+k))
	checksumLater(whole, t, 6)
	return whole, t
}

// drainErrors passes on what the network said of packets.
func (n *conversation) drainErrors() {
	var data [maxQuote]byte
	var control [256]byte
	for {
		k, oob, _, _, err := unix.Recvmsg(n.fd, data[:], control[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		e, ok := parseExtendedError(control[:oob], n.key.pod.Addr().Is6())
		if !ok {
			continue
		}
		head := append([]byte(nil), n.head...)
		if n.ping != nil && k >= icmpHeader {
			copy(head[len(head)-2:], data[6:8]) // the sequence number of the one that it is about
		}
		n.c.answer(e.about(head))
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
