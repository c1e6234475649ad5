package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/fault"
)

const bridgeName = "podrun0"

// bridgeMAC is fixed. A bridge without an address of its own has the lowest of
// its ports, another one when that pod goes, and the others would look for the
// bridge where it was until their ARP entries are found wrong, for seconds.
var bridgeMAC = net.HardwareAddr{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdc}

// handle opens a netlink socket in a network namespace. Close it.
//
// Not netlink.NewHandleAt: rootless, a thread cannot come back to the host's
// network namespace, which belongs to another user namespace. NewHandleAt
// overlooks that and leaves Go a thread in the pod network, from which a later
// pull finds no registry.
func handle(fd uintptr) (h *netlink.Handle, err error) {
	err = inNamespace(fd, func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return h, nil
}

// openBridge finds the bridge of the pod network or makes it. It sets n.bridge,
// its index, and takes IPv6 out of the plan when the kernel has none for it.
func (n *Network) openBridge() error {
	h, err := handle(n.pods.Fd())
	if err != nil {
		return err
	}
	defer h.Close()
	ip := &net.IPNet{IP: n.plan.bridge.AsSlice(), Mask: net.CIDRMask(n.plan.subnet.Bits(), 32)}
	link, err := h.LinkByName(bridgeName)
	if err == nil && !n.isBridge(h, link, ip) {
		// Half made, or of another subnet: then no pod is on it.
		if err := h.LinkDel(link); err != nil {
			return fmt.Errorf("delete the old bridge: %w", err)
		}
		err = unix.ENODEV
	}
	if err != nil {
		if link, err = n.makeBridge(h, ip); err != nil {
			return err
		}
	}
	if !bytes.Equal(link.Attrs().HardwareAddr, bridgeMAC) {
		if err := h.LinkSetHardwareAddr(link, bridgeMAC); err != nil {
			return fmt.Errorf("give the bridge its hardware address: %w", err)
		}
	}
	n.bridge = link.Attrs().Index
	if !n.plan.subnet6.IsValid() {
		return nil
	}
	if err := n.addBridge6(h, link); err != nil {
		n.noIPv6 = err.Error()
		n.plan.subnet6, n.plan.gateway6, n.plan.host6, n.plan.bridge6 = netip.Prefix{}, netip.Addr{}, netip.Addr{}, netip.Addr{}
		return nil
	}
	return nil
}

// isBridge tells whether link is the bridge as makeBridge makes it, to the end.
func (n *Network) isBridge(h *netlink.Handle, link netlink.Link, ip *net.IPNet) bool {
	if link.Type() != "bridge" || link.Attrs().Flags&net.FlagUp == 0 {
		return false
	}
	addresses, err := h.AddrList(link, netlink.FAMILY_V4)
	return err == nil && slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return a.IPNet.String() == ip.String() })
}

func (n *Network) makeBridge(h *netlink.Handle, ip *net.IPNet) (netlink.Link, error) {
	snooping := false // no router here asks who listens to what
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName, MTU: mtu, HardwareAddr: bridgeMAC}, MulticastSnooping: &snooping}
	if err := h.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("add bridge: %w", err)
	}
	if err := fault.Point("network.bridge"); err != nil {
		return nil, err
	}
	link, err := h.LinkByName(bridgeName)
	if err != nil {
		return nil, fmt.Errorf("find bridge: %w", err)
	}
	if err := h.AddrAdd(link, &netlink.Addr{IPNet: ip}); err != nil {
		return nil, fmt.Errorf("give the bridge its address: %w", err)
	}
	if lo, err := h.LinkByName("lo"); err == nil {
		if err := h.LinkSetUp(lo); err != nil {
			return nil, fmt.Errorf("set loopback up: %w", err)
		}
	}
	// Up last: it tells a later process that all of the above was done.
	if err := h.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set bridge up: %w", err)
	}
	return link, nil
}

// addBridge6 gives the bridge its IPv6 address, in place of one of another
// subnet.
func (n *Network) addBridge6(h *netlink.Handle, link netlink.Link) error {
	ip := &net.IPNet{IP: n.plan.bridge6.AsSlice(), Mask: net.CIDRMask(bits6, 128)}
	err := h.AddrAdd(link, &netlink.Addr{IPNet: ip, Flags: unix.IFA_F_NODAD})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("give the bridge its IPv6 address: %w", err)
	}
	addresses, err := h.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return fmt.Errorf("list the bridge's addresses: %w", err)
	}
	for _, a := range addresses {
		if a.IP.IsPrivate() && !a.IP.Equal(ip.IP) && !n.plan.subnet6.Contains(netip.MustParseAddr(a.IP.String())) {
			if err := h.AddrDel(link, &a); err != nil {
				return fmt.Errorf("take the old IPv6 address from the bridge: %w", err)
			}
		}
	}
	return nil
}

