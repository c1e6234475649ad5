package cni

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"

	"get.podrun.dev/podrun/internal/atomicfile"
	"get.podrun.dev/podrun/internal/hint"
)

// mtu is that of bridge, veths and TAP: the largest that all take. Fewer and
// larger packets are what makes a user-mode gateway fast. No packet of this
// size leaves the machine: the gateway ends the pods' connections and makes
// them anew.
const mtu = 65520

// defaultSubnets are tried in order.
var defaultSubnets = []string{"10.88.0.0/16", "10.98.0.0/16", "10.208.0.0/16", "172.29.0.0/16", "192.168.216.0/22"}

// hostAddress is what pods know the host by: link-local, as podman has it, and
// of IPv6 a unique local address (RFC 4193). Nobody else should have them.
var (
	hostAddress  = [4]byte{169, 254, 1, 2}
	hostAddress6 = [16]byte{0xfd, 0xb7, 0x70, 0x6f, 0x64, 0x72, 0x75, 0x6e, 15: 2}
)

// plan says which addresses of the subnets are for what. IPv6 addresses have
// the same place in their subnet as IPv4 ones in theirs, so that one
// reservation gives a pod both.
type plan struct {
	subnet      netip.Prefix
	gateway     netip.Addr // the first: the user-mode stack
	first, last netip.Addr // given to pods
	host        netip.Addr // stands for the host's loopback; no pod's neighbour, so the gateway gets it
	bridge      netip.Addr // the node's own, to dial pods from

	subnet6                  netip.Prefix // zero: there is no IPv6, nor any of these
	gateway6, host6, bridge6 netip.Addr
}

// minBits and maxBits bound how large and how small a subnet may be.
const (
	minBits = 8
	maxBits = 28
	bits6   = 64 // RFC 4291 section 2.5.1: what an interface's subnet has
)

func newPlan(subnet, subnet6 netip.Prefix) (plan, error) {
	subnet = subnet.Masked()
	if !subnet.Addr().Is4() || subnet.Bits() > maxBits || subnet.Bits() < minBits {
		return plan{}, fmt.Errorf("subnet %s: an IPv4 subnet between /%d and /%d is needed", subnet, minBits, maxBits)
	}
	base := number(subnet.Addr())
	at := func(n uint32) netip.Addr { return address(base + n) }
	size := uint32(1) << (32 - subnet.Bits())
	p := plan{subnet: subnet, gateway: at(1), first: at(2), last: at(size - 4), host: netip.AddrFrom4(hostAddress), bridge: at(size - 2)}
	if !subnet6.IsValid() {
		return p, nil
	}
	if !subnet6.Addr().Is6() || subnet6.Addr().Is4In6() || subnet6.Bits() != bits6 {
		return plan{}, fmt.Errorf("subnet6 %s: an IPv6 subnet of /%d is needed", subnet6, bits6)
	}
	p.subnet6 = subnet6.Masked()
	p.gateway6, p.host6, p.bridge6 = p.sixth(p.gateway), netip.AddrFrom16(hostAddress6), p.sixth(p.bridge)
	return p, nil
}

// sixth returns the IPv6 address that goes with an IPv4 address of the subnet,
// the zero Addr without IPv6.
func (p plan) sixth(v4 netip.Addr) netip.Addr {
	if !p.subnet6.IsValid() {
		return netip.Addr{}
	}
	b := p.subnet6.Addr().As16()
	n := number(v4) - number(p.subnet.Addr())
	b[12], b[13], b[14], b[15] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	return netip.AddrFrom16(b)
}

