package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/fault"
)

// subPaths is the directory, beside a pod's volumes in memory, where parts of
// them are mounted while a container is made. It is no volume's name.
const subPaths = ".subpaths"

// SubPath mounts what lies at path in the volume v to a place that no
// container can reach, for the mount number index of a container about to be
// made, and returns that place. A path that is not there becomes a directory.
//
// A container that has the volume may change every link and directory in it at
// any moment (CVE-2017-1002101, CVE-2021-25741, CVE-2021-30465). So the path is
// resolved by the kernel below a descriptor of the volume, in one call that
// follows no link out of it, and what is mounted is the descriptor that came
// of it: no name is looked up twice.
func (m *Manager) SubPath(uid, container string, index int, v Volume, path string) (string, error) {
	if filepath.IsAbs(path) || !filepath.IsLocal(path) {
		return "", fmt.Errorf("subPath %q must be a relative path without '..'", path)
	}
	root, err := unix.Open(v.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: v.Path, Err: err}
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := resolve(root, path, 0)
	if errors.Is(err, unix.ENOENT) {
		fd, err = makeDirs(root, path)
	}
	if err != nil {
		return "", subPathError(path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", subPathError(path, err)
	}
	target := m.subPathTarget(uid, container, index)
	if err := makeTarget(target, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return "", err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", errors.Join(&os.PathError{Op: "bind", Path: target, Err: err}, os.Remove(target))
	}
	if err := fault.Point("volume.subpath"); err != nil {
		return "", err
	}
	return target, nil
}

// ReleaseSubPath takes back what SubPath mounted: the container has its own
// mount of it, or was not made. It may be called for what was never mounted.
func (m *Manager) ReleaseSubPath(uid, container string, index int) error {
	target := m.subPathTarget(uid, container, index)
	if err := unmountStack(target); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (m *Manager) subPathTarget(uid, container string, index int) string {
	return filepath.Join(m.memory, uid, subPaths, container+"-"+strconv.Itoa(index))
}

// Open opens a regular file of a volume for reading; no link leads out of the
// volume.
func Open(v Volume, path string) (*os.File, error) {
	if !filepath.IsLocal(path) {
		return nil, fmt.Errorf("path %q leads out of the volume", path)
	}
	root, err := unix.Open(v.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: v.Path, Err: err}
	}
	defer func() { _ = unix.Close(root) }()
	// Not blocking: a FIFO in its place must not hold us up.
	fd, err := openat2(root, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, subPathError(path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// resolve returns a descriptor that only names what path leads to below root.
func resolve(root int, path string, flags uint64) (int, error) {
	return openat2(root, path, unix.O_PATH|flags)
}

func openat2(root int, path string, flags uint64) (int, error) {
	how := unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC,
		// A link to an absolute path, or one that climbs out, is an error as
		// in the kubelet; taken inside root it would name something else.
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	for range 1000 {
		fd, err := unix.Openat2(root, path, &how)
		// EAGAIN: something was renamed while a ".." of a link was followed, and
		// the kernel cannot tell that it stayed inside.
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// makeDirs makes the directories of path that are not there, as open as the
// volume itself, and returns a descriptor of the last. Each is looked up from
// root again, for a link on the way may lead up.
func makeDirs(root int, path string) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return -1, err
	}
	parent, err := unix.Dup(root)
	if err != nil {
		return -1, err
	}
	for at := range ancestors(filepath.Clean(path)) {
		fd, err := resolve(root, at, unix.O_DIRECTORY)
		if errors.Is(err, unix.ENOENT) {
			if err = makeOne(parent, filepath.Base(at), st.Mode&0o7777); err == nil {
				fd, err = resolve(root, at, unix.O_DIRECTORY)
			}
		}
		_ = unix.Close(parent)
		if err != nil {
			return -1, err
		}
		parent = fd
	}
	return parent, nil
}

// makeOne makes one directory. What is there already, a link that leads
// nowhere say, is left.
func makeOne(parent int, name string, mode uint32) error {
	err := unix.Mkdirat(parent, name, mode)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	// The umask took bits away. A container may have put something else in its
	// place by now: a link is not followed, and all else is in the volume.
	fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}

// subPathError words what the kernel says for who wrote the manifest.
func subPathError(path string, err error) error {
	switch {
	case errors.Is(err, unix.EXDEV):
		err = errors.New("it leads out of the volume")
	case errors.Is(err, unix.ELOOP):
		err = errors.New("too many links, or one that leads out of the volume")
	}
	return &os.PathError{Op: "open", Path: path, Err: err}
}
