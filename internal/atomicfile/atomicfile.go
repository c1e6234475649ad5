// Package atomicfile saves a file so that a reader, or a crash, meets the old
// content or the new and nothing between.
package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
)

// Write replaces the file at path by data with mode perm. When it returns nil
// the new content is on disk; otherwise the old one is untouched.
func Write(path string, data []byte, perm os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return errors.Join(f.Close(), SyncDir(filepath.Dir(path)))
}

// SyncDir flushes a directory: renames and removals in it are on disk then.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
