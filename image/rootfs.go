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
	"get.podrun.dev/podrun/internal/untar"
)

// How many layers an image may have: what an overlay takes (OVL_MAX_STACK of the
// kernel), and what fits into its options where the kernel does not take layers
// one by one.
const (
	mostLayers   = 500
	layersOfPage = 60
)

// checkLayers tells whether an image can be mounted that has n layers.
func checkLayers(n int) error {
	if n <= layersOfPage {
		return nil
	}
	if linux.HasManyLayers() != nil {
		return fmt.Errorf("the image has %d layers; podrun takes up to %d, and %d from Linux 6.8 on", n, layersOfPage, mostLayers)
	}
	if n > mostLayers {
		return fmt.Errorf("the image has %d layers; the kernel takes up to %d", n, mostLayers)
	}
	return nil
}

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
	return s.overlay(img, dir, fmt.Sprintf(",upperdir=%s,workdir=%s", upper, work))
}

// ReadOnly returns the mount that shows an image's files and takes no changes.
// The caller sets the mount's target.
func (s *Store) ReadOnly(img *Image) (linux.Mount, error) {
	switch len(img.Layers) {
	case 0:
		return linux.Mount{Source: "tmpfs", Type: "tmpfs", Data: "size=4096", Flags: unix.MS_RDONLY}, nil
	case 1: // overlay takes no single layer
		return linux.Mount{Source: filepath.Join(s.layerDir(img.Layers[0]), "fs"), Flags: unix.MS_BIND | unix.MS_RDONLY}, nil
	}
	m, err := s.overlay(img, "", "")
	m.Flags |= unix.MS_RDONLY
	return m, err
}

// overlay is the mount of an image's layers. more are options for the upper
// directory, which is in dir.
func (s *Store) overlay(img *Image, dir, more string) (linux.Mount, error) {
	lower := make([]string, 0, len(img.Layers))
	for i := len(img.Layers) - 1; i >= 0; i-- { // overlay wants the topmost first
		dir := filepath.Join(s.layerDir(img.Layers[i]), "fs")
		lower = append(lower, dir)
		// A layer that removes everything below it says so on its root, where
		// the kernel does not look.
		if n, err := unix.Lgetxattr(dir, untar.OpaqueXattr(s.rootless), nil); err == nil && n > 0 {
			break
		}
	}
	options := "lowerdir=" + strings.Join(lower, ":") + more
	if s.rootless {
		options += ",userxattr" // Linux 5.11: overlay in a user namespace
	}
	if strings.ContainsAny(s.dir+dir, ",:\\") {
		return linux.Mount{}, fmt.Errorf("overlay cannot use a path with a comma, a colon or a backslash: %s", dir)
	}
	m := linux.Mount{Source: "overlay", Type: "overlay", Data: options}
	if err := m.CheckOptions(); err != nil {
		return linux.Mount{}, fmt.Errorf("the image has %d layers: %w", len(img.Layers), err)
	}
	return m, nil
}

// RemoveRootfs removes what a container wrote. It may be called again.
func (s *Store) RemoveRootfs(dir string) error { return os.RemoveAll(dir) }