// number is an IPv4 address as one.
func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// address is the IPv4 address of a number.
func address(v uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// choosePlan returns the plan that pods of an earlier process still live by, or
// makes one: of what the settings say, or of a subnet that the host does not
// use. problems tells what of the settings had to wait.
func (n *Network) choosePlan() (p plan, problems []Problem, err error) {
	set := n.o.Settings
	saved, err := readPrefix(n.subnetFile())
	if err != nil {
		return plan{}, nil, err
	}
	saved6, err := readPrefix(n.subnet6File())
	if err != nil {
		return plan{}, nil, err
	}
	used, err := hostRoutes()
	if err != nil {
		return plan{}, nil, err
	}
	inUse, err := n.addressesInUse()
	if err != nil {
		return plan{}, nil, err
	}
	subnet, subnet6 := saved, saved6
	switch {
	case saved.IsValid() && inUse:
		// Pods cannot move. They are told of, and go on.
		if set.Subnet.IsValid() && set.Subnet.Masked() != saved || set.Subnet6.IsValid() && saved6.IsValid() && set.Subnet6.Masked() != saved6 {
			problems = append(problems, Problem{
				Summary: fmt.Sprintf("the subnet of %s waits: pods have addresses of %s", set.source(), saved),
				Mend:    "delete all pods; the next node has the new subnet",
			})
		}
	case set.Subnet.IsValid():
		subnet = set.Subnet.Masked()
		if other, overlaps := overlap(subnet, used); overlaps {
			return plan{}, nil, hint.Wrap(fmt.Errorf("subnet %s of %s overlaps the host's route to %s", subnet, set.source(), other),
				"set subnet to one that the host does not use, or leave it out")
		}
	default:
		if subnet, err = freeSubnet(saved, used); err != nil {
			return plan{}, nil, err
		}
	}
	if !saved6.IsValid() || !inUse {
		if subnet6, err = n.chooseSubnet6(); err != nil {
			return plan{}, nil, err
		}
	}
	if p, err = newPlan(subnet, subnet6); err != nil {
		return plan{}, nil, hint.Wrap(fmt.Errorf("%w (%s)", err, set.source()), "mend the settings")
	}
	return p, problems, errors.Join(writePrefix(n.subnetFile(), saved, p.subnet), writePrefix(n.subnet6File(), saved6, p.subnet6))
}

// overlapProblem tells of a route that the host has got since the plan was made,
// as with a VPN.
func (n *Network) overlapProblem() (Problem, bool) {
	used, err := hostRoutes()
	other, overlaps := overlap(n.plan.subnet, used)
	if err != nil || !overlaps {
		return Problem{}, false
	}
	return Problem{
		Summary: fmt.Sprintf("pods cannot reach %s of the host's network: it overlaps their subnet %s", other, n.plan.subnet),
		Mend:    "delete all pods; the next node takes another subnet, or the one that " + n.o.Settings.source() + " sets",
	}, true
}

func (n *Network) subnetFile() string  { return filepath.Join(n.dir, "subnet.json") }
func (n *Network) subnet6File() string { return filepath.Join(n.dir, "subnet6.json") }

// chooseSubnet6 returns the IPv6 subnet of the settings or, once made for all
// times, a unique local one (RFC 4193 section 3.2.1): 40 random bits. It is the
// zero Prefix when IPv6 is switched off, here or on the host.
func (n *Network) chooseSubnet6() (netip.Prefix, error) {
	if n.o.Settings.NoIPv6 || n.noIPv6 != "" {
		return netip.Prefix{}, nil
	}
	if n.o.Settings.Subnet6.IsValid() {
		return n.o.Settings.Subnet6, nil
	}
	dir := n.o.DataDir
	if dir == "" {
		dir = n.dir
	}
	file := filepath.Join(dir, "unique-local.json")
	kept, err := readPrefix(file)
	if err != nil || kept.IsValid() {
		return kept, err
	}
	b := [16]byte{0: 0xfd}
	_, _ = rand.Read(b[1:6]) // it never fails
	made := netip.PrefixFrom(netip.AddrFrom16(b), bits6)
	return made, writePrefix(file, kept, made)
}

// ipv6Off says why the host has no IPv6, "" when it has. Pods have none then,
// although a new network namespace might.
func ipv6Off() string {
	const knob = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
	data, err := os.ReadFile(knob)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "the kernel has none"
	case err == nil && strings.TrimSpace(string(data)) == "1":
		return "net.ipv6.conf.all.disable_ipv6 is 1"
	}
	return ""
}

// readPrefix reads a subnet from a file; one that is not there is the zero
// Prefix.
func readPrefix(file string) (p netip.Prefix, err error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, hint.Wrap(fmt.Errorf("%s: %w", file, err), "delete all pods, and this file")
	}
	return p, nil
}

// writePrefix writes p where old was read; the zero Prefix is no file.
func writePrefix(file string, old, p netip.Prefix) error {
	switch {
	case old == p:
		return nil
	case !p.IsValid():
		return os.Remove(file)
	}
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return atomicfile.Write(file, data, 0o600)
}

// hostRoutes are what the host has routes to, but the default route.
func hostRoutes() ([]netip.Prefix, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	var used []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if p, err := netip.ParsePrefix(r.Dst.String()); err == nil && p.Bits() > 0 {
			used = append(used, p)
		}
	}
	return used, nil
}

// overlap returns the first of used that shares addresses with subnet.
func overlap(subnet netip.Prefix, used []netip.Prefix) (netip.Prefix, bool) {
	for _, u := range used {
		if subnet.Overlaps(u) {
			return u, true
		}
	}
	return netip.Prefix{}, false
}

// freeSubnet returns saved or the first default subnet that overlaps no route
// of the host.
func freeSubnet(saved netip.Prefix, used []netip.Prefix) (netip.Prefix, error) {
	if _, overlaps := overlap(saved, used); saved.IsValid() && !overlaps {
		return saved, nil
	}
	for _, s := range defaultSubnets {
		subnet := netip.MustParsePrefix(s)
		if _, overlaps := overlap(subnet, used); !overlaps {
			return subnet, nil
		}
	}
	return netip.Prefix{}, hint.Wrap(fmt.Errorf("the host has routes to all of %v", defaultSubnets),
		"set subnet in ~/.config/podrun/network.toml to one that the host does not use")
}
