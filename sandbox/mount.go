package sandbox

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"golang.org/x/sys/unix"
)

// Mount is something to mount in a container.
type Mount struct {
	Source      string // on the host side: a file or directory; for other types what mount(2) wants
	Destination string // absolute, in the container; made if it is not there
	ReadOnly    bool
	Type        string // "" binds Source with all that is mounted below it; else a filesystem type such as "tmpfs"
	Data        string // filesystem options, comma separated
	// Propagation is Kubernetes' word: "" or "None", "HostToContainer" or
	// "Bidirectional".
	Propagation string
}

// maskedPaths and readonlyPaths are those of containerd and Docker.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// mounts returns what a container sees: the defaults but for those that the
// caller's take the place of, then the caller's, parents before children.
func (s *Sandbox) mounts(extra []Mount) ([]*configs.Mount, error) {
	const usual = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	devpts := "newinstance,ptmxmode=0666,mode=0620"
	if !s.r.singleID {
		devpts += ",gid=5" // tty; not to be had where only one group is mapped
	}
	all := []*configs.Mount{
		{Source: "proc", Destination: "/proc", Device: "proc", Flags: usual},
		{Source: "tmpfs", Destination: "/dev", Device: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_STRICTATIME, Data: "mode=755,size=65536k"},
		{Source: "devpts", Destination: "/dev/pts", Device: "devpts", Flags: unix.MS_NOSUID | unix.MS_NOEXEC, Data: devpts},
		{Source: s.shm(), Destination: "/dev/shm", Device: "bind", Flags: unix.MS_BIND | usual},
		{Source: "mqueue", Destination: "/dev/mqueue", Device: "mqueue", Flags: usual},
	}
	if s.state.HostNetwork && s.r.rootless {
		// sysfs shows a network namespace, and only who owns that may mount it.
		all = append(all, &configs.Mount{Source: "/sys", Destination: "/sys", Device: "bind", Flags: unix.MS_BIND | unix.MS_REC | unix.MS_RDONLY | usual})
	} else {
		all = append(all, &configs.Mount{Source: "sysfs", Destination: "/sys", Device: "sysfs", Flags: usual | unix.MS_RDONLY})
	}
	if cgroups.IsCgroup2UnifiedMode() {
		all = append(all, &configs.Mount{Source: "cgroup", Destination: "/sys/fs/cgroup", Device: "cgroup", Flags: usual | unix.MS_RDONLY})
	}
	extra = slices.Clone(extra)
	slices.SortStableFunc(extra, func(a, b Mount) int {
		return depth(a.Destination) - depth(b.Destination)
	})
	for _, m := range extra {
		made, err := m.config()
		if err != nil {
			return nil, err
		}
		all = slices.DeleteFunc(all, func(d *configs.Mount) bool { return d.Destination == made.Destination })
		all = append(all, made)
	}
	return all, nil
}

func depth(p string) int { return strings.Count(path.Clean(p), "/") }

func (m Mount) config() (*configs.Mount, error) {
	if !path.IsAbs(m.Destination) || path.Clean(m.Destination) == "/" {
		return nil, fmt.Errorf("mount: destination %q is not an absolute path below the root", m.Destination)
	}
	c := &configs.Mount{Source: m.Source, Destination: path.Clean(m.Destination), Device: m.Type, Data: m.Data}
	if m.Type == "" {
		c.Device, c.Flags = "bind", unix.MS_BIND|unix.MS_REC
	} else {
		c.Flags = unix.MS_NOSUID | unix.MS_NODEV
	}
	if m.ReadOnly {
		c.Flags |= unix.MS_RDONLY
	}
	switch m.Propagation {
	case "", "None":
		c.PropagationFlags = []int{unix.MS_PRIVATE | unix.MS_REC}
	case "HostToContainer":
		c.PropagationFlags = []int{unix.MS_SLAVE | unix.MS_REC}
	case "Bidirectional":
		c.PropagationFlags = []int{unix.MS_SHARED | unix.MS_REC}
	default:
		return nil, fmt.Errorf("mount %s: unknown propagation %q", m.Destination, m.Propagation)
	}
	return c, nil
}

// rootPropagation is what the container's root needs for its mounts'.
func rootPropagation(extra []Mount) int {
	flags := 0 // libcontainer's default: rslave
	for _, m := range extra {
		if m.Propagation == "Bidirectional" {
			flags = unix.MS_SHARED | unix.MS_REC
		}
	}
	return flags
}

// deviceNodes are /dev/null and its like. In a user namespace libcontainer
// binds them from the host, since mknod is refused there.
func deviceNodes() []*devices.Device {
	var nodes []*devices.Device
	for _, d := range specconv.AllowedDevices {
		if d.Path != "" {
			nodes = append(nodes, d)
		}
	}
	return nodes
}
