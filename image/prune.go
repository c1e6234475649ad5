package image

import (
	"slices"
	"strings"
	"time"
)

// PruneOptions of Prune.
type PruneOptions struct {
	All    bool      // those with names too
	Before time.Time // only what was made before; zero: all
	Labels []string  // only what has these: NAME or NAME=VALUE
	Unless []string  // but not what has one of these
	InUse  func(Digest) (user string, used bool)
}

// Pruned is what a pruning removed.
type Pruned struct {
	Removed   []string `json:"removed"`   // in docker's words: "Untagged: ...", "Deleted: ..."
	Reclaimed int64    `json:"reclaimed"` // bytes
}

// Prune removes the images that nothing uses: those without a name, or all.
func (s *Store) Prune(o PruneOptions) (Pruned, error) {
	p := Pruned{Removed: []string{}}
	before, err := s.Usage()
	if err != nil {
		return p, err
	}
	images, err := s.List()
	if err != nil {
		return p, err
	}
	for _, img := range images {
		if !o.wants(img) {
			continue
		}
		done, err := s.removeUnused(img.ID, o.InUse)
		p.Removed = append(p.Removed, done...)
		if err != nil {
			return p, err
		}
	}
	if len(p.Removed) == 0 {
		return p, nil
	}
	if err := s.sweep(); err != nil {
		return p, err
	}
	after, err := s.Usage()
	if err != nil {
		return p, err
	}
	p.Reclaimed = before.Layers + before.Blobs - after.Layers - after.Blobs
	return p, nil
}

func (o *PruneOptions) wants(img *Image) bool {
	has := func(label string) bool { return img.HasLabel(label) }
	switch {
	case !o.All && len(img.References) > 0:
		return false
	case !o.Before.IsZero() && !img.Created.Before(o.Before):
		return false
	case slices.ContainsFunc(o.Unless, has):
		return false
	}
	return !slices.ContainsFunc(o.Labels, func(l string) bool { return !has(l) })
}

// HasLabel tells whether an image has a label NAME, or NAME=VALUE.
func (img *Image) HasLabel(label string) bool {
	name, want, exact := strings.Cut(label, "=")
	value, ok := img.Config.Labels[name]
	return ok && (!exact || value == want)
}

// removeUnused takes an image away with all its names, unless a container has
// it, or gets it just now; a sweep must follow.
func (s *Store) removeUnused(id Digest, inUse func(Digest) (string, bool)) ([]string, error) {
	s.mu.Lock()
	img, seen := s.images[id], s.used[id]
	s.mu.Unlock()
	if img == nil {
		return nil, nil
	}
	if inUse != nil {
		if _, used := inUse(id); used {
			return nil, nil
		}
	}
	done, _, err := s.dropUnless(img, seen, slices.Clone(img.References), true)
	return done, err
}
