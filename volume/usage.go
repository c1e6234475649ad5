package volume

import (
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// Measured tells whether a volume has a limit that only measuring finds
// exceeded. What lies in memory the kernel limits.
func Measured(v *corev1.Volume) bool {
	return v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault && v.EmptyDir.SizeLimit != nil && !v.EmptyDir.SizeLimit.IsZero()
}

// Usage returns how many bytes an emptyDir takes on disk, as du has it: blocks,
// and a file with several names once. What vanishes meanwhile does not count.
func (m *Manager) Usage(uid, name string) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var used int64
	err := filepath.WalkDir(filepath.Join(m.disk, uid, name), func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return unlessGone(err)
		}
		info, err := d.Info()
		if err != nil {
			return unlessGone(err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if st.Nlink > 1 && !d.IsDir() {
			at := inode{st.Dev, st.Ino}
			if seen[at] {
				return nil
			}
			seen[at] = true
		}
		used += st.Blocks * 512
		return nil
	})
	return used, err
}

func unlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
