package cni

import (
	"context"
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	nicID = 1
	// maxHandshakes is how many pods' connections may be between SYN and ACK.
	maxHandshakes = 4 * maxConnecting
)

// userStack speaks TCP with pods where the kernel cannot do it for us: gVisor's
// TCP in this process. It has one interface, which takes packets to any address
// and answers from any.
type userStack struct {
	stack  *stack.Stack
	link   *channel.Endpoint
	cancel context.CancelFunc
}

func openUserStack(u *uplink) (*userStack, error) {
	s := &userStack{
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
		}),
		link: channel.New(tunQueue, mtu, ""),
	}
	// Packets never leave this machine's memory.
	s.link.LinkEPCapabilities = stack.CapabilityRXChecksumOffload
	fail := func(what string, err tcpip.Error) (*userStack, error) {
		s.stack.Destroy()
		return nil, fmt.Errorf("user-mode TCP: %s: %s", what, err)
	}
	if err := s.stack.CreateNIC(nicID, s.link); err != nil {
		return fail("create interface", err)
	}
	if err := s.stack.SetSpoofing(nicID, true); err != nil {
		return fail("set spoofing", err)
	}
	if err := s.stack.SetPromiscuousMode(nicID, true); err != nil {
		return fail("set promiscuous mode", err)
	}
	s.stack.SetRouteTable([]tcpip.Route{
		{Destination: allAddresses(make([]byte, 4)), NIC: nicID}, {Destination: allAddresses(make([]byte, 16)), NIC: nicID},
	})
	sack := tcpip.TCPSACKEnabled(true)
	if err := s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); err != nil {
		return fail("enable SACK", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	f := tcp.NewForwarder(s.stack, 0, maxHandshakes, func(r *tcp.ForwarderRequest) { accept(ctx, r, u.tcp) })
	s.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, f.HandlePacket)

	u.senders.Go(func() { s.send(ctx, u) })
	return s, nil
}

func allAddresses(zero []byte) tcpip.Subnet {
	all, err := tcpip.NewSubnet(tcpip.AddrFromSlice(zero), tcpip.MaskFromBytes(zero))
	if err != nil {
		panic(err) // two slices of one length
	}
	return all
}

// accept ends the handshake with a pod whose destination has answered.
func accept(ctx context.Context, r *tcp.ForwarderRequest, c *connector) {
	id := r.ID()
	var queue waiter.Queue
	endpoint, err := r.CreateEndpoint(&queue)
	r.Complete(err != nil)
	if err != nil {
		return // the connector gives it up
	}
	endpoint.SocketOptions().SetKeepAlive(true)
	conn := userConn{gonet.NewTCPConn(&queue, endpoint), endpoint}
	c.acceptedUser(ctx, ends{addrPort(id.RemoteAddress, id.RemotePort), addrPort(id.LocalAddress, id.LocalPort)}, conn)
}

func addrPort(a tcpip.Address, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(addr, port)
}

// userConn can be reset, as a *net.TCPConn can.
type userConn struct {
	*gonet.TCPConn
	endpoint tcpip.Endpoint
}

// SetLinger is net.TCPConn's, as far as it says that Close is to reset.
func (c userConn) SetLinger(seconds int) error {
	c.endpoint.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: seconds == 0})
	return nil
}

// take gives a packet of a pod to the stack.
func (s *userStack) take(raw []byte) error {
	ip := raw[vnetHeader:]
	protocol := ipv4.ProtocolNumber
	if ip[0]>>4 == 6 {
		protocol = ipv6.ProtocolNumber
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(append([]byte(nil), ip...))})
	defer p.DecRef()
	s.link.InjectInbound(protocol, p)
	return nil
}

// send brings the stack's packets to the pods.
func (s *userStack) send(ctx context.Context, u *uplink) {
	for {
		p := s.link.ReadContext(ctx)
		if p == nil {
			return
		}
		u.send(append(make([]byte, vnetHeader), p.ToView().AsSlice()...))
		p.DecRef()
	}
}

func (s *userStack) close() {
	s.cancel()
	s.stack.Destroy()
}