// bridgePlugin is the bridge plugin with host-local, as far as the built-in
// network uses them.
func (n *Network) bridgePlugin(c call) (*types100.Result, error) {
	var conf bridgeConf
	if err := json.Unmarshal(c.conf, &conf); err != nil {
		return nil, err
	}
	switch c.command {
	case "ADD":
		return n.bridgeAdd(c)
	case "DEL":
		// The interface first: an address that is free is on no interface.
		if err := n.deleteVeth(vethName(c.containerID)); err != nil {
			return nil, err
		}
		return nil, errors.Join(fault.Point("network.unplugged"), n.release(c))
	case "CHECK":
		return nil, n.bridgeCheck(c)
	}
	return nil, fmt.Errorf("command %q is not supported", c.command)
}

func (n *Network) bridgeAdd(c call) (*types100.Result, error) {
	given, err := n.allocate(c)
	if err == nil {
		err = fault.Point("network.address")
	}
	if err != nil {
		return nil, err
	}
	pod, err := netns.GetFromPath(c.netns)
	if err != nil {
		return nil, &os.PathError{Op: "open network namespace", Path: c.netns, Err: err}
	}
	defer func() { _ = pod.Close() }()
	outside, inside, err := n.handles(int(pod))
	if err != nil {
		return nil, err
	}
	defer outside.Close()
	defer inside.Close()

	// One message makes the pair, in both namespaces and on the bridge.
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: vethName(c.containerID), MTU: mtu, MasterIndex: n.bridge, Flags: net.FlagUp},
		PeerName:  c.ifName, PeerNamespace: netlink.NsFd(pod), PeerMTU: mtu,
	}
	err = outside.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		// Left by an ADD that was killed.
		if err := n.deleteVeth(veth.Name); err != nil {
			return nil, err
		}
		err = outside.LinkAdd(veth)
	}
	if err != nil {
		return nil, fmt.Errorf("add veth: %w", err)
	}
	if err := fault.Point("network.veth"); err != nil {
		return nil, err
	}
	eth, err := inside.LinkByName(c.ifName)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", c.ifName, err)
	}
	// The last first, which is IPv6: it takes its time while the rest goes on.
	for _, ip := range slices.Backward(given) {
		// No duplicate address detection: what is reserved is nobody else's, and
		// it would hold up the pod's first connection for a second.
		if err := inside.AddrAdd(eth, &netlink.Addr{IPNet: &ip.Address, Flags: unix.IFA_F_NODAD}); err != nil {
			return nil, fmt.Errorf("give %s its address %s: %w", c.ifName, ip.Address.IP, err)
		}
	}
	if err := inside.LinkSetUp(eth); err != nil {
		return nil, fmt.Errorf("set %s up: %w", c.ifName, err)
	}
	if err := errors.Join(awaitUp(inside, c.ifName), awaitUp(outside, veth.Name), awaitUp(outside, bridgeName)); err != nil {
		return nil, err
	}
	for _, ip := range given {
		if err := inside.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: ip.Gateway}); err != nil {
			return nil, fmt.Errorf("add default route by %s: %w", ip.Gateway, err)
		}
		index := 0
		ip.Interface = &index
	}
	return &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: c.ifName, Mac: eth.Attrs().HardwareAddr.String(), Mtu: mtu, Sandbox: c.netns}},
		IPs:        given,
	}, nil
}

// handles opens netlink sockets in the pod network and in a pod's namespace,
// after setting what the pod's interface will have from its first moment on. One
// thread does it all: to make one takes longer than the rest.
func (n *Network) handles(pod int) (outside, inside *netlink.Handle, err error) {
	err = inNamespace(n.pods.Fd(), func() (err error) {
		if outside, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		if err := unix.Setns(pod, unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		if n.plan.subnet6.IsValid() {
			// No router but the one we say; the link-local address is at hand at
			// once, for it follows from the interface's own, random one.
			for _, knob := range []string{"accept_ra", "accept_dad"} {
				err := os.WriteFile("/proc/sys/net/ipv6/conf/default/"+knob, []byte("0"), 0)
				// Read-only in some containers: then the link-local address waits
				// for a second, and no other router is on the bridge anyway.
				if err != nil && !errors.Is(err, unix.EROFS) {
					return fmt.Errorf("no router advertisements: %w", err)
				}
			}
		}
		if inside, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		return nil
	})
	if err != nil && outside != nil {
		outside.Close()
	}
	return outside, inside, err
}

// bridgeCheck tells whether what bridgeAdd made is still there.
func (n *Network) bridgeCheck(c call) error {
	h, err := handle(n.pods.Fd())
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(vethName(c.containerID))
	if err != nil {
		return fmt.Errorf("find veth: %w", err)
	}
	if link.Attrs().MasterIndex != n.bridge || link.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("%s is not on the bridge", link.Attrs().Name)
	}
	before, err := c.previous()
	if err != nil {
		return err
	}
	for _, ip := range before.IPs {
		if ip.Address.IP.To4() == nil {
			continue // it goes with the IPv4 address
		}
		if owner, err := n.owner(ip.Address.IP.String()); err != nil || owner != c.containerID {
			return errors.Join(fmt.Errorf("address %s is not reserved for this pod", ip.Address.IP), err)
		}
	}
	if c.netns == "" {
		return nil
	}
	return checkInterface(c, before)
}

