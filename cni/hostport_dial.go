package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// How a pod sees who the client of a host port is.
//
// The node connects from inside the pod's network namespace, over its loopback
// interface, with a socket that is bound to the client's address although
// nobody here has it (IP_TRANSPARENT, ip(7)). What the server answers would
// leave by the pod's default route; it has to come back instead:
//
//	TCP  The node's socket marks what it sends. The server's accepted socket
//	     takes over the mark (net.ipv4.tcp_fwmark_accept), and a rule has all
//	     that is marked delivered to the pod itself. Refusals are marked by
//	     net.ipv4.fwmark_reflect.
//	UDP  A server's socket takes no mark. A rule has what is sent from the
//	     server's port looked up in a table that holds the clients with an open
//	     flow; what the server sends to others goes its usual way.
//
// Nothing of this changes what else the pod sends, and none of it needs a
// program, a packet filter or the gateway.
const (
	clientMark  = 0x70647270 // "pdrp": what the node's sockets send, and the answers
	markTable   = 0x7064
	clientTable = 0x7065
)

// clientSysctls make answers carry the mark of what they answer.
var clientSysctls = []string{"net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect", "net/ipv6/fwmark_reflect"}

// passage is the way into a pod.
type passage struct {
	Target
	host  netip.Addr // stands for clients whose address cannot be kept
	host6 netip.Addr // likewise; zero without IPv6
	plain bool       // none can

	mu      sync.Mutex
	clients map[netip.Addr]int // of UDP, that have a route, with their flows
}

