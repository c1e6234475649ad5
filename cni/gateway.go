package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// openGateway makes the kernel the pods' gateway: the bridge has the gateway's
// addresses, and what is for neither a pod nor the gateway goes to the TUN
// device. All of it may be there from an earlier process.
func (n *Network) openGateway(tun int) error {
	h, err := handle(n.pods.Fd())
	if err != nil {
		return err
	}
	defer h.Close()
	bridge, err := h.LinkByIndex(n.bridge)
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	if err := n.pods.Do(func(ns.NetNS) error { return forwardPackets(n.bridge, tun) }); err != nil {
		return err
	}
	gateways := []netip.Addr{n.plan.gateway}
	out := map[netip.Addr]bool{n.plan.gateway: true}
	if n.plan.gateway6.IsValid() {
		gateways = append(gateways, n.plan.gateway6)
		err := n.pods.Do(func(ns.NetNS) error { return setSysctl("ipv6/conf/all/forwarding", "1") })
		if out[n.plan.gateway6] = err == nil; err != nil {
			// Without a route there, pods are told at once.
			n.problems = append(n.problems, Problem{Summary: "pods have no IPv6 to the outside (" + err.Error() + ")", Mend: "make /proc/sys writable"})
		}
	}
	for _, a := range gateways {
		if err := h.AddrReplace(bridge, &netlink.Addr{IPNet: single(a), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("give the bridge the gateway's address %s: %w", a, err)
		}
		if !out[a] {
			continue
		}
		if err := h.RouteReplace(&netlink.Route{LinkIndex: tun, Dst: everything(family(a)), Scope: unix.RT_SCOPE_LINK}); err != nil {
			return fmt.Errorf("add the route out: %w", err)
		}
	}
	return nil
}

// single is the subnet of one address.
func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// everything is the subnet of all addresses.
func everything(family int) *net.IPNet {
	size := net.IPv4len
	if family == unix.AF_INET6 {
		size = net.IPv6len
	}
	return &net.IPNet{IP: make(net.IP, size), Mask: make(net.IPMask, size)}
}

// forwardPackets makes the kernel an IPv4 router in the calling thread's network
// namespace.
func forwardPackets(bridge, tun int) error {
	if err := setSysctl("ipv4/ip_forward", "1"); err != nil {
		// /proc/sys is read-only in some containers; two interfaces will do.
		return errors.Join(forwardFrom(bridge), forwardFrom(tun))
	}
	return nil
}

// setSysctl writes a setting of the calling thread's network namespace, unless
// it is so already.
func setSysctl(name, value string) error {
	path := "/proc/sys/net/" + name
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(b)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// forwardFrom makes the kernel forward IPv4 packets that an interface gets,
// without /proc/sys.
func forwardFrom(index int) error {
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(index)
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	request.AddData(message)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	const forwarding = 1 // IPV4_DEVCONF_FORWARDING
	spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(unix.IFLA_INET_CONF, nil).AddRtAttr(forwarding, nl.Uint32Attr(1))
	request.AddData(spec)
	if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("let an interface forward: %w", err)
	}
	return nil
}
