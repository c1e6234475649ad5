package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/linux"
)

// sizeFile lies beside a layer's files and says how large they are: "SIZE" when
// all of the layer is on disk, "boot BOOT-ID SIZE" when it is whole and the
// kernel still has some of it in memory. After the end of that boot such a
// layer may be anything, and is not trusted.
const sizeFile = "size"

// have tells whether a layer is here, whole.
func (s *Store) have(diffID Digest) (size int64, ok bool) {
	size, _, ok = s.state(diffID)
	return size, ok
}

// state tells of a layer that is here whether it is on disk, too.
func (s *Store) state(diffID Digest) (size int64, flushed, ok bool) {
	data, err := os.ReadFile(filepath.Join(s.layerDir(diffID), sizeFile))
	if err != nil {
		return 0, false, false
	}
	text := string(data)
	number, memory := strings.CutPrefix(text, s.unflushed(""))
	size, err = strconv.ParseInt(number, 10, 64)
	return size, !memory, err == nil && size >= 0
}

// unflushed begins the size file of a layer that is not yet on disk.
func (s *Store) unflushed(size string) string { return "boot " + s.boot + " " + size }

// keep moves an unpacked layer into place. It is whole and may be used at once;
// flush brings it to disk.
func (s *Store) keep(dir string, diffID Digest, size int64) error {
	// In one write: it is there or it is not.
	if err := os.WriteFile(filepath.Join(dir, sizeFile), []byte(s.unflushed(strconv.FormatInt(size, 10))), 0o600); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	to := s.layerDir(diffID)
	err := os.Rename(dir, to)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		if _, ok := s.have(diffID); ok { // another brought it meanwhile
			return os.RemoveAll(dir)
		}
		if err = os.RemoveAll(to); err == nil {
			err = os.Rename(dir, to)
		}
	}
	if err != nil {
		return err
	}
	return fault.Point("pull.placed")
}

// flush brings layers to disk: when it returns they are trusted after a power
// cut, too. One call of syncfs does for all of them.
func (s *Store) flush(layers []Digest) (err error) {
	sizes := map[*os.Root]int64{}
	defer func() {
		for at := range sizes {
			err = errors.Join(err, at.Close())
		}
	}()
	for _, l := range layers {
		size, flushed, ok := s.state(l)
		if !ok || flushed {
			continue
		}
		// By descriptor: should the layer be removed and pulled anew meanwhile,
		// the new one is not meant.
		at, err := os.OpenRoot(s.layerDir(l))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		sizes[at] = size
	}
	if len(sizes) == 0 {
		return nil
	}
	if err := linux.SyncFS(s.layers()); err != nil {
		return fmt.Errorf("flush layers: %w", err)
	}
	if err := fault.Point("pull.flushed"); err != nil {
		return err
	}
	for at, size := range sizes {
		if err := markFlushed(at, size); err != nil {
			return err
		}
	}
	return nil
}

// markFlushed says of an open layer that all of it is on disk. One that was
// removed meanwhile need not be told.
func markFlushed(at *os.Root, size int64) error {
	// If this is lost by a power cut, the layer is pulled again: no harm.
	const next = sizeFile + ".new"
	err := at.WriteFile(next, []byte(strconv.FormatInt(size, 10)), 0o600)
	if err == nil {
		err = at.Rename(next, sizeFile)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// flushSoon flushes layers while the caller goes on. Close waits for it.
func (s *Store) flushSoon(layers []Digest) {
	s.flushes.Go(func() {
		if err := s.flush(layers); err != nil {
			s.log.Warn("layers are not on disk; they will not outlive a power cut", "err", err)
		}
	})
}

// distrust takes away the images of which a layer is not here: one that was not
// on disk when the machine ended, or that somebody removed. They are pulled
// again when they are wanted. s.mu is held.
func (s *Store) distrust() {
	for id, img := range s.images {
		for _, l := range img.Layers {
			if _, ok := s.have(l); ok {
				continue
			}
			s.log.Warn("image is not whole on disk, which the machine's sudden end may have done; it is pulled again when it is needed",
				"image", id, "names", img.References, "digest", l)
			for _, n := range img.References {
				delete(s.byName, n)
			}
			delete(s.images, id)
			break
		}
	}
}
