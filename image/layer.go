package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/atomicfile"
)

// sizeFile holds the unpacked size of a layer beside its files.
const sizeFile = "size"

// have tells whether a layer is here. A directory in layers is always whole.
func (s *Store) have(diffID Digest) (size int64, ok bool) {
	data, err := os.ReadFile(filepath.Join(s.layerDir(diffID), sizeFile))
	if err != nil {
		return 0, false
	}
	_, err = fmt.Sscan(string(data), &size)
	return size, err == nil
}

// keep moves an unpacked layer into place, flushed to disk first: a name in
// layers must never stand for less than the whole, also after a power cut.
func (s *Store) keep(dir string, diffID Digest, size int64) error {
	if err := os.WriteFile(filepath.Join(dir, sizeFile), fmt.Append(nil, size), 0o600); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(d.Fd()))
	if err := errors.Join(err, d.Close(), os.Chmod(dir, 0o711)); err != nil {
		return fmt.Errorf("flush layer: %w", err)
	}
	if err := os.Rename(dir, s.layerDir(diffID)); err != nil {
		return err
	}
	return atomicfile.SyncDir(s.layers())
}
