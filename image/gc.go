package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/fault"
)

// The variables of the node's environment that set when images are collected,
// named after the kubelet's fields.
const (
	gcHighVariable   = "PODRUN_IMAGE_GC_HIGH_THRESHOLD"
	gcLowVariable    = "PODRUN_IMAGE_GC_LOW_THRESHOLD"
	gcMinAgeVariable = "PODRUN_IMAGE_MINIMUM_GC_AGE"
	gcMaxAgeVariable = "PODRUN_IMAGE_MAXIMUM_GC_AGE"
	gcPeriodVariable = "PODRUN_IMAGE_GC_PERIOD"
)

// GCPolicy says when images are collected, as the kubelet's configuration does
// (https://kubernetes.io/docs/concepts/architecture/garbage-collection/#container-image-lifecycle).
type GCPolicy struct {
	High   int           // percent of the disk in use from which on images are collected; 100: never
	Low    int           // percent down to which they are
	MinAge time.Duration // that an image has been here, and not used
	MaxAge time.Duration // without use after which an image goes, whatever the disk has; 0: never
	Period time.Duration // between two looks while pods run
}

// DefaultGCPolicy is the kubelet's.
func DefaultGCPolicy() GCPolicy {
	return GCPolicy{High: 85, Low: 80, MinAge: 2 * time.Minute, Period: 5 * time.Minute}
}

// GCPolicyFromEnvironment is the default, changed by the process's environment.
func GCPolicyFromEnvironment() (GCPolicy, error) {
	p := DefaultGCPolicy()
	for _, v := range []struct {
		name string
		to   *int
	}{{gcHighVariable, &p.High}, {gcLowVariable, &p.Low}} {
		if s := os.Getenv(v.name); s != "" {
			n, err := strconv.Atoi(s)
			if err != nil || n < 0 || n > 100 {
				return p, fmt.Errorf("%s: %q is not a number of percent", v.name, s)
			}
			*v.to = n
		}
	}
	for _, v := range []struct {
		name string
		to   *time.Duration
	}{{gcMinAgeVariable, &p.MinAge}, {gcMaxAgeVariable, &p.MaxAge}, {gcPeriodVariable, &p.Period}} {
		if s := os.Getenv(v.name); s != "" {
			d, err := time.ParseDuration(s)
			if err != nil || d < 0 || d == 0 && v.to == &p.Period {
				return p, fmt.Errorf("%s: %q is not a time such as 2m", v.name, s)
			}
			*v.to = d
		}
	}
	if p.Low > p.High || p.Low == p.High && p.High < 100 {
		return p, fmt.Errorf("%s is %d, which is not below the %d of %s", gcLowVariable, p.Low, p.High, gcHighVariable)
	}
	return p, nil
}

// disk is the filesystem that the store is on, in bytes.
type disk struct{ total, free int64 }

func (s *Store) disk() (disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return disk{}, &os.PathError{Op: "statfs", Path: s.dir, Err: err}
	}
	return disk{total: int64(st.Blocks) * st.Bsize, free: int64(st.Bavail) * st.Bsize}, nil
}

// excess is how many bytes must go so that low percent are in use, 0 when fewer
// than high are.
func (d disk) excess(high, low int) int64 {
	if d.total == 0 || high >= 100 || 100-d.free*100/d.total < int64(high) {
		return 0
	}
	return max(d.total/100*int64(100-low)-d.free, 0)
}

// Collected is what a collection removed.
type Collected struct {
	Images []*Image
	Layers int   // compressed layers that a registry has
	Freed  int64 // bytes, as far as known: what is on its way in keeps some for a while
	Short  int64 // bytes that should have gone and could not
}

// Collect removes images that have not been used for longer than p allows; and,
// when the disk is too full, first compressed layers that can be pulled again,
// then images, those first that have not been used for the longest time. What
// inUse names is never removed, nor what is on its way in, nor what came or was
// used less than p.MinAge ago.
func (s *Store) Collect(p GCPolicy, inUse func() (map[Digest][]string, error), now time.Time) (Collected, error) {
	var c Collected
	users, err := inUse()
	if err != nil {
		return c, err
	}
	candidates := s.unused(users, p.MinAge, now)
	if p.MaxAge > 0 {
		for _, u := range candidates {
			if now.Sub(u.last) > p.MaxAge {
				if err := s.collect(&c, u, now, "unused for too long"); err != nil {
					return c, err
				}
			}
		}
	}
	d, err := s.disk()
	if err != nil {
		return c, errors.Join(err, s.sweep())
	}
	if excess := d.excess(p.High, p.Low); excess > 0 {
		before := c.Freed
		err = s.collectLayers(&c, excess)
		for _, u := range candidates {
			if err != nil || c.Freed-before >= excess {
				break
			}
			err = s.collect(&c, u, now, "disk is full")
		}
		c.Short = max(excess-(c.Freed-before), 0)
	}
	return c, errors.Join(err, s.sweep())
}

// candidate is an image that nothing uses.
type candidate struct {
	img  *Image
	last time.Time // that it was used, or came
	seen time.Time // that it was used
}

