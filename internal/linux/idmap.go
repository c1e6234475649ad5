package linux

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// MountIDMapped mounts the tree at source, without what is mounted below it, on
// target with its owners as the user namespace userns maps them: what belongs to
// root on disk belongs to root in there (Linux 5.12, and the file system has to
// allow it).
func MountIDMapped(source, target string, userns *os.File) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: source, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return &os.PathError{Op: "map the IDs of", Path: source, Err: err}
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

// HasIDMappedMounts tells why the kernel has no idmapped mounts, nil when it has.
var HasIDMappedMounts = sync.OnceValue(func() error {
	// Nothing is changed at a descriptor that is none.
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP})
	if errors.Is(err, unix.EBADF) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return os.NewSyscallError("mount_setattr", err)
})

// IDMapped returns m, an overlay, with its lower layers as the user namespace
// userns maps them (Linux 5.19). They are mounted below dir, which is made;
// UnmountBelow takes that away, at the earliest when m is mounted.
//
// The upper layer stays as it is: overlay makes files of its own there, with the
// rights of whoever mounts it, who has no ID in userns.
func (m Mount) IDMapped(userns *os.File, dir string) (Mount, error) {
	options := strings.Split(m.Data, ",")
	for i, option := range options {
		lower, ok := strings.CutPrefix(option, "lowerdir=")
		if !ok {
			continue
		}
		layers := strings.Split(lower, ":")
		for n, layer := range layers {
			target := filepath.Join(dir, strconv.Itoa(n))
			if err := os.MkdirAll(target, 0o700); err != nil {
				return m, err
			}
			if err := MountIDMapped(layer, target, userns); err != nil {
				return m, err
			}
			layers[n] = target
		}
		options[i] = "lowerdir=" + strings.Join(layers, ":")
	}
	m.Data = strings.Join(options, ",")
	return m, m.CheckOptions()
}

// Upper is the directory that an overlay, or a bind mount, keeps changes in.
func (m Mount) Upper() string {
	for option := range strings.SplitSeq(m.Data, ",") {
		if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
			return upper
		}
	}
	if m.Type == "" {
		return m.Source
	}
	return ""
}

// UnmountBelow takes away what is mounted on the entries of dir, and dir. That
// it is not there is no error.
func UnmountBelow(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		// Remove, not RemoveAll: what is still mounted is somebody else's.
		errs = append(errs, Unmount(path, unix.MNT_DETACH), os.Remove(path))
	}
	return errors.Join(append(errs, os.Remove(dir))...)
}