// open prepares the pod's namespace. It may be called again.
func (p *passage) open(sockets []hostSocket) error {
	netns, err := p.NetNS()
	if err != nil {
		return err
	}
	defer func() { _ = netns.Close() }()
	err = inNamespace(netns.Fd(), func() error {
		for _, name := range clientSysctls {
			err := os.WriteFile(filepath.Join("/proc/sys", name), []byte("1"), 0)
			if err != nil && !errors.Is(err, os.ErrNotExist) { // no IPv6
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	nl, err := handle(netns.Fd())
	if err != nil {
		return err
	}
	defer nl.Close()
	lo, err := nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if err := addRules(nl, lo.Attrs().Index, family, sockets); err != nil && family == netlink.FAMILY_V4 {
			return err
		}
	}
	return nil
}

// addRules has marked packets, and those of UDP servers to clients with a flow,
// delivered inside the pod.
func addRules(nl *netlink.Handle, lo, family int, sockets []hostSocket) error {
	if err := deliverMarked(nl, lo, family, clientMark, markTable); err != nil {
		return err
	}
	for _, s := range sockets {
		if s.port.Protocol != "udp" {
			continue
		}
		rule := netlink.NewRule()
		rule.Family, rule.Priority, rule.Table = family, rulePriority+1, clientTable
		rule.IPProto, rule.Sport = unix.IPPROTO_UDP, netlink.NewRulePortRange(s.port.PodPort, s.port.PodPort)
		if err := nl.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add rule for UDP: %w", err)
		}
	}
	return nil
}

// addClient has answers to a client of UDP delivered inside the pod, from the
// address self of it. Each call is to be followed by one of dropClient.
func (p *passage) addClient(netns *os.File, client, self netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clients[client]++; p.clients[client] > 1 {
		return nil
	}
	err := withClientRoute(netns, client, self, (*netlink.Handle).RouteReplace)
	if err != nil {
		delete(p.clients, client)
	}
	return err
}

// dropClient undoes addClient.
func (p *passage) dropClient(netns *os.File, client, self netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clients[client]--; p.clients[client] > 0 {
		return
	}
	delete(p.clients, client)
	if netns != nil { // else it went with the namespace
		_ = withClientRoute(netns, client, self, (*netlink.Handle).RouteDel)
	}
}

func withClientRoute(netns *os.File, client, self netip.Addr, do func(*netlink.Handle, *netlink.Route) error) error {
	nl, err := handle(netns.Fd())
	if err != nil {
		return err
	}
	defer nl.Close()
	lo, err := nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	return do(nl, &netlink.Route{
		LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Table: clientTable,
		Dst: &net.IPNet{IP: client.AsSlice(), Mask: net.CIDRMask(client.BitLen(), client.BitLen())},
		Src: self.AsSlice(), // else the kernel takes the client's
	})
}

// source is the address that a pod shall see for a client, and the pod's own
// that goes with it. The host's loopback addresses mean the pod itself in there,
// and a link-local one needs an interface that is not there: for those stands
// the address by which pods reach the host. It stands for IPv6 clients too where
// the pod has IPv4 only.
func (p *passage) source(client netip.AddrPort) (from netip.AddrPort, to netip.Addr) {
	addr := client.Addr().Unmap().WithZone("")
	client = netip.AddrPortFrom(addr, client.Port())
	keep := addr.IsGlobalUnicast()
	for _, ip := range p.IPs {
		if keep && ip.Is4() == addr.Is4() && ip != addr {
			return client, ip
		}
	}
	for _, ip := range p.IPs {
		switch {
		case ip.Is4() && (addr.Is4() || !p.host6.IsValid() || !p.hasIPv6()):
			return netip.AddrPortFrom(p.host, client.Port()), ip
		case ip.Is6() && addr.Is6() && p.host6.IsValid():
			return netip.AddrPortFrom(p.host6, client.Port()), ip
		}
	}
	return netip.AddrPort{}, netip.Addr{}
}

func (p *passage) hasIPv6() bool { return slices.ContainsFunc(p.IPs, netip.Addr.Is6) }

// route is a way to a pod's server.
type route struct {
	from netip.AddrPort // the zero AddrPort: whatever the kernel chooses
	to   netip.AddrPort
}

// routes are the ways to a port of the pod for a client, the best first. The
// others are for a server that listens on the pod's loopback only.
func (p *passage) routes(client netip.AddrPort, port uint16) []route {
	all := make([]route, 0, 3)
	if from, to := p.source(client); to.IsValid() && !p.plain {
		all = append(all, route{from, netip.AddrPortFrom(to, port)})
	}
	for _, loopback := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		all = append(all, route{to: netip.AddrPortFrom(loopback, port)})
	}
	return all
}

// dial begins to connect a stream in netns. there tells that it is connected
// already.
func (t *portThread) dial(netns *os.File, r route) (fd int, there bool, err error) {
	if fd, err = t.dialFrom(netns, r); errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL) {
		// Two clients that share a stand-in can have the same port.
		r.from = netip.AddrPortFrom(r.from.Addr(), 0)
		fd, err = t.dialFrom(netns, r)
	}
	if err != nil {
		return -1, false, err
	}
	if there, err = connected(fd); err != nil {
		return -1, false, errors.Join(os.NewSyscallError("connect", err), unix.Close(fd))
	}
	return fd, there, nil
}

func (t *portThread) dialFrom(netns *os.File, r route) (fd int, err error) {
	if fd, err = t.socket(netns, family(r.to.Addr()), unix.SOCK_STREAM); err != nil {
		return -1, err
	}
	sendAtOnce(fd)
	if err := connectFrom(fd, r); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// connectFrom connects a socket from an address that nobody need have, with a
// mark. A stream may not be connected yet. fd stays open after an error.
func connectFrom(fd int, r route) (err error) {
	set := func(level, option, value int) {
		if err == nil {
			err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, value))
		}
	}
	if r.from.IsValid() {
		set(unix.SOL_SOCKET, unix.SO_MARK, clientMark)
		set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) // the same client may use two ports
		if r.to.Addr().Is4() {
			set(unix.SOL_IP, unix.IP_TRANSPARENT, 1)
		} else {
			set(unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
		}
		if err == nil {
			err = os.NewSyscallError("bind", unix.Bind(fd, sockaddr(r.from)))
		}
	}
	if err == nil {
		if e := unix.Connect(fd, sockaddr(r.to)); !errors.Is(e, unix.EINPROGRESS) {
			err = os.NewSyscallError("connect", e)
		}
	}
	return err
}
