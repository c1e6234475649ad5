package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const bridgeName = "podrun0"

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

// openBridge finds the bridge of the pod network or makes it, and returns its
// index.
func (n *Network) openBridge() (int, error) {
	h, err := handle(n.pods.Fd())
	if err != nil {
		return 0, err
	}
	defer h.Close()
	if link, err := h.LinkByName(bridgeName); err == nil && link.Attrs().Flags&net.FlagUp != 0 {
		return link.Attrs().Index, nil
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName, MTU: mtu}}
	if err := h.LinkAdd(bridge); err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, fmt.Errorf("add bridge: %w", err)
	}
	link, err := h.LinkByName(bridgeName)
	if err != nil {
		return 0, fmt.Errorf("find bridge: %w", err)
	}
	ip := &net.IPNet{IP: n.plan.bridge.AsSlice(), Mask: net.CIDRMask(n.plan.subnet.Bits(), 32)}
	if err := h.AddrAdd(link, &netlink.Addr{IPNet: ip}); err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, fmt.Errorf("give the bridge its address: %w", err)
	}
	if lo, err := h.LinkByName("lo"); err == nil {
		if err := h.LinkSetUp(lo); err != nil {
			return 0, fmt.Errorf("set loopback up: %w", err)
		}
	}
	// Up last: it tells a later process that all of the above was done.
	if err := h.LinkSetUp(link); err != nil {
		return 0, fmt.Errorf("set bridge up: %w", err)
	}
	return link.Attrs().Index, nil
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
		return nil, errors.Join(n.deleteVeth(vethName(c.containerID)), n.release(c))
	case "CHECK":
		return nil, nil
	}
	return nil, fmt.Errorf("command %q is not supported", c.command)
}

func (n *Network) bridgeAdd(c call) (*types100.Result, error) {
	address, err := n.allocate(c)
	if err != nil {
		return nil, err
	}
	pod, err := netns.GetFromPath(c.netns)
	if err != nil {
		return nil, &os.PathError{Op: "open network namespace", Path: c.netns, Err: err}
	}
	defer func() { _ = pod.Close() }()
	outside, err := handle(n.pods.Fd())
	if err != nil {
		return nil, err
	}
	defer outside.Close()
	inside, err := handle(uintptr(pod))
	if err != nil {
		return nil, err
	}
	defer inside.Close()

	// One message makes the pair, in both namespaces and on the bridge.
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: vethName(c.containerID), MTU: mtu, MasterIndex: n.bridge, Flags: net.FlagUp},
		PeerName:  c.ifName, PeerNamespace: netlink.NsFd(pod), PeerMTU: mtu,
	}
	if err := outside.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("add veth: %w", err)
	}
	eth, err := inside.LinkByName(c.ifName)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", c.ifName, err)
	}
	if err := inside.AddrAdd(eth, &netlink.Addr{IPNet: &address.Address}); err != nil {
		return nil, fmt.Errorf("give %s its address: %w", c.ifName, err)
	}
	if err := inside.LinkSetUp(eth); err != nil {
		return nil, fmt.Errorf("set %s up: %w", c.ifName, err)
	}
	if err := inside.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: address.Gateway}); err != nil {
		return nil, fmt.Errorf("add default route: %w", err)
	}
	index := 0
	address.Interface = &index
	return &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: c.ifName, Mac: eth.Attrs().HardwareAddr.String(), Mtu: mtu, Sandbox: c.netns}},
		IPs:        []*types100.IPConfig{address},
	}, nil
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
		if name := l.Attrs().Name; l.Type() == "veth" && strings.HasPrefix(name, "veth") && !names[name] {
			errs = append(errs, n.deleteVeth(name))
		}
	}
	return errors.Join(errs...)
}

// loopbackPlugin sets the pod's loopback interface up.
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
	return c.previous()
}
