package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/hint"
)

// ownership is what a pod's fsGroup makes of the files of its volumes
// (https://kubernetes.io/docs/tasks/configure-pod-container/security-context/):
// they belong to the group, which may read and, unless the volume is
// read-only, write them; directories hand the group on.
type ownership struct {
	group          int // -1: the pod has no fsGroup
	readOnly       bool
	onRootMismatch bool // leave a volume alone whose root is as it should be
}

func ownershipOf(p *corev1.Pod) ownership {
	s := p.Spec.SecurityContext
	if s == nil || s.FSGroup == nil {
		return ownership{group: -1}
	}
	policy := s.FSGroupChangePolicy
	return ownership{group: int(*s.FSGroup), onRootMismatch: policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch}
}

// Modes that files have at the least, in C's bits.
const (
	modeFile         = 0o660
	modeFileReadOnly = 0o440
	modeDir          = 0o110 | unix.S_ISGID // beyond a file's
)

func (o ownership) mode(dir bool) uint32 {
	mode := uint32(modeFile)
	if o.readOnly {
		mode = modeFileReadOnly
	}
	if dir {
		mode |= modeDir
	}
	return mode
}

// apply changes root and all below it, deepest first, so that a root which is
// as it should be tells that all of it was done.
func (o ownership) apply(root string) error {
	if o.group < 0 || o.onRootMismatch && o.satisfied(root) {
		return nil
	}
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer func() { _ = unix.Close(dir) }()
	var paths []string
	if err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return unlessGone(err)
		}
		path, err = filepath.Rel(root, path)
		paths = append(paths, path)
		return err
	}); err != nil {
		return err
	}
	for _, path := range slices.Backward(paths) {
		if err := o.change(dir, path); err != nil {
			return err
		}
	}
	return nil
}

// change changes what is at path below the directory dir. A container that has
// the volume may change every name in it meanwhile: the kernel follows no link,
// nowhere on the way, and what was found is worked on, not its name. What has
// gone, or become a link, is left.
func (o ownership) change(dir int, path string) error {
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Fchownat(fd, "", -1, o.group, unix.AT_EMPTY_PATH); err != nil {
		err = &os.PathError{Op: "chown", Path: path, Err: err}
		if errors.Is(err, unix.EINVAL) {
			return o.unmapped(err)
		}
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFLNK {
		return nil // has no mode of its own
	}
	// fchmod does not take such a descriptor, but this name of it is taken.
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), st.Mode&0o7777|o.mode(kind == unix.S_IFDIR)); err != nil {
		return &os.PathError{Op: "chmod", Path: path, Err: err}
	}
	return nil
}

// unmapped says why the kernel does not take the group.
func (o ownership) unmapped(err error) error {
	return hint.Wrap(fmt.Errorf("fsGroup: group ID %d is not mapped in the user namespace: %w", o.group, err),
		`give the user more IDs in /etc/subgid, and install newgidmap (package uidmap); see "podrun doctor"`)
}

// tmpfs are the options of one whose root is as apply would leave it.
func (o ownership) tmpfs() string {
	if o.group < 0 {
		return "mode=1777"
	}
	return fmt.Sprintf("mode=%o,gid=%d", 0o1777|o.mode(true), o.group)
}

// satisfied tells whether root is as apply would leave it.
func (o ownership) satisfied(root string) bool {
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false
	}
	want := o.mode(true)
	return int(st.Gid) == o.group && st.Mode&want == want
}