// checkInterface looks at the pod's end: its addresses and its way out.
func checkInterface(c call, want *types100.Result) error {
	pod, err := netns.GetFromPath(c.netns)
	if err != nil {
		return &os.PathError{Op: "open network namespace", Path: c.netns, Err: err}
	}
	defer func() { _ = pod.Close() }()
	h, err := handle(uintptr(pod))
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(c.ifName)
	if err != nil {
		return fmt.Errorf("find %s: %w", c.ifName, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("%s is down", c.ifName)
	}
	addresses, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", c.ifName, err)
	}
	routes, err := h.RouteList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list routes of %s: %w", c.ifName, err)
	}
	for _, ip := range want.IPs {
		if !slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return a.IP.Equal(ip.Address.IP) }) {
			return fmt.Errorf("%s has lost its address %s", c.ifName, ip.Address.IP)
		}
		if !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Gw.Equal(ip.Gateway) }) {
			return fmt.Errorf("%s has lost its route by %s", c.ifName, ip.Gateway)
		}
	}
	return nil
}

// deleteVeth removes a veth pair by the name of its end in the pod network.
// One that is not there is no error.
func (n *Network) deleteVeth(name string) error {
	h, err := handle(n.pods.Fd())
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find veth: %w", err)
	}
	if err := h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete veth: %w", err)
	}
	return nil
}

// sweepVeths removes the veths of pods that are not in keep.
func (n *Network) sweepVeths(keep map[string]bool) error {
	names := map[string]bool{}
	for id := range keep {
		names[vethName(id)] = true
	}
	return n.removeLinks(func(l netlink.Link) bool {
		return l.Type() == "veth" && ownVeth.MatchString(l.Attrs().Name) && !names[l.Attrs().Name]
	})
}

// sweepLinks removes the links that plugins of other networks make.
func (n *Network) sweepLinks() error {
	return n.removeLinks(func(l netlink.Link) bool {
		name := l.Attrs().Name
		return slices.Contains(pluginLinks, l.Type()) && name != bridgeName && !ownVeth.MatchString(name)
	})
}

// pluginLinks are the types of links that plugins make.
var pluginLinks = []string{"bridge", "dummy", "ifb", "ipvlan", "macvlan", "veth", "vlan", "vrf"}

// ownVeth is what vethName returns. Plugins take other names, of eight digits.
var ownVeth = regexp.MustCompile(`^veth[0-9a-f]{10}$`)

func (n *Network) removeLinks(which func(netlink.Link) bool) error {
	h, err := handle(n.pods.Fd())
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, l := range links {
		if which(l) {
			if err := h.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
				errs = append(errs, fmt.Errorf("delete link %s: %w", l.Attrs().Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// loopbackPlugin sets the pod's loopback interface up. It is the last of the
// list and sees that the addresses work which bridgeAdd has given.
func (n *Network) loopbackPlugin(c call) (*types100.Result, error) {
	if c.command != "ADD" {
		return nil, nil // it goes with the namespace
	}
	pod, err := netns.GetFromPath(c.netns)
	if err != nil {
		return nil, &os.PathError{Op: "open network namespace", Path: c.netns, Err: err}
	}
	defer func() { _ = pod.Close() }()
	h, err := handle(uintptr(pod))
	if err != nil {
		return nil, err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find loopback: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return nil, fmt.Errorf("set loopback up: %w", err)
	}
	before, err := c.previous()
	if err != nil {
		return nil, err
	}
	for _, ip := range before.IPs {
		if err := awaitLocal(h, ip.Address.IP); err != nil {
			return nil, err
		}
	}
	return before, nil
}
