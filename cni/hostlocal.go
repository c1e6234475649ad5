package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/hint"
)

// ipamDir is where host-local keeps which address is whose, a file each.
func (n *Network) ipamDir() string { return filepath.Join(n.dir, "addresses") }

// allocator opens host-local for the call's configuration. Close the store.
func (n *Network) allocator(c call) (*allocator.IPAllocator, *disk.Store, error) {
	conf, _, err := allocator.LoadIPAMConfig(c.conf, "")
	if err != nil {
		return nil, nil, fmt.Errorf("host-local: %w", err)
	}
	store, err := disk.New(conf.Name, conf.DataDir)
	if err != nil {
		return nil, nil, fmt.Errorf("host-local: %w", err)
	}
	return allocator.NewIPAllocator(&conf.Ranges[0], store, 0), store, nil
}

// allocate reserves an address, the requested one if it is free, and returns it
// with the IPv6 address that goes with it.
func (n *Network) allocate(c call) (_ []*types100.IPConfig, err error) {
	a, store, err := n.allocator(c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	// An ADD that was killed may have reserved one.
	if err := a.Release(c.containerID, c.ifName); err != nil {
		return nil, fmt.Errorf("host-local: %w", err)
	}
	if err := fault.Point("network.reserve"); err != nil {
		return nil, err
	}
	var address *types100.IPConfig
	if requested := net.ParseIP(c.args["IP"]); requested != nil {
		address, err = a.Get(c.containerID, c.ifName, requested)
	}
	if address == nil || err != nil {
		if address, err = a.Get(c.containerID, c.ifName, nil); err != nil {
			return nil, hint.Wrap(fmt.Errorf("no free address in %s: %w", n.plan.subnet, err), "delete pods that are not needed")
		}
	}
	list := []*types100.IPConfig{address}
	if v4, ok := netip.AddrFromSlice(address.Address.IP.To4()); ok && n.plan.subnet6.IsValid() {
		list = append(list, &types100.IPConfig{
			Address: net.IPNet{IP: n.plan.sixth(v4).AsSlice(), Mask: net.CIDRMask(bits6, 128)},
			Gateway: n.plan.gateway6.AsSlice(),
		})
	}
	return list, nil
}

// release frees the pod's address. One that has none is no error.
func (n *Network) release(c call) (err error) {
	a, store, err := n.allocator(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := a.Release(c.containerID, c.ifName); err != nil {
		return fmt.Errorf("host-local: %w", err)
	}
	return nil
}

// addressFiles returns the files that stand for reserved addresses, by address.
func (n *Network) addressFiles() (map[string]string, error) {
	dir := filepath.Join(n.ipamDir(), networkName)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for _, e := range entries {
		// The others are the lock, the last address given, and what is not ours.
		if net.ParseIP(e.Name()) != nil && e.Type().IsRegular() {
			files[e.Name()] = filepath.Join(dir, e.Name())
		}
	}
	return files, nil
}

// addressesInUse tells whether any address is reserved.
func (n *Network) addressesInUse() (bool, error) {
	files, err := n.addressFiles()
	return len(files) > 0, err
}

// owner returns the id of the pod that has an address, "" for none.
func (n *Network) owner(address string) (string, error) {
	data, err := os.ReadFile(filepath.Join(n.ipamDir(), networkName, address))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	// The file holds the owner: container id, line end, interface name.
	id, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(id), err
}

// sweepAddresses frees the addresses of pods that are not in keep, and those
// that a kill has left without an owner.
func (n *Network) sweepAddresses(keep map[string]bool) error {
	files, err := n.addressFiles()
	if err != nil {
		return err
	}
	var errs []error
	for address, path := range files {
		owner, err := n.owner(address)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !keep[owner] {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}
