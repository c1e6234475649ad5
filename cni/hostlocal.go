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
	"sync"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/hint"
)

// addresses are those of the built-in network's pods. Which is whose is kept on
// disk, in the files of the host-local plugin: one for each address, made
// exclusively, with its owner in it. What is in memory only saves looking: the
// plugin reads all files for each pod, which at 500 pods takes 30 ms.
type addresses struct {
	mu   sync.Mutex
	of   map[string][]netip.Addr // by pod; nil before the files were read
	last netip.Addr              // the last one given: the next is not soon the same again
}

// ipamDir is where host-local keeps which address is whose.
func (n *Network) ipamDir() string { return filepath.Join(n.dir, "addresses") }

// openAddresses returns the store of the files, locked against other processes.
// The caller closes it. n.given.mu is held.
func (n *Network) openAddresses() (*disk.Store, error) {
	store, err := disk.New(networkName, n.ipamDir())
	if err != nil {
		return nil, fmt.Errorf("host-local: %w", err)
	}
	if err := store.Lock(); err != nil {
		return nil, errors.Join(fmt.Errorf("host-local: %w", err), store.Close())
	}
	if n.given.of != nil {
		return store, nil
	}
	files, err := n.addressFiles()
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	n.given.of = map[string][]netip.Addr{}
	for address := range files {
		owner, err := n.owner(address)
		if err != nil {
			return nil, errors.Join(err, store.Close())
		}
		n.given.of[owner] = append(n.given.of[owner], netip.MustParseAddr(address))
	}
	if last, err := store.LastReservedIP("0"); err == nil {
		n.given.last, _ = netip.AddrFromSlice(last.To4())
	}
	return store, nil
}

// allocate reserves an address, the requested one if it is free, and returns it
// with the IPv6 address that goes with it.
func (n *Network) allocate(c call) (_ []*types100.IPConfig, err error) {
	n.given.mu.Lock()
	defer n.given.mu.Unlock()
	store, err := n.openAddresses()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	// An ADD that was killed may have reserved one.
	if err := errors.Join(n.free(c.containerID), fault.Point("network.reserve")); err != nil {
		return nil, err
	}
	requested, _ := netip.ParseAddr(c.args["IP"])
	address, err := n.pick(store, c.containerID, requested)
	if err != nil {
		return nil, err
	}
	list := []*types100.IPConfig{{
		Address: net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(n.plan.subnet.Bits(), 32)}, Gateway: n.plan.gateway.AsSlice(),
	}}
	if n.plan.subnet6.IsValid() {
		list = append(list, &types100.IPConfig{
			Address: net.IPNet{IP: n.plan.sixth(address).AsSlice(), Mask: net.CIDRMask(bits6, 128)}, Gateway: n.plan.gateway6.AsSlice(),
		})
	}
	return list, nil
}

// pick reserves the requested address or, from the last one given on, the first
// that is free.
func (n *Network) pick(store *disk.Store, pod string, requested netip.Addr) (netip.Addr, error) {
	first, last := number(n.plan.first), number(n.plan.last)
	offset := uint32(0)
	if l := n.given.last; l.IsValid() && number(l) >= first && number(l) < last {
		offset = number(l) + 1 - first
	}
	if requested.Is4() && number(requested) >= first && number(requested) <= last {
		if free, err := n.take(store, pod, requested); free || err != nil {
			return requested, err
		}
	}
	for i := range last - first + 1 {
		address := address(first + (offset+i)%(last-first+1))
		if free, err := n.take(store, pod, address); free || err != nil {
			n.given.last = address
			return address, err
		}
	}
	return netip.Addr{}, hint.Wrap(fmt.Errorf("no free address in %s", n.plan.subnet), "delete pods that are not needed")
}

// take reserves an address if it is free.
func (n *Network) take(store *disk.Store, pod string, address netip.Addr) (free bool, err error) {
	free, err = store.Reserve(pod, interfaceName, address.AsSlice(), "0")
	if err != nil {
		return false, fmt.Errorf("host-local: %w", err)
	}
	if free {
		n.given.of[pod] = append(n.given.of[pod], address)
	}
	return free, nil
}

// free gives back what a pod has. n.given.mu is held.
func (n *Network) free(pod string) error {
	for _, address := range n.given.of[pod] {
		if owner, err := n.owner(address.String()); err != nil || owner != pod {
			continue // somebody has cleaned up
		}
		if err := os.Remove(filepath.Join(n.ipamDir(), networkName, address.String())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	delete(n.given.of, pod)
	return nil
}

// release frees the pod's address. One that has none is no error.
func (n *Network) release(c call) (err error) {
	n.given.mu.Lock()
	defer n.given.mu.Unlock()
	store, err := n.openAddresses()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return n.free(c.containerID)
}

// reserve takes an address of the subnet for a pod of another network.
func (n *Network) reserve(pod string, addr netip.Addr) (err error) {
	n.given.mu.Lock()
	defer n.given.mu.Unlock()
	store, err := n.openAddresses()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	free, err := n.take(store, pod, addr)
	if err != nil || free {
		return err
	}
	if owner, err := n.owner(addr.String()); err != nil || owner != pod {
		return errors.Join(fmt.Errorf("the answer has the address %s, which another pod has", addr), err)
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
	n.given.mu.Lock()
	defer n.given.mu.Unlock()
	n.given.of = nil // to be read again
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
