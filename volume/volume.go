// Package volume makes what a manifest's volumes stand for on this machine: a
// directory or a file that a container can be given.
//
// It does not mount anything into a container, and it does not decide when a
// volume may go: the supervisor does both. What it makes for a pod lies below
// one directory named by the pod's UID, so that Remove works from disk alone.
//
// Ownership follows one rule: root in a container is the user on the host.
package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// Manager makes and removes volumes. Its methods are safe for concurrent use
// on different pods.
type Manager struct {
	disk   string // survives a reboot
	memory string // gone after one
}

// Volume is a volume that is there.
type Volume struct {
	Path string // a directory or a file on the host
}

// New returns a Manager that keeps volumes below dataDir and those in memory
// below stateDir. It touches nothing.
func New(dataDir, stateDir string) *Manager {
	return &Manager{disk: filepath.Join(dataDir, "volumes"), memory: filepath.Join(stateDir, "volumes")}
}

// Prepare makes every volume of p, or finds it made, and returns them by name.
// Volumes of an earlier start keep what is in them. What a failure leaves,
// Remove removes.
func (m *Manager) Prepare(p *corev1.Pod) (map[string]Volume, error) {
	volumes := make(map[string]Volume, len(p.Spec.Volumes))
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		var path string
		var err error
		switch {
		case v.EmptyDir != nil:
			path, err = m.emptyDir(string(p.UID), v.Name, v.EmptyDir)
		case v.HostPath != nil:
			path, err = hostPath(v.HostPath)
		default:
			err = errors.New("this kind of volume is not supported")
		}
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		volumes[v.Name] = Volume{Path: path}
	}
	return volumes, nil
}

// Remove removes what Prepare made for the pod uid. It may be called again,
// and for a pod without volumes.
func (m *Manager) Remove(uid string) error {
	memory := filepath.Join(m.memory, uid)
	mounts, err := os.ReadDir(memory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range mounts {
		path := filepath.Join(memory, e.Name())
		// EINVAL: not a mount point, the mount was never made or is gone.
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return &os.PathError{Op: "umount", Path: path, Err: err}
		}
	}
	return errors.Join(os.RemoveAll(memory), os.RemoveAll(filepath.Join(m.disk, uid)))
}

// Sweep removes the volumes of every pod that is not in keep.
func (m *Manager) Sweep(keep map[string]bool) error {
	var errs []error
	for _, dir := range []string{m.disk, m.memory} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			if !keep[e.Name()] {
				errs = append(errs, m.Remove(e.Name()))
			}
		}
	}
	return errors.Join(errs...)
}
