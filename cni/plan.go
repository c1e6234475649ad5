package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"

	"get.podrun.dev/podrun/internal/atomicfile"
	"get.podrun.dev/podrun/internal/hint"
)

// mtu is that of bridge, veths and TAP: the largest that all take. Fewer and
// larger packets are what makes a user-mode gateway fast.
const mtu = 65520

// defaultSubnets are tried in order.
var defaultSubnets = []string{"10.88.0.0/16", "10.98.0.0/16", "10.208.0.0/16", "172.29.0.0/16", "192.168.216.0/22"}

// plan says which addresses of the subnet are for what.
type plan struct {
	subnet      netip.Prefix
	gateway     netip.Addr // the first: the user-mode stack
	first, last netip.Addr // given to pods
	host        netip.Addr // stands for the host's loopback
	bridge      netip.Addr // the node's own, to dial pods from
}

func newPlan(subnet netip.Prefix) (plan, error) {
	subnet = subnet.Masked()
	if !subnet.Addr().Is4() || subnet.Bits() > 28 {
		return plan{}, fmt.Errorf("subnet %s: an IPv4 subnet of /28 or larger is needed", subnet)
	}
	b := subnet.Addr().As4()
	base := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	at := func(n uint32) netip.Addr {
		v := base + n
		return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
	}
	size := uint32(1) << (32 - subnet.Bits())
	return plan{subnet: subnet, gateway: at(1), first: at(2), last: at(size - 4), host: at(size - 3), bridge: at(size - 2)}, nil
}

// choosePlan returns the plan of an earlier process in dir or makes one, for
// subnet or for one that the host does not use.
func choosePlan(dir string, subnet netip.Prefix) (plan, error) {
	file := filepath.Join(dir, "subnet.json")
	data, err := os.ReadFile(file)
	if err == nil {
		var saved netip.Prefix
		if err := json.Unmarshal(data, &saved); err != nil {
			return plan{}, fmt.Errorf("%s: %w", file, err)
		}
		return newPlan(saved)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return plan{}, err
	}
	if !subnet.IsValid() {
		if subnet, err = freeSubnet(); err != nil {
			return plan{}, err
		}
	}
	p, err := newPlan(subnet)
	if err != nil {
		return plan{}, err
	}
	if data, err = json.Marshal(p.subnet); err != nil {
		return plan{}, err
	}
	return p, atomicfile.Write(file, data, 0o600)
}

// freeSubnet returns the first default subnet that overlaps no route of the
// host but the default one.
func freeSubnet() (netip.Prefix, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list the host's routes: %w", err)
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
next:
	for _, s := range defaultSubnets {
		subnet := netip.MustParsePrefix(s)
		for _, u := range used {
			if subnet.Overlaps(u) {
				continue next
			}
		}
		return subnet, nil
	}
	return netip.Prefix{}, hint.Wrap(fmt.Errorf("the host has routes to all of %v", defaultSubnets), "remove a route that is not needed")
}
