package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/fault"
)

// emptyDir makes a directory that lives as long as the pod; medium Memory
// makes it a tmpfs. It has its owner from its first moment on: what the
// containers make of it stays.
func (m *Manager) emptyDir(uid, name string, source *corev1.EmptyDirVolumeSource, own ownership) (string, error) {
	switch source.Medium {
	case corev1.StorageMediumDefault:
		path := filepath.Join(m.disk, uid, name)
		return path, makeDir(path, own.apply)
	case corev1.StorageMediumMemory:
		path := filepath.Join(m.memory, uid, name)
		options := own.tmpfs()
		if limit := source.SizeLimit; limit != nil && !limit.IsZero() {
			options += fmt.Sprintf(",size=%d", limit.Value())
		}
		err := mountTmpfs(path, options)
		if errors.Is(err, unix.EINVAL) && own.group >= 0 {
			err = own.unmapped(err)
		}
		return path, err
	}
	return "", fmt.Errorf("emptyDir medium %q is not supported", source.Medium)
}

// makeDir makes a directory with mode 0777, as the kubelet's volumes have it,
// unless it is there. It is there when finish, which may be nil, has done the
// rest: whoever is killed before that leaves what removing the pod, or the
// claim, removes.
func makeDir(path string, finish func(path string) error) (err error) {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	parent, name := filepath.Split(path)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(parent, unfinished(name))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(fresh))
		}
	}()
	if err := os.Chmod(fresh, 0o777); err != nil { // the umask took bits away
		return err
	}
	if finish != nil {
		if err := finish(fresh); err != nil {
			return err
		}
	}
	if err := fault.Point("volume.made"); err != nil {
		return err
	}
	err = unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) { // another pod with the same claim was first
		return os.Remove(fresh)
	}
	return os.NewSyscallError("rename", err)
}

// unfinished is what the names of directories match that are to become name. No
// name of Kubernetes has an underscore or begins with a dot.
func unfinished(name string) string { return "." + name + "_*" }

// mountTmpfs mounts memory at path, once: the containers of a pod share it.
func mountTmpfs(path, options string) error {
	if err := makeDir(path, nil); err != nil {
		return err
	}
	if mounted, err := isMountPoint(path); err != nil || mounted {
		return err
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return &os.PathError{Op: "mount tmpfs", Path: path, Err: err}
	}
	return nil
}

// isMountPoint compares the mounts that path and its parent are on. A bind
// mount of the same file system is one too.
func isMountPoint(path string) (bool, error) {
	var self, parent unix.Statx_t
	for p, to := range map[string]*unix.Statx_t{path: &self, filepath.Dir(path): &parent} {
		if err := unix.Statx(unix.AT_FDCWD, p, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, to); err != nil {
			return false, &os.PathError{Op: "statx", Path: p, Err: err}
		}
	}
	return self.Mnt_id != parent.Mnt_id, nil
}
