package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// emptyDir makes a directory that lives as long as the pod, with mode 0777 as
// the kubelet gives it; medium Memory makes it a tmpfs.
func (m *Manager) emptyDir(uid, name string, source *corev1.EmptyDirVolumeSource) (string, error) {
	switch source.Medium {
	case corev1.StorageMediumDefault:
		return makeDir(filepath.Join(m.disk, uid, name))
	case corev1.StorageMediumMemory:
		return m.tmpfs(filepath.Join(m.memory, uid, name), source)
	}
	return "", fmt.Errorf("emptyDir medium %q is not supported", source.Medium)
}

func makeDir(path string) (string, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	if err := os.Mkdir(path, 0o777); err != nil {
		if errors.Is(err, os.ErrExist) {
			return path, nil
		}
		return "", err
	}
	return path, os.Chmod(path, 0o777) // the umask took bits away
}

// tmpfs mounts memory at path, once: the containers of a pod share it.
func (m *Manager) tmpfs(path string, source *corev1.EmptyDirVolumeSource) (string, error) {
	if _, err := makeDir(path); err != nil {
		return "", err
	}
	mounted, err := isMountPoint(path)
	if err != nil || mounted {
		return path, err
	}
	options := "mode=1777"
	if limit := source.SizeLimit; limit != nil && !limit.IsZero() {
		options += fmt.Sprintf(",size=%d", limit.Value())
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return "", &os.PathError{Op: "mount tmpfs", Path: path, Err: err}
	}
	return path, nil
}

// isMountPoint compares the device of path with its parent's.
func isMountPoint(path string) (bool, error) {
	var self, parent unix.Stat_t
	if err := unix.Lstat(path, &self); err != nil {
		return false, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	if err := unix.Lstat(filepath.Dir(path), &parent); err != nil {
		return false, &os.PathError{Op: "lstat", Path: filepath.Dir(path), Err: err}
	}
	return self.Dev != parent.Dev, nil
}
