package linux

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// HasManyLayers tells why the kernel does not take the lower directories of an
// overlay one by one (Linux 6.8), nil when it does. Where it does not, all of a
// mount's options must fit into one page.
var HasManyLayers = sync.OnceValue(func() error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	return errors.Join(os.NewSyscallError("fsconfig", unix.FsconfigSetString(fd, "lowerdir+", "/")), unix.Close(fd))
})

// CheckOptions tells why m cannot be mounted for the length of its options, nil
// when it can.
func (m Mount) CheckOptions() error {
	if !m.isLong() {
		return nil
	}
	if err := HasManyLayers(); err != nil {
		return fmt.Errorf("the mount options have %d bytes, and this kernel takes %d (from Linux 6.8 on it takes layers one by one)", len(m.Data), os.Getpagesize()-1)
	}
	return nil
}

// isLong tells whether m is an overlay with more options than mount(2) takes.
func (m Mount) isLong() bool { return m.Type == "overlay" && len(m.Data) >= os.Getpagesize() }

// maxOption is the longest value of one option that fsconfig(2) takes.
const maxOption = 255

// mountLong mounts an overlay by fsconfig(2), each layer by itself. Of the flags
// those of single mounts may be set, which have the same bits for mount(2) and
// fsmount(2).
func (m Mount) mountLong() (err error) {
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if m.Flags&^flags != 0 {
		return unix.EINVAL
	}
	fd, err := unix.Fsopen(m.Type, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	set := func(key, value string) error {
		if len(value) > maxOption {
			return fmt.Errorf("%s=%s has more than %d bytes", key, value, maxOption)
		}
		if err := unix.FsconfigSetString(fd, key, value); err != nil {
			return fmt.Errorf("fsconfig %s=%s: %w", key, value, err)
		}
		return nil
	}
	if err := set("source", m.Source); err != nil {
		return err
	}
	for option := range strings.SplitSeq(m.Data, ",") {
		key, value, valued := strings.Cut(option, "=")
		switch {
		case key == "lowerdir":
			for layer := range strings.SplitSeq(value, ":") {
				if err := set("lowerdir+", layer); err != nil {
					return err
				}
			}
			continue
		case valued:
			err = set(key, value)
		default:
			err = os.NewSyscallError("fsconfig", unix.FsconfigSetFlag(fd, key))
		}
		if err != nil {
			return err
		}
	}
	if m.Flags&unix.MS_RDONLY != 0 {
		if err := unix.FsconfigSetFlag(fd, "ro"); err != nil {
			return os.NewSyscallError("fsconfig", err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return os.NewSyscallError("fsconfig", err)
	}
	tree, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, int(m.Flags))
	if err != nil {
		return os.NewSyscallError("fsmount", err)
	}
	err = unix.MoveMount(tree, "", unix.AT_FDCWD, m.Target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	return errors.Join(os.NewSyscallError("move_mount", err), unix.Close(tree))
}