// unused notes which images are in use, and returns the others that are old
// enough, the one that has not been used for the longest time first.
func (s *Store) unused(users map[Digest][]string, minAge time.Duration, now time.Time) []candidate {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []candidate
	for id, img := range s.images {
		if len(users[id]) > 0 {
			s.used[id], s.usedSince = now, true
			continue
		}
		last := img.Pulled
		if s.used[id].After(last) {
			last = s.used[id]
		}
		if now.Sub(last) >= minAge {
			list = append(list, candidate{img, last, s.used[id]})
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		return cmp.Or(a.last.Compare(b.last), a.img.Pulled.Compare(b.img.Pulled), cmp.Compare(a.img.ID, b.img.ID))
	})
	return list
}

// collect removes one image, unless it has been used meanwhile.
func (s *Store) collect(c *Collected, u candidate, now time.Time, why string) error {
	size := s.ownSize(u.img.ID)
	_, ok, err := s.dropUnless(u.img, u.seen, slices.Clone(u.img.References), true)
	if !ok || err != nil {
		return err
	}
	s.log.Info("image collected", "image", u.img.ID, "names", u.img.References, "why", why, "unused", now.Sub(u.last).Round(time.Second), "bytes", size)
	c.Images = append(c.Images, u.img)
	c.Freed += size
	return nil
}

// ownSize is what would go with an image, in bytes.
func (s *Store) ownSize(id Digest) int64 {
	u, err := s.Usage()
	if err != nil {
		return 0
	}
	for _, one := range u.Images {
		if one.Image.ID == id {
			return one.Unique + one.Own
		}
	}
	return 0
}

// collectLayers removes compressed layers that are unpacked here and that a
// registry has, those of the images first that have not been used for the
// longest time.
func (s *Store) collectLayers(c *Collected, excess int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readers > 0 { // a save or a push needs them
		return nil
	}
	images := make([]*Image, 0, len(s.images))
	own := map[Digest]bool{}
	for _, img := range s.images {
		images = append(images, img)
		for _, b := range img.Blobs {
			own[b.Digest] = own[b.Digest] || img.Own
		}
	}
	slices.SortFunc(images, func(a, b *Image) int {
		return cmp.Or(s.used[a.ID].Compare(s.used[b.ID]), cmp.Compare(a.ID, b.ID))
	})
	n, freed := 0, int64(0)
	for _, img := range images {
		for _, b := range img.Blobs {
			if own[b.Digest] || freed >= excess || !s.hasBlob(b.Digest) {
				continue
			}
			if err := os.Remove(s.blobPath(b.Digest)); err != nil {
				return err
			}
			if err := fault.Point("image.layercollected"); err != nil {
				return err
			}
			n++
			freed += b.Size
		}
	}
	if n > 0 {
		s.log.Info("compressed layers collected", "layers", n, "bytes", freed, "why", "disk is full")
	}
	c.Layers += n
	c.Freed += freed
	return nil
}

// Collector collects images: when the disk is too full after something has come
// in, and from time to time while there are pods. It does not wake up otherwise.
type Collector struct {
	store  *Store
	policy GCPolicy
	inUse  func() (map[Digest][]string, error)
	busy   func() bool
	tell   func(GCEvent)
	wake   chan struct{}
	short  bool // the last time too little could go, which is said once
}

// GCEvent is what people are to know of a collection, by the kubelet's reasons
// where it has one.
type GCEvent struct {
	Warning         bool
	Reason, Message string
}

// NewCollector makes a collector. inUse tells which images are used, busy
// whether there are pods; tell is told of what people are to know.
func (s *Store) NewCollector(p GCPolicy, inUse func() (map[Digest][]string, error), busy func() bool, tell func(GCEvent)) *Collector {
	return &Collector{store: s, policy: p, inUse: inUse, busy: busy, tell: tell, wake: make(chan struct{}, 1)}
}

// Wake tells that there may be pods now. It does not block.
func (c *Collector) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	timer := time.NewTimer(c.policy.Period)
	armed := true
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			if !armed {
				timer.Reset(c.policy.Period)
				armed = true
			}
		case <-c.store.grown:
			if d, err := c.store.disk(); err == nil && d.excess(c.policy.High, c.policy.Low) > 0 {
				c.collect()
			}
		case <-timer.C:
			c.collect()
			if armed = c.busy(); armed {
				timer.Reset(c.policy.Period)
			}
		}
	}
}

func (c *Collector) collect() {
	done, err := c.store.Collect(c.policy, c.inUse, time.Now())
	if len(done.Images)+done.Layers > 0 {
		c.tell(GCEvent{Reason: "ImagesCollected", Message: done.String()})
	}
	if err != nil {
		c.store.log.Warn("image collection", "err", err)
		c.tell(GCEvent{true, "ImageGCFailed", err.Error()})
		return
	}
	if done.Short > 0 && !c.short {
		c.store.log.Warn("disk stays too full: what is left is in use or too new", "bytes", done.Short, "freed", done.Freed)
		c.tell(GCEvent{true, "FreeDiskSpaceFailed", fmt.Sprintf("Disk stays too full: of %d bytes that should go %d could; what is left is in use or too new", done.Freed+done.Short, done.Freed)})
	}
	c.short = done.Short > 0
}

// String says what went, for people.
func (c Collected) String() string {
	var parts []string
	for _, img := range c.Images {
		name := img.ID.Hex()[:12]
		if len(img.References) > 0 {
			name = familiar(img.References[0])
		}
		parts = append(parts, "image "+name)
	}
	if c.Layers > 0 {
		parts = append(parts, fmt.Sprintf("compressed layers (%d)", c.Layers))
	}
	return fmt.Sprintf("Removed %s: %d bytes", strings.Join(parts, ", "), c.Freed)
}
