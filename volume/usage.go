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

// Measured tells whether a volume has a limit that only measuring finds
// exceeded. What lies in memory the kernel limits.
func Measured(v *corev1.Volume) bool {
	return v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault && v.EmptyDir.SizeLimit != nil && !v.EmptyDir.SizeLimit.IsZero()
}

// errMoved tells that a directory was moved while it was measured.
var errMoved = errors.New("a directory was moved meanwhile")

// Usage returns how many bytes an emptyDir takes on disk, as du has it: blocks,
// and a file with several names once. What vanishes meanwhile does not count.
func (m *Manager) Usage(uid, name string) (int64, error) {
	const tries = 3
	for try := 1; ; try++ {
		used, err := usage(filepath.Join(m.disk, uid, name))
		if !errors.Is(err, errMoved) || try == tries {
			return used, err
		}
	}
}

// inode tells files apart.
type inode struct{ dev, ino uint64 }

// level is a directory on the way to the one that is being measured.
type level struct {
	at   inode
	todo []string // directories in it that are still to be measured
}

// usage adds up what is below root. A container makes trees deeper than paths
// go, and than there are descriptors: so one directory is open at a time, and
// the way up is "..", which has to lead back to where we came from.
func usage(root string) (int64, error) {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, unlessGone(&os.PathError{Op: "open", Path: root, Err: err})
	}
	dir := os.NewFile(uintptr(fd), root)
	defer func() { _ = dir.Close() }()
	enter := func(name string) error {
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: name, Err: err}
		}
		_ = dir.Close()
		dir = os.NewFile(uintptr(fd), name)
		return nil
	}
	seen := map[inode]bool{}
	here, used, err := measure(dir, seen)
	way := []level{here}
	for err == nil {
		last := &way[len(way)-1]
		if n := len(last.todo) - 1; n >= 0 {
			name := last.todo[n]
			last.todo = last.todo[:n]
			if err := enter(name); err != nil {
				// ENOTDIR and ELOOP: it has just become something else.
				if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || unlessGone(err) == nil {
					continue
				}
				return used, err
			}
			var more int64
			here, more, err = measure(dir, seen)
			used += more
			way = append(way, here)
			continue
		}
		way = way[:len(way)-1]
		if len(way) == 0 {
			return used, nil
		}
		if err := enter(".."); err != nil {
			return used, fmt.Errorf("%w: %w", errMoved, err)
		}
		var st unix.Stat_t
		if err = unix.Fstat(int(dir.Fd()), &st); err == nil && (inode{st.Dev, st.Ino}) != way[len(way)-1].at {
			err = errMoved
		}
	}
	return used, err
}

// measure adds up a directory and the files in it, and finds what is to be
// measured below it.
func measure(dir *os.File, seen map[inode]bool) (here level, used int64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return here, 0, &os.PathError{Op: "stat", Path: dir.Name(), Err: err}
	}
	here.at, used = inode{st.Dev, st.Ino}, st.Blocks*512
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return here, used, unlessGone(err)
	}
	for _, name := range names {
		if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			if err := unlessGone(&os.PathError{Op: "stat", Path: name, Err: err}); err != nil {
				return here, used, err
			}
			continue
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			here.todo = append(here.todo, name)
			continue
		}
		if at := (inode{st.Dev, st.Ino}); st.Nlink > 1 {
			if seen[at] {
				continue
			}
			seen[at] = true
		}
		used += st.Blocks * 512
	}
	return here, used, nil
}

func unlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
