package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containers/gvisor-tap-vsock/pkg/services/forwarder"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/link/nested"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	tapName = "tap0"
	nicID   = 1
)

// gatewayMAC is fixed: pods that outlive this process keep it in their ARP
// tables. Its second-lowest bit marks it as locally administered.
var gatewayMAC = tcpip.LinkAddress("\x5a\x94\xef\xe4\x0c\xdd")

// uplink is the pods' gateway: a user-mode TCP/IP stack behind a TAP device on
// the bridge. What pods send to the outside ends here and goes on as this
// process's own connections in the host's network namespace; nothing is
// masqueraded and no packet filter is touched.
type uplink struct {
	stack  *stack.Stack
	tap    *os.File
	cancel context.CancelFunc
}

func (n *Network) openUplink() (_ *uplink, err error) {
	tap, err := n.openTAP()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tap.Close())
		}
	}()
	link, err := fdbased.New(&fdbased.Options{
		FDs: []int{int(tap.Fd())}, MTU: mtu, EthernetHeader: true, Address: gatewayMAC,
		PacketDispatchMode: fdbased.Readv,
		// The bridge never leaves this machine's memory.
		RXChecksumOffload: true,
	})
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	u := &uplink{stack: s, tap: tap}
	gateway, host := tcpip.AddrFrom4(n.plan.gateway.As4()), tcpip.AddrFrom4(n.plan.host.As4())
	if err := u.configure(newGuard(link, gateway, host), gateway, n.plan.subnet); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	u.cancel = cancel

	f := &tcpForwarder{ctx: ctx, gateway: gateway, host: host, log: n.log}
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(s, 0, maxConnecting, f.handle).HandlePacket)
	nat := map[tcpip.Address]tcpip.Address{host: tcpip.AddrFrom4([4]byte{127, 0, 0, 1})}
	s.SetTransportProtocolHandler(udp.ProtocolNumber, forwarder.UDP(s, nat, new(sync.Mutex), true).HandlePacket)
	return u, nil
}

// configure gives the stack its one interface. It takes packets to any
// address, for all of them are to be forwarded, and answers from any.
func (u *uplink) configure(link stack.LinkEndpoint, gateway tcpip.Address, subnet netip.Prefix) error {
	fail := func(what string, err tcpip.Error) error { return fmt.Errorf("gateway: %s: %s", what, err) }
	if err := u.stack.CreateNIC(nicID, link); err != nil {
		return fail("create interface", err)
	}
	if err := u.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: gateway, PrefixLen: subnet.Bits()},
	}, stack.AddressProperties{}); err != nil {
		return fail("add address", err)
	}
	if err := u.stack.SetSpoofing(nicID, true); err != nil {
		return fail("set spoofing", err)
	}
	if err := u.stack.SetPromiscuousMode(nicID, true); err != nil {
		return fail("set promiscuous mode", err)
	}
	all, err := tcpip.NewSubnet(tcpip.AddrFrom4([4]byte{}), tcpip.MaskFromBytes(make([]byte, 4)))
	if err != nil {
		return err
	}
	u.stack.SetRouteTable([]tcpip.Route{{Destination: all, NIC: nicID}})
	sack := tcpip.TCPSACKEnabled(true)
	if err := u.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); err != nil {
		return fail("enable SACK", err)
	}
	return nil
}

// close ends the gateway and all connections through it.
func (u *uplink) close() {
	u.cancel()
	u.stack.Destroy()
	_ = u.tap.Close()
}

// guard is the link with what must not reach the stack taken out: it would
// answer for every address, the pods' own included.
type guard struct {
	nested.Endpoint
	child         stack.LinkEndpoint
	gateway, host tcpip.Address
}

func newGuard(child stack.LinkEndpoint, gateway, host tcpip.Address) *guard {
	g := &guard{child: child, gateway: gateway, host: host}
	g.Init(child, g)
	return g
}

// DeliverNetworkPacket lets ARP requests through that ask for the gateway or
// the host, and pings of them; all TCP and UDP.
func (g *guard) DeliverNetworkPacket(protocol tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	switch protocol {
	case header.ARPProtocolNumber:
		h, ok := pkt.Data().PullUp(header.ARPSize)
		if !ok {
			return
		}
		target := tcpip.AddrFrom4Slice(header.ARP(h).ProtocolAddressTarget())
		if header.ARP(h).Op() == header.ARPRequest && target != g.gateway && target != g.host {
			return
		}
	case header.IPv4ProtocolNumber:
		h, ok := pkt.Data().PullUp(header.IPv4MinimumSize)
		if !ok {
			return
		}
		ip := header.IPv4(h)
		if ip.TransportProtocol() == header.ICMPv4ProtocolNumber && ip.DestinationAddress() != g.gateway && ip.DestinationAddress() != g.host {
			return // a ping of the outside gets no answer rather than a false one
		}
	}
	g.Endpoint.DeliverNetworkPacket(protocol, pkt)
}

// openTAP makes the TAP device in the pod network, on the bridge.
func (n *Network) openTAP() (*os.File, error) {
	var tap *os.File
	err := n.pods.Do(func(ns.NetNS) error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
		}
		tap = os.NewFile(uintptr(fd), "/dev/net/tun")
		request, err := unix.NewIfreq(tapName)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return &os.PathError{Op: "TUNSETIFF", Path: "/dev/net/tun", Err: err}
		}
		return nil
	})
	if err == nil {
		err = n.enslaveTAP()
	}
	if err != nil && tap != nil {
		err = errors.Join(err, tap.Close())
	}
	return tap, err
}

func (n *Network) enslaveTAP() error {
	h, err := handle(n.pods.Fd())
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(tapName)
	if err != nil {
		return fmt.Errorf("find TAP: %w", err)
	}
	if err := h.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("set the TAP's MTU: %w", err)
	}
	if err := h.LinkSetMasterByIndex(link, n.bridge); err != nil {
		return fmt.Errorf("put the TAP on the bridge: %w", err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set the TAP up: %w", err)
	}
	return nil
}

// uplinkProblem says what a missing uplink means and how to get one.
func uplinkProblem(err error) Problem {
	p := Problem{Summary: "no uplink: pods reach each other but nothing outside (" + err.Error() + ")"}
	switch {
	case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
		p.Mend = "as root: chmod 0666 /dev/net/tun"
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
		p.Mend = "as root: modprobe tun; if /dev/net/tun is still missing: mkdir -p /dev/net && mknod -m 0666 /dev/net/tun c 10 200"
	}
	return p
}
