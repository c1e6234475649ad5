package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/hint"
)

// Remove removes a name, or an image by its ID with all its names, as "docker
// rmi" does, and returns what it did in docker's words. An image goes with its
// last name. ErrInUse when inUse says that a container has the image, unless
// it keeps another name; force takes several names of one ID away at once.
func (s *Store) Remove(_ context.Context, nameOrID string, inUse func(Digest) (user string, used bool), force bool) ([]string, error) {
	for {
		s.mu.Lock()
		img, names, err := s.find(nameOrID)
		if err != nil {
			s.mu.Unlock()
			return nil, err
		}
		seen := s.used[img.ID]
		s.mu.Unlock()
		if len(names) == 0 {
			names = slices.Clone(img.References)
			if len(names) > 1 && !force {
				return nil, hint.Wrap(fmt.Errorf("image %s has several names: %s", img.ID.Hex()[:12], strings.Join(names, ", ")), "remove them by name, or use --force")
			}
		}
		last := len(names) == len(img.References)
		if last && inUse != nil {
			if user, used := inUse(img.ID); used {
				return nil, hint.Wrap(fmt.Errorf("%w by %s", ErrInUse, user), "delete the pod first")
			}
		}
		done, ok, err := s.dropUnless(img, seen, names, last)
		if !ok {
			continue // it was used, or named, while we looked
		}
		if err == nil && last {
			err = s.sweep()
		}
		return done, err
	}
}

// dropUnless is drop, unless the image has changed or been used since it was
// seen; ok is false then. Nothing that asks who uses an image holds s.mu: the
// answer takes a look into the store too.
func (s *Store) dropUnless(img *Image, seen time.Time, names []string, last bool) (done []string, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.images[img.ID] != img || !s.used[img.ID].Equal(seen) {
		return nil, false, nil
	}
	done, err = s.drop(img.ID, names, last)
	return done, true, err
}

// find returns the image that a name or an ID stands for, and the name if it
// is one. s.mu is held.
func (s *Store) find(nameOrID string) (*Image, []string, error) {
	ref, err := ParseReference(nameOrID)
	if err == nil {
		for _, full := range s.mayMean(ref) {
			if n, ok := s.byName[full]; ok {
				return s.images[n.ID], []string{full}, nil
			}
		}
	}
	img, gerr := s.get(nameOrID)
	if gerr == nil || err != nil || ref.Digest() == "" {
		return img, nil, gerr
	}
	// REPOSITORY@DIGEST, where the name has a tag.
	for full, n := range s.byName {
		if r, err := ParseReference(full); err == nil && n.Top == ref.Digest() && r.repository == ref.repository && r.registry == ref.registry {
			return s.images[n.ID], []string{full}, nil
		}
	}
	return nil, nil, gerr
}

// drop takes names from an image, and the image away with the last, in docker's
// words. s.mu is held; a sweep must follow.
func (s *Store) drop(id Digest, names []string, last bool) ([]string, error) {
	var done []string
	undo := s.remember()
	for _, n := range names {
		s.unname(n)
		done = append(done, "Untagged: "+familiar(n))
	}
	if last {
		delete(s.images, id)
		done = append(done, "Deleted: "+string(id))
	}
	// First the file that names the layers, then the layers.
	if err := s.saveOr(undo); err != nil {
		return nil, err
	}
	return done, fault.Point("image.dropped")
}

func familiar(full string) string {
	ref, err := ParseReference(full)
	if err != nil {
		return full
	}
	return ref.Familiar()
}

// hold keeps sweeps off until release is called: what is on its way in belongs
// to no image yet.
func (s *Store) hold() (release func()) {
	s.mu.Lock()
	s.holds++
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		s.holds--
		again := s.holds == 0 && s.unswept
		s.mu.Unlock()
		if again {
			if err := s.sweep(); err != nil {
				s.log.Warn("image sweep", "err", err)
			}
		}
	}
}

// holdContent is hold for who reads content: garbage collection leaves it alone.
func (s *Store) holdContent() (release func()) {
	letGo := s.hold()
	s.mu.Lock()
	s.readers++
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		s.readers--
		s.mu.Unlock()
		letGo()
	}
}

// sweep removes the layers and the blobs that no image has, as soon as nothing
// is on its way in. They are moved aside first: removing takes long, and a kill
// leaves the rest to the next Open.
func (s *Store) sweep() error {
	trash, err := s.setAside()
	if trash == "" {
		return err
	}
	return errors.Join(err, removeTree(trash))
}

// sweepAfter has what came swept away when it made no image. A pull that fails does
// not call it: the next one goes on with the layers that are whole.
func (s *Store) sweepAfter(err *error) {
	if *err == nil {
		return
	}
	if serr := s.sweep(); serr != nil {
		*err = errors.Join(*err, serr)
	}
}

// removeTries is how often a directory is removed again to which something came
// meanwhile. A flush writes one file to each layer.
const removeTries = 8

// removeTree removes layers that a flush may still be writing a file to: it
// holds their directories open.
func removeTree(dir string) error {
	for try := 1; ; try++ {
		err := os.RemoveAll(dir)
		if !errors.Is(err, unix.ENOTEMPTY) || try == removeTries {
			return err
		}
	}
}

func (s *Store) setAside() (trash string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unswept = s.holds > 0; s.unswept {
		return "", nil
	}
	keep := s.reachable()
	var errs []error
	for _, dir := range []string{s.layers(), s.blobs()} {
		entries, err := os.ReadDir(dir)
		errs = append(errs, err)
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if keep[path] {
				continue
			}
			if trash == "" {
				if trash, err = os.MkdirTemp(s.tmp(), "trash-"); err != nil {
					return "", err
				}
			}
			errs = append(errs, os.Rename(path, filepath.Join(trash, e.Name())), fault.Point("image.swept"))
		}
	}
	return trash, errors.Join(errs...)
}

// reachable are the paths of all that an image has. s.mu is held.
func (s *Store) reachable() map[string]bool {
	keep := map[string]bool{}
	for _, img := range s.images {
		for _, l := range img.Layers {
			keep[s.layerDir(l)] = true
		}
		for _, d := range []Digest{img.ID, img.Digest, img.Manifest} {
			keep[s.blobPath(d)] = true
		}
		for _, b := range img.Blobs {
			keep[s.blobPath(b.Digest)] = true
		}
	}
	for _, n := range s.byName {
		keep[s.blobPath(n.Top)] = true
	}
	return keep
}

func removeContents(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
