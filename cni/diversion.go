package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	divertTable = "podrun" // of nf_tables
	divertMark  = 0x706f64 // on packets in the pod network that are for our sockets
	localTable  = 0x706f64 // of routes: everything is this machine
	// rulePriority is after the local table's, before the main one's.
	rulePriority = 100
	// acceptBacklog is how many accepted connections may wait for this process.
	acceptBacklog = 4096
)

// diversion brings what pods send to outside addresses to kernel sockets of
// this process in the pod network: the kernel's TCP speaks with the pods.
//
//	from a pod, for a socket that has IP_TRANSPARENT       -> that socket
//	a SYN from our TUN device, which had been held         -> the listening socket
//	all else                                               -> routing: to the TUN device
//
// It is nf_tables' socket and tproxy, without connection tracking. Nothing of
// the host's is touched, the pod network is a namespace of its own.
type diversion struct {
	listeners []int
}

// openDiversion fails on a kernel that lacks nft_socket or nft_tproxy.
func (n *Network) openDiversion(tun int) (_ *diversion, err error) {
	d := &diversion{}
	ipv6 := n.plan.subnet6.IsValid()
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	err = n.pods.Do(func(ns.NetNS) error {
		// What is let through the TUN device has a pod's source address. The
		// stricter of both counts.
		for _, of := range []string{"all", tunName} {
			if err := setSysctl("ipv4/conf/"+of+"/rp_filter", "0"); err != nil {
				return err
			}
		}
		loopbacks := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
		if ipv6 {
			loopbacks = append(loopbacks, netip.IPv6Loopback())
		}
		divert := []attributes{join(matchMeta(unix.NFT_META_L4PROTO, unix.IPPROTO_TCP),
			matchTCPFlags(tcpSYN|tcpACK, unix.NFT_CMP_NEQ, tcpSYN), matchTransparentSocket(), markAndAccept(divertMark))}
		for _, a := range loopbacks {
			l, port, err := listenTransparent(a)
			if err != nil {
				return err
			}
			d.listeners = append(d.listeners, l)
			of := byte(unix.NFPROTO_IPV4)
			if a.Is6() {
				of = unix.NFPROTO_IPV6
			}
			divert = append(divert, join(
				matchMeta(unix.NFT_META_IIF, native(uint32(tun))...), matchMeta(unix.NFT_META_NFPROTO, of), matchMeta(unix.NFT_META_L4PROTO, unix.IPPROTO_TCP),
				matchTCPFlags(tcpSYN|tcpACK, unix.NFT_CMP_EQ, tcpSYN),
				toListener(uint32(of), a.AsSlice(), port), markAndAccept(divertMark)))
		}
		return replaceTable(divertTable, "divert", divert...)
	})
	if err != nil {
		return nil, err
	}
	if err := n.routeMarked(ipv6); err != nil {
		return nil, err
	}
	return d, nil
}

// closeDiversion removes what an earlier process left. Without nf_tables there
// is nothing.
func (n *Network) closeDiversion() {
	if err := n.pods.Do(func(ns.NetNS) error { return removeTable(divertTable) }); err != nil {
		n.log.Debug("remove the diversion", "err", err)
	}
}

// routeMarked makes packets with the mark ones for this machine, whatever
// their address.
func (n *Network) routeMarked(ipv6 bool) error {
	h, err := handle(n.pods.Fd())
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	err = deliverMarked(h, lo.Attrs().Index, unix.AF_INET, divertMark, localTable)
	if err == nil && ipv6 {
		err = deliverMarked(h, lo.Attrs().Index, unix.AF_INET6, divertMark, localTable)
	}
	return err
}

// deliverMarked has packets of a family that carry a mark delivered in the
// namespace of h, whatever their address: by a rule, and a route in a table of
// its own. It may be called again.
func deliverMarked(h *netlink.Handle, lo, family int, mark uint32, table int) error {
	route := &netlink.Route{Family: family, LinkIndex: lo, Dst: everything(family), Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Table: table}
	if err := h.RouteReplace(route); err != nil {
		return fmt.Errorf("add the route for marked packets: %w", err)
	}
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Mark, rule.Table = family, rulePriority, mark, table
	if err := h.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add the rule for marked packets: %w", err)
	}
	return nil
}

// listenTransparent makes a socket that listens on loopback for connections that
// were meant for others, and returns its port.
func listenTransparent(loopback netip.Addr) (fd int, port uint16, err error) {
	fd, err = unix.Socket(family(loopback), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return -1, 0, os.NewSyscallError("socket", err)
	}
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if loopback.Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	setKeepAlive(fd)
	err = os.NewSyscallError("setsockopt IP_TRANSPARENT", unix.SetsockoptInt(fd, level, option, 1))
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, sockaddr(netip.AddrPortFrom(loopback, 0))))
	}
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, acceptBacklog))
	}
	var self netip.AddrPort
	if err == nil {
		self, err = nameOf(fd)
	}
	if err != nil {
		return -1, 0, errors.Join(err, unix.Close(fd))
	}
	return fd, self.Port(), nil
}

// serve gives what the sockets accept to a connector.
func (d *diversion) serve(c *connector) error {
	for _, l := range d.listeners {
		a := &acceptor{loop: c.loop, log: c.log, fd: l, at: "pods' way out"}
		a.accepted = func(fd int, pod netip.AddrPort) {
			outside, err := nameOf(fd)
			if err != nil {
				_ = unix.Close(fd)
				return
			}
			c.accepted(ends{pod, outside}, fd)
		}
		if err := a.begin(); err != nil {
			return err
		}
	}
	return nil
}

// close is for when no loop has them any more.
func (d *diversion) close() {
	for _, l := range d.listeners {
		_ = unix.Close(l)
	}
}
