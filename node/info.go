package node

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/linux"
	"get.podrun.dev/podrun/supervisor"
)

// Info is what "system info" tells of a node and its machine.
type Info struct {
	Version VersionInfo `json:"version"`
	Host    HostInfo    `json:"host"`
	Storage StorageInfo `json:"storage"`
	Cgroup  CgroupInfo  `json:"cgroup"`
	Network NetworkInfo `json:"network"`
	Counts  CountsInfo  `json:"counts"`
}

// HostInfo is the machine, and what the node may do on it.
type HostInfo struct {
	Name     string `json:"name"`
	System   string `json:"operatingSystem"`
	Kernel   string `json:"kernelVersion"`
	Arch     string `json:"architecture"`
	CPUs     int    `json:"cpus"`
	Memory   uint64 `json:"memoryBytes"`
	Rootless bool   `json:"rootless"`
	IDs      int64  `json:"mappedIDs"` // users, or groups if fewer, that images may have
}

// StorageInfo is where things lie and what room there is, in bytes.
type StorageInfo struct {
	Driver string `json:"driver"` // overlay, or copy where the kernel has none for us
	Data   string `json:"dataDir"`
	State  string `json:"stateDir"`
	Log    string `json:"log"`
	Size   uint64 `json:"sizeBytes"` // of the data directory's file system
	Free   uint64 `json:"freeBytes"` // of it, for this user
}

// CgroupInfo says whether limits of containers have an effect.
type CgroupInfo struct {
	Version int    `json:"version"`
	Limits  bool   `json:"limits"`
	Problem string `json:"problem,omitempty"` // why not
}

// NetworkInfo is the pod network.
type NetworkInfo struct {
	Addresses string   `json:"addresses"`
	Networks  []string `json:"networks"` // that pods may be joined to
	Problems  []string `json:"problems,omitempty"`
}

// CountsInfo counts what there is. Pods are counted by phase, too.
type CountsInfo struct {
	Pods              int            `json:"pods"`
	Phases            map[string]int `json:"phases"`
	Containers        int            `json:"containers"`
	ContainersRunning int            `json:"containersRunning"`
	Images            int            `json:"images"`
	Claims            int            `json:"persistentVolumeClaims"`
}

// Info returns what the node knows of itself.
func (c *Client) Info(ctx context.Context) (*Info, error) {
	info := new(Info)
	return info, c.call(ctx, http.MethodGet, "/podrun/v1/info", nil, nil, info)
}

func (a *api) info(w http.ResponseWriter, _ *http.Request) error {
	info := Info{
		Version: nodeVersion(),
		Storage: StorageInfo{Driver: "overlay", Data: a.paths.Data, State: a.paths.State, Log: a.paths.Log},
		Cgroup:  CgroupInfo{Version: 1},
		Network: NetworkInfo{Addresses: a.network.Addresses(), Networks: []string{}},
		Counts:  CountsInfo{Phases: map[string]int{}},
	}
	var err error
	if info.Host, err = hostInfo(); err != nil {
		return err
	}
	if linux.Overlay(a.paths.Data) != nil {
		info.Storage.Driver = "copy"
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(a.paths.Data, &fs); err != nil {
		return &os.PathError{Op: "statfs", Path: a.paths.Data, Err: err}
	}
	info.Storage.Size, info.Storage.Free = fs.Blocks*uint64(fs.Bsize), fs.Bavail*uint64(fs.Bsize)
	if unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		info.Cgroup.Version = 2
	}
	info.Cgroup.Limits, info.Cgroup.Problem = a.limits()
	for _, p := range a.network.Problems() {
		info.Network.Problems = append(info.Network.Problems, p.String())
	}
	networks, err := a.network.Networks()
	if err != nil {
		return err
	}
	for _, n := range networks {
		info.Network.Networks = append(info.Network.Networks, n.Name)
	}
	if err := a.count(&info.Counts); err != nil {
		return err
	}
	respond(w, http.StatusOK, info)
	return nil
}

func (a *api) count(c *CountsInfo) error {
	pods, _, err := a.store.List("Pod", "")
	if err != nil {
		return err
	}
	for _, o := range pods {
		p, err := supervisor.DecodePod(o)
		if err != nil {
			return err
		}
		c.Pods++
		phase := p.Status.Phase
		if phase == "" {
			phase = corev1.PodPending
		}
		c.Phases[string(phase)]++
	}
	containers, err := a.supervisor.Containers(true)
	if err != nil {
		return err
	}
	c.Containers = len(containers)
	for _, ctr := range containers {
		if ctr.State == "running" {
			c.ContainersRunning++
		}
	}
	images, err := a.images.List()
	if err != nil {
		return err
	}
	c.Images = len(images)
	claims, _, err := a.store.List("PersistentVolumeClaim", "")
	c.Claims = len(claims)
	return err
}

func nodeVersion() VersionInfo {
	return VersionInfo{Version: Version, Commit: Commit, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH, PID: os.Getpid()}
}

func hostInfo() (HostInfo, error) {
	ns, err := CurrentNamespace()
	if err != nil {
		return HostInfo{}, err
	}
	var uts unix.Utsname
	var mem unix.Sysinfo_t
	if err := unix.Uname(&uts); err != nil {
		return HostInfo{}, os.NewSyscallError("uname", err)
	}
	if err := unix.Sysinfo(&mem); err != nil {
		return HostInfo{}, os.NewSyscallError("sysinfo", err)
	}
	return HostInfo{
		Name: unix.ByteSliceToString(uts.Nodename[:]), System: systemName(), Kernel: unix.ByteSliceToString(uts.Release[:]), Arch: runtime.GOARCH,
		CPUs: runtime.NumCPU(), Memory: uint64(mem.Totalram) * uint64(mem.Unit), Rootless: ns.Rootless, IDs: ns.Size,
	}, nil
}

// systemName is what os-release(5) calls the system.
func systemName() string {
	for _, file := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				return strings.Trim(strings.TrimSpace(name), `"'`)
			}
		}
	}
	return fmt.Sprintf("%s without os-release", runtime.GOOS)
}
