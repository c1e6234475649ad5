package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/linux"
)

// Rootfs returns the mount that gives a container the image's files, with what
// the container writes kept in dir, which is made. The caller sets the mount's
// target. An image without layers gives an empty directory.
func (s *Store) Rootfs(img *Image, dir string) (linux.Mount, error) {
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return linux.Mount{}, err
	}
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return linux.Mount{}, err
		}
	}
	if len(img.Layers) == 0 {
		return linux.Mount{Source: upper, Flags: unix.MS_BIND}, nil
	}
	lower := make([]string, 0, len(img.Layers))
	for i := len(img.Layers) - 1; i >= 0; i-- { // overlay wants the topmost first
		lower = append(lower, filepath.Join(s.layerDir(img.Layers[i]), "fs"))
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(lower, ":"), upper, work)
	if s.rootless {
		options += ",userxattr" // Linux 5.11: overlay in a user namespace
	}
	if strings.ContainsAny(s.dir+dir, ",:\\") {
		return linux.Mount{}, fmt.Errorf("overlay cannot use a path with a comma, a colon or a backslash: %s", dir)
	}
	if len(options) >= os.Getpagesize() {
		return linux.Mount{}, fmt.Errorf("the image's %d layers need %d bytes of mount options, the kernel takes %d", len(img.Layers), len(options), os.Getpagesize()-1)
	}
	return linux.Mount{Source: "overlay", Type: "overlay", Data: options}, nil
}

// RemoveRootfs removes what a container wrote. It may be called again.
func (s *Store) RemoveRootfs(dir string) error { return os.RemoveAll(dir) }
