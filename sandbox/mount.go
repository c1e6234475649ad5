package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// Mount is something to mount in a container.
type Mount struct {
	Source      string // on the host side: a file or directory; for other types what mount(2) wants
	Destination string // absolute, in the container; made if it is not there
	ReadOnly    bool
	// RecursiveReadOnly makes what is mounted below Source read-only too.
	RecursiveReadOnly     bool
	NoExec, NoDev, NoSUID bool
	Type                  string // "" binds Source with all that is mounted below it; else a filesystem type such as "tmpfs"
	Data                  string // filesystem options, comma separated
	// Propagation is Kubernetes' word: "" or "None", "HostToContainer" or
	// "Bidirectional".
	Propagation string
}

// mounts returns what a container sees: the defaults but for those that the
// caller's take the place of, then the caller's, parents before children.
func (s *Sandbox) mounts(extra []Mount, privileged bool) ([]*configs.Mount, error) {
	all := s.defaultMounts(privileged)
	for _, m := range extra {
		made, err := m.config()
		if err != nil {
			return nil, err
		}
		all = slices.DeleteFunc(all, func(d *configs.Mount) bool { return d.Destination == made.Destination })
		all = append(all, made)
	}
	// A volume at /dev, say, does not hide /dev/pts.
	slices.SortStableFunc(all, func(a, b *configs.Mount) int {
		return depth(a.Destination) - depth(b.Destination)
	})
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
	for flag, on := range map[int]bool{
		unix.MS_RDONLY: m.ReadOnly, unix.MS_NOEXEC: m.NoExec, unix.MS_NODEV: m.NoDev, unix.MS_NOSUID: m.NoSUID,
	} {
		if on {
			c.Flags |= flag
		}
	}
	if m.RecursiveReadOnly {
		c.RecAttr = &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
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

// RecursiveReadOnly tells why the kernel has no recursive read-only mounts
// (Linux 5.12), nil when it has.
func RecursiveReadOnly() error { return hasMountSetattr() }

var hasMountSetattr = sync.OnceValue(func() error {
	// Nothing is changed at a descriptor that is none.
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if errors.Is(err, unix.EBADF) {
		return nil
	}
	return os.NewSyscallError("mount_setattr", err)
})

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
