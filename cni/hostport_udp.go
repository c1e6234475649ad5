package cni

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxFlows is how many clients of one UDP port are served at once; the one
	// that was silent for longest makes place for a new one.
	maxFlows = 1024
	// flowIdle is how long a client is remembered that neither sends nor gets
	// anything.
	flowIdle = 90 * time.Second
	// behindHeaders is where datagrams are put that go on together: there may be
	// as much of them as behind the largest headers.
	behindHeaders = vnetHeader + ipv6Header + udpHeader
)

// udpPort is one bound socket. Each client that sends to it has a flow: a
// socket of its own in the pod, from the client's address, so that the server
// sees who asks and its answers find the way back.
type udpPort struct {
	h    *HostPorts
	port HostPort
	conn *net.UDPConn

	mu    sync.Mutex
	flows map[flowKey]*flow
	wait  sync.WaitGroup
}

// flowKey tells flows apart: by who sends, and to which of the host's addresses.
type flowKey struct {
	client netip.AddrPort
	local  netip.Addr
}

// flow is the datagrams of one client.
type flow struct {
	u        *udpPort
	p        *passage
	key      flowKey
	control  []byte // has answers leave from key.local
	conn     *net.UDPConn
	from, to netip.AddrPort // as the pod sees them
	used     atomic.Int64   // when, in nanoseconds of Unix
	first    []byte         // the first datagram, until one was answered or refused; of run's goroutine
}

func (h *HostPorts) openUDP(s hostSocket) (*udpPort, error) {
	c, err := net.FilePacketConn(s.file)
	if err != nil {
		return nil, err
	}
	return &udpPort{h: h, port: s.port, conn: c.(*net.UDPConn), flows: map[flowKey]*flow{}}, nil
}

func (u *udpPort) close() {
	_ = u.conn.Close()
	u.endFlows()
}

func (u *udpPort) run() {
	defer u.wait.Wait()
	defer u.endFlows()
	raw, err := u.conn.SyscallConn()
	for err == nil {
		var failed error
		err = raw.Read(func(fd uintptr) bool {
			failed = u.receive(int(fd))
			return !errors.Is(failed, unix.EAGAIN)
		})
		if failed != nil && err == nil {
			u.h.n.log.Warn("read from a host port", "port", u.port.String(), "err", failed)
		}
	}
	// It was closed.
}

// receive sends on what the socket has, and holds no buffer until there is more.
// What one client sent in a row goes together.
func (u *udpPort) receive(fd int) error {
	in := inboxes.Get().(*inbox)
	defer inboxes.Put(in)
	got, err := in.receiveFrom(fd, behindHeaders)
	if err != nil {
		return err
	}
	for i := 0; i < got; {
		key, ok := in.flowOf(i)
		row := i + 1
		for row < got {
			if next, _ := in.flowOf(row); next != key {
				break
			}
			row++
		}
		count, bytes := in.join(i, row, behindHeaders)
		if ok {
			b, size := in.datagram(i)
			if err := u.forward(key, b[behindHeaders:behindHeaders+bytes], size, count); err != nil {
				u.h.n.log.Debug("datagram to a host port", "port", u.port.String(), "err", err)
			}
		}
		i += count
	}
	return nil
}

// flowOf is the flow of the i-th datagram. There is none of one that does not
// say where it went to.
func (in *inbox) flowOf(i int) (flowKey, bool) {
	local, ok := destination(in.control(i))
	return flowKey{in.sender(i), local}, ok
}

// forward sends count datagrams of size bytes, the last of what is left of b, on
// by their client's flow.
func (u *udpPort) forward(key flowKey, b []byte, size, count int) error {
	u.mu.Lock()
	f := u.flows[key]
	u.mu.Unlock()
	if f == nil {
		var err error
		if f, err = u.openFlow(key, b[:min(size, len(b))]); err != nil {
			return err
		}
	}
	f.used.Store(time.Now().UnixNano())
	raw, err := f.socket().SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = sendDatagrams(int(fd), b, size, count) })
	return errors.Join(err, failed)
}

func (f *flow) socket() *net.UDPConn {
	f.u.mu.Lock()
	defer f.u.mu.Unlock()
	return f.conn
}

func (u *udpPort) openFlow(key flowKey, first []byte) (*flow, error) {
	p := u.h.passage.Load()
	netns, err := p.NetNS()
	if err != nil {
		return nil, err
	}
	defer func() { _ = netns.Close() }()
	u.makePlace()
	f := &flow{u: u, p: p, key: key, control: sender(key.local), first: slices.Clone(first)}
	from, to := p.source(key.client)
	f.from, f.to = from, netip.AddrPortFrom(to, u.port.PodPort)
	if !to.IsValid() || p.plain {
		f.conn, err = u.h.n.dialLoopback(netns, u.port.PodPort)
		f.from = netip.AddrPort{}
	} else {
		if err := p.addClient(netns, from.Addr(), to); err != nil {
			return nil, err
		}
		if f.conn, err = u.h.n.dialUDP(netns, f.from, f.to); err != nil {
			p.dropClient(netns, from.Addr(), to)
		}
	}
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.flows[key] = f
	u.wait.Go(f.run)
	return f, nil
}

