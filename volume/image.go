package volume

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// image mounts the files of an image, once: the containers of a pod share
// them. Nobody can write there, or run what is there
// (https://kep.k8s.io/4639).
func (m *Manager) image(uid, name string, from Sources) (string, error) {
	path := filepath.Join(m.memory, uid, name)
	if err := makeDir(path, nil); err != nil {
		return "", err
	}
	mounted, err := isMountPoint(path)
	if err != nil || mounted {
		return path, err
	}
	mount, err := from.Image(name)
	if err != nil {
		return "", err
	}
	mount.Target = path
	mount.Flags |= unix.MS_RDONLY | unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV
	if err := mount.Mount(); err != nil {
		return "", err
	}
	return path, nil
}
