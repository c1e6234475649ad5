package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"
)

// Resources limit a container. Zero values do not limit.
type Resources struct {
	MemoryBytes     int64
	CPUQuotaMicros  int64  // of processor time in each period
	CPUPeriodMicros int64  // 0: 100,000
	CPUShares       uint64 // cgroup v1's; version 2 gets the weight that stands for it
	Pids            int64
}

// cgroupTree is where the containers' cgroups are made. With cgroup v2:
//
//	BASE/podrun-node      the node, the reaper and the pauses: a cgroup with
//	                      controllers for its children has no processes
//	BASE/podrun-ID        a container
//	BASE/podrun-UID/podrun-ID   a container of a pod that has resources of its own
//
// BASE is the cgroup we were started in when that is ours (a systemd unit with
// Delegate=yes, such as the scope that the launch asks for), or for real root
// without systemd /sys/fs/cgroup/podrun. With cgroup v1 and real root: the same
// names in a cgroup podrun-HASH below our own in every hierarchy, which goes with
// the node. In all other cases containers share our cgroup and have no limits.
type cgroupTree struct {
	rootless bool
	base     string // v2: BASE; "" when not ours
	limits   bool
	reason   string // why there are no limits
	// v1 is the cgroup that holds the containers' with version 1: one for each
	// state directory, so that its node can remove it.
	v1 string
}

const nodeCgroup = "podrun-node"

// openCgroups finds out what is delegated, by doing. The tree is of use even
// with an error, only without limits.
func openCgroups(rootless bool, stateDir string) (*cgroupTree, error) {
	sum := sha256.Sum256([]byte(stateDir))
	t := &cgroupTree{rootless: rootless, v1: "podrun-" + hex.EncodeToString(sum[:4])}
	settleV1()
	err := t.open()
	if err != nil {
		t.base, t.reason = "", err.Error()
	}
	t.limits = err == nil
	return t, err
}

func (t *cgroupTree) open() error {
	if !cgroups.IsCgroup2UnifiedMode() {
		if t.rootless {
			return errors.New("cgroup v1 is not for users")
		}
		return openV1(t.v1)
	}
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	path := filepath.Join(fs2.UnifiedMountpoint, own[""])
	if filepath.Base(path) == nodeCgroup {
		path = filepath.Dir(path) // a node before us has made it
	} else if !t.rootless && !isScope(path) && !isDelegated(path) {
		path = filepath.Join(fs2.UnifiedMountpoint, "podrun")
		if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := enable(fs2.UnifiedMountpoint); err != nil {
			return err
		}
	} else if err := moveAside(path); err != nil {
		return err
	}
	if err := enable(path); err != nil {
		return err
	}
	t.base = path
	return nil
}

// isScope tells whether a cgroup is a scope that systemd has made for us when
// we were launched.
func isScope(path string) bool {
	name := filepath.Base(path)
	return strings.HasPrefix(name, "podrun-") && strings.HasSuffix(name, ".scope")
}

// isDelegated tells whether systemd has marked a cgroup as that of a unit with
// Delegate=yes: from 251 on it does. A user's is tried, without asking.
func isDelegated(path string) bool {
	mark := make([]byte, 1)
	n, err := unix.Getxattr(path, "user.delegate", mark)
	return err == nil && n == 1 && mark[0] == '1'
}

// settleV1 lets libcontainer's cgroup v1 code look once at what it keeps in a
// variable without a lock (the names of blkio's files), before containers start
// side by side. Nothing is written: there are no paths and no limits.
var settleV1 = sync.OnceFunc(func() {
	if cgroups.IsCgroup2UnifiedMode() {
		return
	}
	none := &cgroups.Cgroup{Rootless: true, Resources: &cgroups.Resources{SkipDevices: true}}
	if m, err := manager.NewWithPaths(none, map[string]string{}); err == nil {
		_ = m.Set(none.Resources)
	}
})

