// Package volume makes what a manifest's volumes stand for on this machine: a
// directory or a file that a container can be given.
//
// It does not mount anything into a container, it does not look up what a
// volume is made of (Sources does), and it does not decide when a volume may
// go: the supervisor does all that. What it makes for a pod lies below two
// directories named by the pod's UID, one on disk and one in memory; mounts
// are made below the second only, so that Remove works from disk alone and
// never follows a mount into somebody else's files. Claims outlive pods and
// lie apart.
//
// Ownership follows one rule: root in a container is the user on the host.
package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/linux"
)

// Manager makes and removes volumes. Its methods are safe for concurrent use
// on different pods; Refresh is so on the pod of a Prepare too.
type Manager struct {
	disk   string // survives a reboot
	memory string // gone after one
	claims string

	writing sync.Mutex // one projection is written at a time
}

// Volume is a volume that is there.
type Volume struct {
	Path     string // a directory or a file on the host
	ReadOnly bool   // whatever its mounts say
	NoExec   bool   // likewise
}

// Sources gives what volumes are made of beside the manifest. An object that
// is not there is a NotFound error of the Kubernetes API.
type Sources interface {
	ConfigMap(name string) (*corev1.ConfigMap, error)
	Secret(name string) (*corev1.Secret, error)
	Claim(name string) (*corev1.PersistentVolumeClaim, error)
	// Field and Resource are the downward API's.
	Field(path string) (string, error)
	Resource(ref *corev1.ResourceFieldSelector) (string, error)
	// Image is the mount that shows the files of an image volume; its Target
	// is left open.
	Image(volume string) (linux.Mount, error)
}

// Error is why a volume is not there, in the kubelet's words.
type Error struct {
	Volume string
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}
func (e *Error) Unwrap() error { return e.Err }

// New returns a Manager that keeps volumes below dataDir and those in memory
// below stateDir. It touches nothing.
func New(dataDir, stateDir string) *Manager {
	return &Manager{
		disk:   filepath.Join(dataDir, "volumes"),
		memory: filepath.Join(stateDir, "volumes"),
		claims: filepath.Join(dataDir, "claims"),
	}
}

// Prepare makes every volume of p, or finds it made, and returns them by name.
// Volumes of an earlier start keep what is in them. The error joins an *Error
// for each volume that cannot be there; what a failure leaves, Remove removes.
func (m *Manager) Prepare(p *corev1.Pod, from Sources) (map[string]Volume, error) {
	volumes := make(map[string]Volume, len(p.Spec.Volumes))
	var errs []error
	for i := range p.Spec.Volumes {
		spec := &p.Spec.Volumes[i]
		v, err := m.prepare(p, spec, from)
		if err == nil && propagates(p, spec.Name) {
			v.Path, err = m.share(string(p.UID), spec.Name, v.Path)
		}
		if err != nil {
			errs = append(errs, &Error{spec.Name, err})
			continue
		}
		volumes[spec.Name] = v
	}
	return volumes, errors.Join(errs...)
}

func (m *Manager) prepare(p *corev1.Pod, v *corev1.Volume, from Sources) (Volume, error) {
	uid := string(p.UID)
	switch {
	case v.EmptyDir != nil:
		path, err := m.emptyDir(uid, v.Name, v.EmptyDir, ownershipOf(p))
		return Volume{Path: path}, err
	case v.HostPath != nil:
		path, err := hostPath(v.HostPath)
		return Volume{Path: path}, err
	case isProjection(v):
		path, err := m.project(p, v, from, true)
		return Volume{Path: path, ReadOnly: true}, err
	case v.PersistentVolumeClaim != nil:
		path, err := m.claim(p.Namespace, v.PersistentVolumeClaim, from, ownershipOf(p))
		return Volume{Path: path, ReadOnly: v.PersistentVolumeClaim.ReadOnly}, err
	case v.Image != nil:
		path, err := m.image(uid, v.Name, from)
		return Volume{Path: path, ReadOnly: true, NoExec: true}, err
	}
	return Volume{}, errors.New("this kind of volume is not supported")
}

// Refresh writes the files of the volumes of p anew that show objects or the
// pod itself, where they have changed. A container sees all of a volume's
// changes at once. The error joins an *Error for each volume that keeps what
// it has.
func (m *Manager) Refresh(p *corev1.Pod, from Sources) error {
	var errs []error
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if !isProjection(v) {
			continue
		}
		if _, err := m.project(p, v, from, false); err != nil {
			errs = append(errs, &Error{v.Name, err})
		}
	}
	return errors.Join(errs...)
}

// Remove removes what Prepare made for the pod uid. It may be called again,
// and for a pod without volumes.
func (m *Manager) Remove(uid string) error {
	memory := filepath.Join(m.memory, uid)
	if err := unmountAll(filepath.Join(memory, subPaths)); err != nil {
		return err
	}
	if err := unmountAll(memory); err != nil {
		return err
	}
	if err := fault.Point("volume.unmounted"); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(memory), os.RemoveAll(filepath.Join(m.disk, uid)))
}

// unmountAll unmounts what is mounted on the entries of dir, with all that is
// mounted below that.
func unmountAll(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := unmountStack(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// unmountStack unmounts what is mounted at path, one over the other.
func unmountStack(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT):
			return nil // not a mount point, or not any more
		case err != nil && !errors.Is(err, unix.EINTR):
			return &os.PathError{Op: "umount", Path: path, Err: err}
		}
	}
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
