// Package linux holds thin wrappers of system calls: EINTR retried, errors
// typed with the call's name and path, features probed by doing. It decides
// nothing and keeps no state.
package linux

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Mount is one mount to make: the arguments of mount(2). Target is a path on
// the host side, already resolved by whoever fills it in.
type Mount struct {
	Source string
	Target string
	Type   string  // filesystem type; "" for a bind mount
	Flags  uintptr // MS_* of mount(2)
	Data   string  // filesystem options, comma separated
}

// Mount makes the mount. The error is an *os.PathError with the target's path.
// A bind mount that asks for more flags than MS_BIND and MS_REC is made in the
// two steps the kernel wants; when the second fails the first is undone. An
// overlay may have more options than fit into mount(2), where the kernel has
// another way (HasManyLayers).
func (m Mount) Mount() error {
	if m.isLong() {
		if err := m.mountLong(); err != nil {
			return &os.PathError{Op: "mount", Path: m.Target, Err: err}
		}
		return nil
	}
	if err := ignoringEINTR(func() error {
		return unix.Mount(m.Source, m.Target, m.Type, m.Flags, m.Data)
	}); err != nil {
		return &os.PathError{Op: "mount", Path: m.Target, Err: err}
	}
	// mount(2) ignores every flag of a bind but MS_REC until a remount.
	if m.Flags&unix.MS_BIND == 0 || m.Flags&^(unix.MS_BIND|unix.MS_REC) == 0 {
		return nil
	}
	if err := ignoringEINTR(func() error {
		return unix.Mount("", m.Target, "", m.Flags|unix.MS_REMOUNT, "")
	}); err != nil {
		err = &os.PathError{Op: "remount", Path: m.Target, Err: err}
		return errors.Join(err, Unmount(m.Target, unix.MNT_DETACH))
	}
	return nil
}

// Unmount takes away the topmost mount at path; flags are those of umount2(2).
// That nothing is mounted there, or that path is not there, is no error.
func Unmount(path string, flags int) error {
	err := ignoringEINTR(func() error { return unix.Unmount(path, flags) })
	// EINVAL: path is not a mount point (or is locked, and then stays).
	if err == nil || err == unix.EINVAL || err == unix.ENOENT {
		return nil
	}
	return &os.PathError{Op: "umount", Path: path, Err: err}
}

// Overlay says whether an overlay can be mounted with its upper directory in
// dir, by doing it. The error tells which step the kernel refused.
func Overlay(dir string) error {
	tmp, err := os.MkdirTemp(dir, "overlay-probe-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(tmp+"/"+d, 0o700); err != nil {
			return err
		}
	}
	m := Mount{
		Source: "overlay", Target: tmp + "/merged", Type: "overlay",
		// userxattr (5.11) is what an overlay in a user namespace needs.
		Data: fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work,userxattr", tmp),
	}
	if err := m.Mount(); err != nil {
		return err
	}
	return Unmount(m.Target, unix.MNT_DETACH)
}

func ignoringEINTR(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