// openV1 makes the cgroup name that holds the containers', in two hierarchies that
// show whether we may. Its share of processor time is that of all processors, as
// the kubelet gives its pods: the shares of containers are small, and are to
// count among each other, not beside every process of the machine.
func openV1(name string) error {
	for _, controller := range []string{"memory", "cpu"} {
		own, err := cgroups.GetOwnCgroupPath(controller)
		if err != nil {
			return fmt.Errorf("%s cgroup: %w", controller, err)
		}
		dir := filepath.Join(own, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if controller == "cpu" {
			if err := os.WriteFile(filepath.Join(dir, "cpu.shares"), []byte(strconv.Itoa(1024*runtime.NumCPU())), 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// close removes the cgroups that hold the containers' with version 1, unless
// there are containers: then the next node does.
func (t *cgroupTree) close() {
	if !t.limits || t.base != "" {
		return
	}
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	for controller := range own {
		if dir, err := cgroups.GetOwnCgroupPath(controller); err == nil {
			_ = os.Remove(filepath.Join(dir, t.v1)) // EBUSY: in use
		}
	}
}

// enable gives the children of a cgroup the controllers that we set.
func enable(path string) error {
	if err := os.WriteFile(filepath.Join(path, "cgroup.subtree_control"), []byte("+cpu +memory +pids"), 0); err != nil {
		return fmt.Errorf("controllers: %w", err)
	}
	return nil
}

// moveAside moves the processes in the cgroup, all ours, to a child of it: node
// and reaper, their children, and the command line that started them and waits
// in the same scope.
func moveAside(path string) error {
	pids, err := cgroups.GetPids(path)
	if err != nil {
		return err
	}
	ours := []int{os.Getpid(), os.Getppid()}
	for _, pid := range pids {
		if !slices.Contains(ours, pid) && !slices.Contains(ours, parentOf(pid)) && !isPodrun(pid) {
			return fmt.Errorf("cgroup %s is shared with process %d", strings.TrimPrefix(path, fs2.UnifiedMountpoint), pid)
		}
	}
	leaf := filepath.Join(path, nodeCgroup)
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, pid := range pids {
		if err := cgroups.WriteCgroupProc(leaf, pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// isPodrun tells whether a process is called what our program file is. The
// command line is outside our user namespace, where the kernel shows us no
// more of it than its name; and to be moved within what is delegated to us
// hurts nobody.
func isPodrun(pid int) bool {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return false
	}
	const longest = 15 // TASK_COMM_LEN
	name := filepath.Base(program)
	comm, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	return err == nil && strings.TrimSpace(string(comm)) == name[:min(len(name), longest)]
}

// parentOf returns 0 for a process that is gone.
func parentOf(pid int) int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "PPid:"); ok {
			ppid, _ := strconv.Atoi(strings.TrimSpace(v))
			return ppid
		}
	}
	return 0
}

// config returns the cgroup name, below parent if that is not "". Of a tree
// without limits those asked for are left out.
func (t *cgroupTree) config(parent, name string, r Resources) *cgroups.Cgroup {
	// Resources are never nil: the cgroup v1 managers rely on it.
	config := &cgroups.Cgroup{Rootless: t.rootless, Resources: &cgroups.Resources{}}
	if t.base != "" {
		config.Path = filepath.Join(strings.TrimPrefix(t.base, fs2.UnifiedMountpoint), parent, name)
	} else {
		config.Parent, config.Name = parent, name
		if t.limits {
			config.Parent = filepath.Join(t.v1, parent)
		}
	}
	if t.limits {
		r.set(config.Resources, cgroups.IsCgroup2UnifiedMode())
	}
	return config
}

// set translates to libcontainer's terms.
func (r Resources) set(to *cgroups.Resources, unified bool) {
	to.Memory = r.MemoryBytes
	if r.CPUQuotaMicros != 0 {
		to.CpuQuota = r.CPUQuotaMicros
		to.CpuPeriod = uint64(r.CPUPeriodMicros)
		if to.CpuPeriod == 0 {
			to.CpuPeriod = 100_000
		}
	}
	if r.Pids != 0 {
		to.PidsLimit = &r.Pids
	}
	if !unified {
		to.CpuShares = r.CPUShares
		return
	}
	to.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(r.CPUShares)
	if r.MemoryBytes != 0 {
		to.MemorySwap = r.MemoryBytes // none, as the kubelet has it
	}
}

// containerCgroup is the cgroup of a container. With version 2 the kernel ends
// all of it when memory is short, not one process: the kubelet's default since
// 1.28.
func (s *Sandbox) containerCgroup(id string, r Resources) *cgroups.Cgroup {
	config := s.r.cgroups.config(s.podCgroup(), "podrun-"+id, r)
	if s.r.cgroups.limits && cgroups.IsCgroup2UnifiedMode() {
		config.Resources.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return config
}

// podCgroup is the name of the cgroup that holds those of the containers; ""
// when the pod as such has no resources, and so needs none.
func (s *Sandbox) podCgroup() string {
	if s.state.Resources == (Resources{}) || !s.r.cgroups.limits {
		return ""
	}
	return "podrun-" + s.state.ID
}

// createCgroup makes the pod's cgroup if it has one.
func (s *Sandbox) createCgroup() error {
	name := s.podCgroup()
	if name == "" {
		return nil
	}
	config := s.r.cgroups.config("", name, s.state.Resources)
	m, err := manager.New(config)
	if err == nil {
		err = m.Apply(-1) // makes it and moves nobody
	}
	if err == nil {
		err = m.Set(config.Resources)
	}
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return nil
}

func (s *Sandbox) removeCgroup() error {
	name := s.podCgroup()
	if name == "" {
		return nil
	}
	return s.r.cgroups.remove(s.r.cgroups.config("", name, Resources{}))
}

// remove kills what is left in a cgroup and removes that. That there is none is
// no error.
func (t *cgroupTree) remove(config *cgroups.Cgroup) error {
	m, err := manager.New(config)
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	if pids, err := m.GetAllPids(); err == nil {
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	if err := m.Destroy(); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return nil
}

// oomKilled says whether the kernel has killed a process in the cgroup that
// paths (of libcontainer's state) tell, for want of memory.
func oomKilled(paths map[string]string) bool {
	file := filepath.Join(paths["memory"], "memory.oom_control")
	if paths["memory"] == "" {
		if paths[""] == "" {
			return false
		}
		file = filepath.Join(paths[""], "memory.events")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strings.TrimSpace(n) != "0"
		}
	}
	return false
}

// lowestOOMScore is the lowest oom_score_adj that our children may have: to go
// below one's own takes CAP_SYS_RESOURCE on the machine.
func lowestOOMScore() (int, error) {
	const file, lowest = "/proc/self/oom_score_adj", -1000
	own, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	if os.WriteFile(file, []byte(strconv.Itoa(lowest)), 0) == nil {
		return lowest, os.WriteFile(file, own, 0)
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(own)))
	if err != nil {
		return 0, fmt.Errorf("oom_score_adj: %w", err)
	}
	return score, nil
}
