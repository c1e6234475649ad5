package volume

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/fault"
)

// propagates tells whether a container wants to see what is mounted below the
// volume later, by the host or by another container.
func propagates(p *corev1.Pod, volume string) bool {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			for _, m := range list[i].VolumeMounts {
				if m.Name == volume && m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
					return true
				}
			}
		}
	}
	return false
}

// share makes path a mount of its own that passes on what is mounted below it,
// once, and returns where that is. The node's other mounts pass nothing on. A
// mount of the host goes on receiving what the host mounts below it.
func (m *Manager) share(uid, name, path string) (string, error) {
	shared := filepath.Join(m.memory, uid, name)
	if shared != path {
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		if err := makeTarget(shared, info.IsDir()); err != nil {
			return "", err
		}
		mounted, err := isMountPoint(shared)
		if err != nil {
			return "", err
		}
		if !mounted {
			if err := unix.Mount(path, shared, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
				return "", &os.PathError{Op: "bind", Path: shared, Err: err}
			}
		}
		if err := fault.Point("volume.bound"); err != nil {
			return "", err
		}
	}
	// Each time: a node that was killed may have come no further than the bind.
	if err := unix.Mount("", shared, "", unix.MS_SHARED, ""); err != nil {
		return "", &os.PathError{Op: "make shared", Path: shared, Err: err}
	}
	return shared, nil
}

// makeTarget makes what a bind mount can be made on.
func makeTarget(path string, dir bool) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if dir {
		err := os.Mkdir(path, 0o700)
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}
