package sandbox

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"
	deviceconfig "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"golang.org/x/sys/unix"
)

// maskedPaths and readonlyPaths are those of containerd and Docker.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// hidden are the paths that a container may not read, and may not write.
func (c *ContainerConfig) hidden() (masked, readonly []string) {
	if c.Privileged || c.UnmaskedProc {
		return nil, nil
	}
	return maskedPaths, readonlyPaths
}

// defaultMounts are what every container has below /proc, /sys and /dev.
//
// A user namespace may mount what shows a namespace only if it owns that: of
// the host's own namespaces the host's mounts are bound in their place.
func (s *Sandbox) defaultMounts(privileged bool) []*configs.Mount {
	const usual = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	bind := func(path string, flags int) *configs.Mount {
		return &configs.Mount{Source: path, Destination: path, Device: "bind", Flags: unix.MS_BIND | unix.MS_REC | usual | flags}
	}
	foreign := func(hosts bool) bool { return hosts && s.r.rootless }
	devpts := "newinstance,ptmxmode=0666,mode=0620"
	if !s.r.singleID {
		devpts += ",gid=5" // tty; not to be had where only one group is mapped
	}
	sysAccess := unix.MS_RDONLY
	if privileged && !readOnly("/sys") {
		sysAccess = 0
	}

	var all []*configs.Mount
	if foreign(s.state.HostPID) {
		all = append(all, bind("/proc", 0))
	} else {
		all = append(all, &configs.Mount{Source: "proc", Destination: "/proc", Device: "proc", Flags: usual})
	}
	all = append(all,
		&configs.Mount{Source: "tmpfs", Destination: "/dev", Device: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_STRICTATIME, Data: "mode=755,size=65536k"},
		&configs.Mount{Source: "devpts", Destination: "/dev/pts", Device: "devpts", Flags: unix.MS_NOSUID | unix.MS_NOEXEC, Data: devpts},
		&configs.Mount{Source: s.shm(), Destination: "/dev/shm", Device: "bind", Flags: unix.MS_BIND | usual},
	)
	if !foreign(s.state.HostIPC) {
		all = append(all, &configs.Mount{Source: "mqueue", Destination: "/dev/mqueue", Device: "mqueue", Flags: usual})
	} else if _, err := os.Stat("/dev/mqueue"); err == nil {
		all = append(all, bind("/dev/mqueue", 0))
	}
	if foreign(s.state.HostNetwork) {
		sys := bind("/sys", sysAccess)
		if sysAccess != 0 {
			// What is mounted below it, too: the user's own cgroups are there.
			sys.RecAttr = &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		}
		all = append(all, sys)
	} else {
		all = append(all, &configs.Mount{Source: "sysfs", Destination: "/sys", Device: "sysfs", Flags: usual | sysAccess})
	}
	if cgroups.IsCgroup2UnifiedMode() {
		all = append(all, &configs.Mount{Source: "cgroup", Destination: "/sys/fs/cgroup", Device: "cgroup", Flags: usual | sysAccess})
	}
	return all
}

// readOnly tells whether the host has a file system mounted read-only: then no
// user namespace gets it writable.
func readOnly(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) != nil || st.Flags&unix.ST_RDONLY != 0
}

// deviceNodes are /dev/null and its like; of a privileged container also all
// of the host's devices that we may open. In a user namespace libcontainer
// binds them from the host, since mknod is refused there.
func (s *Sandbox) deviceNodes(privileged bool) ([]*deviceconfig.Device, error) {
	var nodes []*deviceconfig.Device
	usual := map[string]bool{"/dev/ptmx": true}
	for _, d := range specconv.AllowedDevices {
		if d.Path != "" {
			nodes = append(nodes, d)
			usual[d.Path] = true
		}
	}
	if !privileged {
		return nodes, nil
	}
	more, err := hostDevices(usual)
	return append(nodes, more...), err
}

// hostDevices are the devices below /dev, but for those in without, that we
// may open. Terminals and what has a mount of its own stay the host's.
func hostDevices(without map[string]bool) ([]*deviceconfig.Device, error) {
	var all []*deviceconfig.Device
	err := filepath.WalkDir("/dev", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil // not for our eyes, or just gone
		case e.IsDir():
			if name := e.Name(); name == "pts" || name == "shm" || name == "mqueue" {
				return fs.SkipDir
			}
			return nil
		case e.Type()&fs.ModeDevice == 0 || without[path] || path == "/dev/console":
			return nil
		case unix.Access(path, unix.R_OK) != nil && unix.Access(path, unix.W_OK) != nil:
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return nil
		}
		kind := deviceconfig.CharDevice
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			kind = deviceconfig.BlockDevice
		}
		all = append(all, &deviceconfig.Device{
			Rule: deviceconfig.Rule{
				Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)), Permissions: "rwm", Allow: true,
			},
			Path: path, FileMode: os.FileMode(st.Mode & 0o7777), Uid: st.Uid, Gid: st.Gid,
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("devices of the host: %w", err)
	}
	return all, nil
}

// withoutDevices is for real root, whose mknod the kernel does not refuse: it
// takes from all that is mounted the power to hold devices, as a devices cgroup
// would, and binds those that a container may have from the host. libcontainer
// would make them in a /dev that can hold any.
func withoutDevices(mounts []*configs.Mount, nodes []*deviceconfig.Device) []*configs.Mount {
	var all []*configs.Mount
	for _, m := range mounts {
		switch {
		case m.Destination == "/dev/pts": // holds terminals only, whoever asks
		case m.Flags&unix.MS_BIND == 0:
			m.Flags |= unix.MS_NODEV
		case isDirectory(m.Source):
			attr := unix.MountAttr{}
			if m.RecAttr != nil {
				attr = *m.RecAttr
			}
			attr.Attr_set |= unix.MOUNT_ATTR_NODEV
			m.RecAttr = &attr
		}
		all = append(all, m)
		if m.Destination == "/dev" && m.Device == "tmpfs" {
			for _, d := range nodes {
				all = append(all, &configs.Mount{Source: d.Path, Destination: d.Path, Device: "bind", Flags: unix.MS_BIND | unix.MS_NOSUID | unix.MS_NOEXEC})
			}
		}
	}
	return all
}

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