// makePlace ends the flow that was silent for longest when there are as many
// as there may be.
func (u *udpPort) makePlace() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.flows) < maxFlows {
		return
	}
	var oldest *flow
	for _, f := range u.flows {
		if oldest == nil || f.used.Load() < oldest.used.Load() {
			oldest = f
		}
	}
	delete(u.flows, oldest.key)
	_ = oldest.conn.Close()
}

func (u *udpPort) endFlows() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for key, f := range u.flows {
		delete(u.flows, key)
		_ = f.conn.Close()
	}
}

// dialUDP connects a socket in netns from an address that nobody need have.
func (n *Network) dialUDP(netns *os.File, from, to netip.AddrPort) (*net.UDPConn, error) {
	fd, err := n.door.socket(netns, family(to.Addr()), unix.SOCK_DGRAM)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), to.String())
	defer func() { _ = f.Close() }()
	if err = connectFrom(fd, route{from, to}); errors.Is(err, unix.EADDRINUSE) {
		err = connectFrom(fd, route{netip.AddrPortFrom(from.Addr(), 0), to})
	}
	if err != nil {
		return nil, err
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// dialLoopback is for servers that listen on the pod's loopback only.
func (n *Network) dialLoopback(netns *os.File, port uint16) (*net.UDPConn, error) {
	self := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	return n.dialUDP(netns, netip.AddrPortFrom(self, 0), netip.AddrPortFrom(self, port))
}

// run sends the server's answers back until the flow is idle or ended.
func (f *flow) run() {
	defer f.end()
	_ = f.conn.SetReadDeadline(time.Now().Add(flowIdle))
	for {
		err := f.answer()
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			rest := time.Until(time.Unix(0, f.used.Load()).Add(flowIdle))
			if rest <= 0 {
				return
			}
			_ = f.conn.SetReadDeadline(time.Now().Add(rest))
		case errors.Is(err, unix.ECONNREFUSED):
			if !f.toLoopback() {
				return // the next datagram tries again
			}
		default:
			return
		}
	}
}

// answer waits for datagrams of the server and sends them to the client. No
// buffer is held while it waits.
func (f *flow) answer() error {
	raw, err := f.conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		in := inboxes.Get().(*inbox)
		defer inboxes.Put(in)
		var got int
		if got, failed = in.receive(int(fd), behindHeaders); errors.Is(failed, unix.EAGAIN) {
			return false
		}
		for i := 0; i < got && failed == nil; {
			count, bytes := in.join(i, got, behindHeaders)
			b, size := in.datagram(i)
			failed = f.reply(b[behindHeaders:behindHeaders+bytes], size, count)
			i += count
		}
		return true
	})
	return errors.Join(err, failed)
}

// reply sends the client count datagrams of size bytes, the last of what is
// left of b. What is lost is lost; an error means that the port is closed.
func (f *flow) reply(b []byte, size, count int) error {
	f.used.Store(time.Now().UnixNano())
	f.first = nil
	send := func(b, control []byte) error {
		_, _, err := f.u.conn.WriteMsgUDPAddrPort(b, control, f.key.client)
		return err
	}
	if count > 1 && send(b, slices.Concat(f.control, segmentControl(size))) == nil {
		return nil
	}
	for range count {
		k := min(size, len(b))
		if err := send(b[:k], f.control); errors.Is(err, net.ErrClosed) {
			return err
		}
		b = b[k:]
	}
	return nil
}

// toLoopback sends the first datagram again, to a server on the pod's loopback,
// and keeps to that. It tells whether there is one to be tried.
func (f *flow) toLoopback() bool {
	first := f.first
	f.first = nil
	if first == nil || !f.from.IsValid() {
		return false
	}
	netns, err := f.p.NetNS()
	if err != nil {
		return false
	}
	defer func() { _ = netns.Close() }()
	conn, err := f.u.h.n.dialLoopback(netns, f.u.port.PodPort)
	if err != nil {
		return false
	}
	_ = conn.SetReadDeadline(time.Now().Add(flowIdle))
	f.u.mu.Lock()
	old := f.conn
	ended := f.u.flows[f.key] != f
	f.conn = conn
	f.u.mu.Unlock()
	_ = old.Close()
	if ended {
		return false
	}
	_, _ = conn.Write(first)
	return true
}

func (f *flow) end() {
	f.u.mu.Lock()
	if f.u.flows[f.key] == f {
		delete(f.u.flows, f.key)
	}
	_ = f.conn.Close()
	f.u.mu.Unlock()
	if !f.from.IsValid() {
		return
	}
	netns, err := f.p.NetNS()
	if err == nil {
		defer func() { _ = netns.Close() }()
	}
	f.p.dropClient(netns, f.from.Addr(), f.to.Addr())
}

// destination is where a datagram was sent to, from the one control message
// that was asked for. For IPv4 it is the address to answer from, which a
// broadcast's is not.
func destination(control []byte) (netip.Addr, bool) {
	header, data, _, err := unix.ParseOneSocketControlMessage(control)
	if err != nil {
		return netip.Addr{}, false
	}
	switch {
	case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		return netip.AddrFrom4([4]byte(data[4:8])), true // in_pktinfo.ipi_spec_dst
	case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		return netip.AddrFrom16([16]byte(data[:16])), true
	}
	return netip.Addr{}, false
}

// sender is the control message that has a datagram leave from addr.
func sender(addr netip.Addr) []byte {
	if addr.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: addr.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: addr.As16()})
}
