package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// emptyDir makes a directory that lives as long as the pod; medium Memory
// makes it a tmpfs. It is given its owner once: what the containers make of
// it stays.
func (m *Manager) emptyDir(uid, name string, source *corev1.EmptyDirVolumeSource, own ownership) (string, error) {
	path := filepath.Join(m.disk, uid, name)
	switch source.Medium {
	case corev1.StorageMediumDefault:
		made, err := makeDir(path)
		if err != nil || !made {
			return path, err
		}
	case corev1.StorageMediumMemory:
		path = filepath.Join(m.memory, uid, name)
		options := ""
		if limit := source.SizeLimit; limit != nil && !limit.IsZero() {
			options = fmt.Sprintf("size=%d", limit.Value())
		}
		made, err := mountTmpfs(path, options)
		if err != nil || !made {
			return path, err
		}
	default:
		return "", fmt.Errorf("emptyDir medium %q is not supported", source.Medium)
	}
	return path, own.apply(path)
}

// makeDir makes a directory with mode 0777, as the kubelet's volumes have it,
// and tells whether it did.
func makeDir(path string) (bool, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return false, err
	}
	if err := os.Mkdir(path, 0o777); err != nil {
		if errors.Is(err, os.ErrExist) {
			return false, nil
		}
		return false, err
	}
	return true, os.Chmod(path, 0o777) // the umask took bits away
}

// mountTmpfs mounts memory at path, once: the containers of a pod share it. It
// tells whether it did.
func mountTmpfs(path, options string) (bool, error) {
	if _, err := makeDir(path); err != nil {
		return false, err
	}
	if mounted, err := isMountPoint(path); err != nil || mounted {
		return false, err
	}
	if options != "" {
		options += ","
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options+"mode=1777"); err != nil {
		return false, &os.PathError{Op: "mount tmpfs", Path: path, Err: err}
	}
	return true, nil
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
