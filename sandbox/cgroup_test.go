package sandbox

import (
	"sync"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
)

func TestResourcesOfBothVersions(t *testing.T) {
	r := Resources{MemoryBytes: 64 << 20, CPUQuotaMicros: 50_000, CPUShares: 1024, Pids: 10}
	var v1, v2 cgroups.Resources
	r.set(&v1, false)
	r.set(&v2, true)
	for _, got := range []cgroups.Resources{v1, v2} {
		if got.Memory != 64<<20 || got.CpuQuota != 50_000 || got.CpuPeriod != 100_000 || *got.PidsLimit != 10 {
			t.Errorf("got %+v", got)
		}
	}
	if v1.CpuShares != 1024 || v1.CpuWeight != 0 || v1.MemorySwap != 0 {
		t.Errorf("v1: shares %d, weight %d, swap %d", v1.CpuShares, v1.CpuWeight, v1.MemorySwap)
	}
	// 1024 shares are a weight of 100, and 2 are 1, since runc 1.4.
	if v2.CpuShares != 0 || v2.CpuWeight != 100 || v2.MemorySwap != 64<<20 {
		t.Errorf("v2: shares %d, weight %d, swap %d", v2.CpuShares, v2.CpuWeight, v2.MemorySwap)
	}
	Resources{CPUShares: 2}.set(&v2, true)
	if v2.CpuWeight != 1 {
		t.Errorf("2 shares: weight %d", v2.CpuWeight)
	}
}

// TestPlaces: where a container's cgroup is, and what is set in it.
func TestPlaces(t *testing.T) {
	pod := Resources{MemoryBytes: 1 << 30}
	for _, c := range []struct {
		name         string
		tree         cgroupTree
		pod          Resources
		path, parent string
	}{
		{"not ours", cgroupTree{rootless: true}, pod, "", ""},
		{"v1", cgroupTree{limits: true, v1: "podrun-1"}, Resources{}, "", "podrun-1"},
		{"v1, with resources of the pod", cgroupTree{limits: true, v1: "podrun-1"}, pod, "", "podrun-1/podrun-uid"},
		{"v2", cgroupTree{limits: true, base: "/sys/fs/cgroup/user.slice/podrun.scope"}, Resources{}, "/user.slice/podrun.scope/podrun-id", ""},
		{"v2, with resources of the pod", cgroupTree{limits: true, base: "/sys/fs/cgroup/podrun"}, pod, "/podrun/podrun-uid/podrun-id", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &Sandbox{r: &Runtime{cgroups: &c.tree}, state: sandboxState{Config: Config{ID: "uid", Resources: c.pod}}}
			got := s.containerCgroup("id", Resources{MemoryBytes: 1 << 20})
			if got.Path != c.path || got.Parent != c.parent || (got.Name == "podrun-id") != (c.path == "") {
				t.Errorf("path %q, parent %q, name %q", got.Path, got.Parent, got.Name)
			}
			if limited := got.Resources.Memory != 0; limited != c.tree.limits {
				t.Errorf("limited: %v", limited)
			}
		})
	}
}

// TestCgroupsSideBySide: containers that start together share what
// libcontainer keeps of cgroup v1. Only the race detector can object.
func TestCgroupsSideBySide(t *testing.T) {
	tree, _ := openCgroups(true, t.TempDir())
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			config := tree.config("", "podrun-test", Resources{})
			config.Resources.SkipDevices = true
			m, err := manager.NewWithPaths(config, map[string]string{"": "/sys/fs/cgroup/podrun-test"})
			if err != nil {
				t.Error(err)
				return
			}
			_ = m.Set(config.Resources)
		})
	}
	all.Wait()
}
