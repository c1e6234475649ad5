package cni

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

// TestManyAddresses: 500 pods come and go at once, in two processes on one
// directory, as a node that is killed and its successor may be for a moment. No
// address is given twice, and none is lost.
func TestManyAddresses(t *testing.T) {
	const pods = 500
	dir := t.TempDir()
	var mu sync.Mutex
	given := map[netip.Addr]string{}
	has := map[string]netip.Addr{}
	open := func() (allocate, release func(id string)) {
		n := &Network{dir: dir, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		var err error
		if n.plan, err = newPlan(netip.MustParsePrefix("10.9.0.0/22"), netip.MustParsePrefix("fd00:1:2:3::/64")); err != nil {
			t.Fatal(err)
		}
		list, err := ParseConflist(n.builtinConflist())
		if err != nil {
			t.Fatal(err)
		}
		conf, err := libcni.InjectConf(list.Plugins[0], map[string]any{"name": networkName, "cniVersion": list.CNIVersion})
		if err != nil {
			t.Fatal(err)
		}
		call := func(id string) call { return call{containerID: id, ifName: interfaceName, conf: conf.Bytes} }
		allocate = func(id string) {
			ips, err := n.allocate(call(id))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, ip := range ips {
				addr, _ := netip.AddrFromSlice(ip.Address.IP)
				addr = addr.Unmap()
				if other, twice := given[addr]; twice {
					t.Errorf("%s was given to %s and %s", addr, other, id)
				}
				given[addr], has[id] = id, addr
			}
		}
		release = func(id string) {
			// From our record first: once it is free another may be given it.
			mu.Lock()
			for addr, owner := range given {
				if owner == id {
					delete(given, addr)
				}
			}
			delete(has, id)
			mu.Unlock()
			if err := n.release(call(id)); err != nil {
				t.Error(err)
			}
		}
		return allocate, release
	}
	var wait sync.WaitGroup
	for process := range 2 {
		allocate, release := open()
		work := make(chan string)
		for range 4 {
			wait.Go(func() {
				for id := range work {
					allocate(id)
					if rand.IntN(4) == 0 {
						release(id)
						allocate(id)
					}
				}
			})
		}
		wait.Go(func() {
			for i := range pods / 2 {
				work <- fmt.Sprintf("pod-%d-%d", process, i)
			}
			close(work)
		})
	}
	wait.Wait()
	if len(has) != pods || len(given) != 2*pods {
		t.Errorf("%d pods have %d addresses, want %d and %d", len(has), len(given), pods, 2*pods)
	}
	n := &Network{dir: dir}
	if files, err := n.addressFiles(); err != nil || len(files) != pods {
		t.Errorf("%d addresses are reserved, %v; want %d", len(files), err, pods)
	}
	if err := n.sweepAddresses(nil); err != nil {
		t.Fatal(err)
	}
	if inUse, err := n.addressesInUse(); err != nil || inUse {
		t.Errorf("after a sweep addresses are in use: %v", err)
	}
}
