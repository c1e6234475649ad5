package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"

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

// allocate reserves an address, the requested one if it is free. A pod that
// has one keeps it.
func (n *Network) allocate(c call) (_ *types100.IPConfig, err error) {
	a, store, err := n.allocator(c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := a.Release(c.containerID, c.ifName); err != nil {
		return nil, fmt.Errorf("host-local: %w", err)
	}
	if requested := net.ParseIP(c.args["IP"]); requested != nil {
		if address, err := a.Get(c.containerID, c.ifName, requested); err == nil {
			return address, nil
		}
	}
	address, err := a.Get(c.containerID, c.ifName, nil)
	if err != nil {
		return nil, hint.Wrap(fmt.Errorf("no free address in %s: %w", n.plan.subnet, err), "delete pods that are not needed")
	}
	return address, nil
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

// sweepAddresses frees the addresses of pods that are not in keep.
func (n *Network) sweepAddresses(keep map[string]bool) error {
	dir := filepath.Join(n.ipamDir(), networkName)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if net.ParseIP(e.Name()) == nil {
			continue // the lock, and the last address given
		}
		path := filepath.Join(dir, e.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// The file holds the owner: container id, line end, interface name.
		owner, _, _ := strings.Cut(string(data), "\n")
		if !keep[strings.TrimSpace(owner)] {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}
