package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	divertTable    = "podrun" // of nf_tables
	divertMark     = 0x706f64 // on packets in the pod network that are for our sockets
	localTable     = 0x706f64 // of routes: everything is this machine
	divertPriority = 100
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
	listeners []*net.TCPListener
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
		families := []struct {
			network, address string
			family           uint32
		}{{"tcp4", "127.0.0.1:0", unix.NFPROTO_IPV4}}
		if ipv6 {
			families = append(families, struct {
				network, address string
				family           uint32
			}{"tcp6", "[::1]:0", unix.NFPROTO_IPV6})
		}
		divert := []attributes{join(matchMeta(unix.NFT_META_L4PROTO, unix.IPPROTO_TCP),
			matchTCPFlags(tcpSYN|tcpACK, unix.NFT_CMP_NEQ, tcpSYN), matchTransparentSocket(), markAndAccept(divertMark))}
		for _, f := range families {
			l, err := listenTransparent(f.network, f.address)
			if err != nil {
				return err
			}
			d.listeners = append(d.listeners, l)
			at := l.Addr().(*net.TCPAddr).AddrPort()
			divert = append(divert, join(
				matchMeta(unix.NFT_META_IIF, native(uint32(tun))...), matchMeta(unix.NFT_META_NFPROTO, byte(f.family)), matchMeta(unix.NFT_META_L4PROTO, unix.IPPROTO_TCP),
				matchTCPFlags(tcpSYN|tcpACK, unix.NFT_CMP_EQ, tcpSYN),
				toListener(f.family, at.Addr().AsSlice(), at.Port()), markAndAccept(divertMark)))
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
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if family == unix.AF_INET6 && !ipv6 {
			continue
		}
		rule := netlink.NewRule()
		rule.Family, rule.Mark, rule.Table, rule.Priority = family, divertMark, localTable, divertPriority
		if err := h.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add the rule for our sockets: %w", err)
		}
		route := &netlink.Route{LinkIndex: lo.Attrs().Index, Table: localTable, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Dst: everything(family)}
		if err := h.RouteReplace(route); err != nil {
			return fmt.Errorf("add the route to our sockets: %w", err)
		}
	}
	return nil
}

// listenTransparent listens for connections that were meant for others.
func listenTransparent(network, address string) (*net.TCPListener, error) {
	config := net.ListenConfig{
		KeepAliveConfig: keepAlive,
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			if outer := c.Control(func(fd uintptr) {
				if network == "tcp6" {
					err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
				} else {
					err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
				}
			}); outer != nil {
				return outer
			}
			return os.NewSyscallError("setsockopt IP_TRANSPARENT", err)
		},
	}
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// serve gives each connection to accepted, on a goroutine of its own, until
// the diversion is closed.
func (d *diversion) serve(c *connector) {
	for _, l := range d.listeners {
		c.wait.Go(func() {
			for {
				conn, err := l.AcceptTCP()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil {
					c.log.Warn("accept from a pod", "err", err)
					select {
					case <-time.After(acceptPause):
					case <-c.ctx.Done():
					}
					continue
				}
				f := ends{unmap(conn.RemoteAddr()), unmap(conn.LocalAddr())}
				c.wait.Go(func() { c.accepted(f, conn) })
			}
		})
	}
}

func unmap(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func (d *diversion) close() {
	for _, l := range d.listeners {
		_ = l.Close()
	}
}
