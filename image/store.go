package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"get.podrun.dev/podrun/internal/atomicfile"
	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/internal/linux"
)

// Config is what an image says of the containers made of it.
type Config struct {
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	Env          []string          `json:"env,omitempty"`
	User         string            `json:"user,omitempty"`
	WorkingDir   string            `json:"workingDir,omitempty"`
	StopSignal   string            `json:"stopSignal,omitempty"`
	ExposedPorts []string          `json:"exposedPorts,omitempty"`
	Volumes      []string          `json:"volumes,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
}

// Image is an image that is here, whole. It is shared: nobody may change it.
type Image struct {
	ID         Digest   `json:"id"`         // of the config
	Digest     Digest   `json:"digest"`     // of the manifest or index its name stood for
	References []string `json:"references"` // whole names, sorted
	// Digests are what each name stood for in its registry; only List fills
	// them in.
	Digests  map[string]Digest `json:"digests,omitempty"`
	Config   Config            `json:"config"`
	Platform Platform          `json:"platform"`
	Layers   []Digest          `json:"layers"` // diff IDs, base first
	// Manifest is what is kept of the image as it came, "" when that is
	// nothing; Blobs are its layers in the same order, which garbage collection
	// may have removed.
	Manifest Digest `json:"manifest,omitempty"`
	Blobs    []Blob `json:"blobs,omitempty"`
	// Own: it was loaded or imported, and no registry need have its content.
	Own     bool      `json:"own,omitempty"`
	Size    int64     `json:"size"` // bytes, unpacked
	Created time.Time `json:"created"`
	Pulled  time.Time `json:"pulled"`
}

// Options of a Store; the zero value is fine.
type Options struct {
	Logger     *slog.Logger
	Registries *Registries    // nil: those of the files, as they are at each pull
	Platform   Platform       // zero: this machine's
	Keychain   authn.Keychain // nil: docker's and podman's files
	SingleID   bool           // only one user ID is mapped: all files become its
	Pull       PullLimits     // of what a pull may take, and any layer unpack to
}

// Store keeps images. Its methods are safe for concurrent use; one process
// opens a store at a time.
type Store struct {
	dir        string
	log        *slog.Logger
	conf       conf
	wire       *wire
	singleID   bool
	rootless   bool
	platform   Platform
	pullLimits PullLimits
	slots      *slots // for layers on their way
	boot       string // the kernel's name for the time since it was started
	flushes    sync.WaitGroup

	mu      sync.Mutex
	images  map[Digest]*Image
	byName  map[string]named
	flights map[Digest]*flight // layers on their way, by diff ID
	holds   int                // what is on its way in is not swept while there are any
	unswept bool               // a sweep was asked for meanwhile
	used    map[Digest]time.Time
	grown   chan struct{} // told when an image has come; holds one
	readers int           // saves and pushes going on: content stays
	// usedSince: used is newer than the file.
	usedSince bool
}

// named is what a reference stands for here.
type named struct {
	ID  Digest `json:"id"`
	Top Digest `json:"top"` // what the registry had under the name
}

// index is images.json.
type index struct {
	Images map[Digest]*Image `json:"images"`
	Names  map[string]named  `json:"names"`
	// Used tells when each was last asked for. It is saved with the next change
	// of the rest and when the store is closed: it only decides an order.
	Used map[Digest]time.Time `json:"used,omitempty"`
}

// Open opens the store at dir, making it if need be, and removes what an
// interrupted pull left there.
func Open(dir string, o Options) (*Store, error) {
	s := &Store{
		dir: dir, log: o.Logger, conf: conf{fixed: o.Registries}, singleID: o.SingleID,
		images: map[Digest]*Image{}, byName: map[string]named{}, flights: map[Digest]*flight{}, used: map[Digest]time.Time{},
		grown: make(chan struct{}, 1),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.platform = o.Platform
	if s.platform == (Platform{}) {
		s.platform = thisPlatform()
	}
	s.pullLimits = o.Pull.orDefault()
	s.wire = newWire(o.Keychain, s.log, patience{stall: s.pullLimits.Stall, pause: s.pullLimits.Pause, tries: s.pullLimits.Tries})
	s.slots = newSlots(s.pullLimits.Parallel)
	for _, d := range []string{dir, s.tmp(), s.layers(), s.blobs()} {
		// Layers are read by containers of any user: the path to them is open.
		if err := os.MkdirAll(d, 0o711); err != nil {
			return nil, fmt.Errorf("cannot open image store: %w", err)
		}
	}
	var err error
	if s.rootless, err = inUserNamespace(); err != nil {
		return nil, err
	}
	if s.boot, err = linux.BootID(); err != nil {
		return nil, fmt.Errorf("cannot open image store: %w", err)
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	s.distrust()
	var here []Digest
	for _, img := range s.images {
		here = append(here, img.Layers...)
	}
	s.flushSoon(here) // where the last process did not come to it
	if err := removeContents(s.tmp()); err != nil {
		return nil, fmt.Errorf("cannot open image store: %w", err)
	}
	return s, s.sweep()
}

// Close saves when images were last used, and waits until all layers are on
// disk.
func (s *Store) Close() error {
	s.flushes.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.usedSince {
		return nil
	}
	return s.save()
}

func (s *Store) tmp() string    { return filepath.Join(s.dir, "tmp") }
func (s *Store) layers() string { return filepath.Join(s.dir, "layers") }

// layerDir is where an unpacked layer lies. The name is short: mount(2) takes
// all of a container's layers in 4 KiB of options.
func (s *Store) layerDir(diffID Digest) string {
	const short = 24 // hex digits: 96 bits
	return filepath.Join(s.layers(), diffID.Hex()[:short])
}

func (s *Store) load() error {
	path := filepath.Join(s.dir, "images.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot open image store: %w", err)
	}
	var i index
	if err := json.Unmarshal(data, &i); err != nil {
		return hint.Wrap(fmt.Errorf("cannot open image store: %s: %w", path, err), "remove the file; images are pulled again when they are needed")
	}
	if i.Images != nil {
		s.images = i.Images
	}
	if i.Names != nil {
		s.byName = i.Names
	}
	if i.Used != nil {
		s.used = i.Used
	}
	return nil
}

// saveOr writes images.json, and calls undo when that fails: what is shown is
// what is stored. s.mu is held since before undo was got from remember.
func (s *Store) saveOr(undo func()) error {
	err := s.save()
	if err != nil {
		undo()
	}
	return err
}

// remember returns a function that takes back what was changed since. s.mu is
// held.
func (s *Store) remember() (undo func()) {
	// An image is never changed in place.
	images, byName, used := maps.Clone(s.images), maps.Clone(s.byName), maps.Clone(s.used)
	return func() { s.images, s.byName, s.used = images, byName, used }
}

// save writes images.json. s.mu is held.
func (s *Store) save() error {
	maps.DeleteFunc(s.used, func(id Digest, _ time.Time) bool { return s.images[id] == nil })
	data, err := json.Marshal(index{s.images, s.byName, s.used})
	if err != nil {
		return err
	}
	if err := fault.Point("image.save"); err != nil {
		return err
	}
	s.usedSince = false
	return atomicfile.Write(filepath.Join(s.dir, "images.json"), data, 0o600)
}

// Lookup returns the image that ref names here; ErrNotFound when it names
// none. It asks no registry.
func (s *Store) Lookup(ref Reference) (*Image, error) {
	ref, err := s.Resolved(ref)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.byName[ref.String()]; ok {
		return s.use(n.ID), nil
	}
	if d := ref.Digest(); d != "" {
		for _, n := range s.byName {
			if n.Top == d {
				return s.use(n.ID), nil
			}
		}
	}
	return nil, fmt.Errorf("%s: %w", ref.Familiar(), ErrNotFound)
}

// Resolved returns the whole name that ref stands for: the one that an image
// here has, or else the first that it would be looked for under. It differs from
// ref only when that was given without a registry.
func (s *Store) Resolved(ref Reference) (Reference, error) {
	if ref.short == "" {
		return ref, nil
	}
	registries, err := s.conf.registries()
	if err != nil {
		return ref, err
	}
	names := registries.localNames(ref)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		if _, ok := s.byName[n.String()]; ok {
			return n, nil
		}
	}
	return names[0], nil
}

// mayMean are the whole names that ref may stand for here, the likeliest first.
func (s *Store) mayMean(ref Reference) []string {
	registries, err := s.conf.registries()
	if err != nil {
		return []string{ref.String()}
	}
	var list []string
	for _, n := range registries.localNames(ref) {
		list = append(list, n.String())
	}
	return list
}

// Named returns the ID of the image that ref names here. That is no use of it.
func (s *Store) Named(ref Reference) (Digest, bool) {
	ref, err := s.Resolved(ref)
	if err != nil {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.byName[ref.String()]
	return n.ID, ok
}

// Get returns an image by its ID, with or without "sha256:", or a unique
// beginning of it.
func (s *Store) Get(id string) (*Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	img, err := s.get(id)
	if err != nil {
		return nil, err
	}
	return s.use(img.ID), nil
}

// use notes that an image is wanted. s.mu is held.
func (s *Store) use(id Digest) *Image {
	s.used[id], s.usedSince = time.Now(), true
	return s.images[id]
}

func (s *Store) get(id string) (*Image, error) {
	if img, ok := s.images[Digest(id)]; ok {
		return img, nil
	}
	hex := strings.TrimPrefix(id, "sha256:")
	var match *Image
	for d, img := range s.images {
		if hex != "" && strings.HasPrefix(d.Hex(), hex) {
			if match != nil {
				return nil, fmt.Errorf("image ID %q is not unique; give more of it", id)
			}
			match = img
		}
	}
	if match == nil {
		return nil, fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	return match, nil
}

// List returns all images, the newest first, with their Digests.
func (s *Store) List() ([]*Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*Image, 0, len(s.images))
	for _, img := range s.images {
		copied := *img
		copied.Digests = map[string]Digest{}
		for _, full := range img.References {
			copied.Digests[full] = s.byName[full].Top
		}
		list = append(list, &copied)
	}
	slices.SortFunc(list, func(a, b *Image) int {
		return strings.Compare(string(a.ID), string(b.ID)) + 2*b.Created.Compare(a.Created)
	})
	return list, nil
}

// add names an image that is whole, and saves it; top is what ref stands for in
// its registry.
func (s *Store) add(img *Image, ref Reference, top Digest) (*Image, error) {
	return s.addNamed(img, []Reference{ref}, top)
}

// addNamed adds an image with some names, or none.
func (s *Store) addNamed(img *Image, refs []Reference, top Digest) (*Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.images[img.ID]; ok {
		copied := *known
		if copied.Manifest == "" { // an older podrun kept nothing of it
			copied.Manifest, copied.Blobs, copied.Own = img.Manifest, img.Blobs, img.Own
		}
		s.unswept = true // what came with it may be nobody's now
		img = &copied
	}
	undo := s.remember()
	img.Digest = top
	s.images[img.ID] = img
	s.use(img.ID)
	for _, ref := range refs {
		s.name(img.ID, ref.String(), top)
	}
	if err := s.saveOr(undo); err != nil {
		return nil, err
	}
	select {
	case s.grown <- struct{}{}:
	default:
	}
	return s.images[img.ID], nil
}

// name gives an image a name, which another may have had. s.mu is held.
func (s *Store) name(id Digest, full string, top Digest) {
	if old, ok := s.byName[full]; ok && old.ID != id {
		s.unname(full)
	}
	s.byName[full] = named{ID: id, Top: top}
	img := *s.images[id]
	if !slices.Contains(img.References, full) {
		img.References = append(slices.Clone(img.References), full)
		slices.Sort(img.References)
	}
	s.images[id] = &img
}

// unname takes a name from its image, which stays. s.mu is held.
func (s *Store) unname(full string) {
	n := s.byName[full]
	delete(s.byName, full)
	if img := s.images[n.ID]; img != nil {
		copied := *img
		copied.References = slices.DeleteFunc(slices.Clone(img.References), func(r string) bool { return r == full })
		s.images[n.ID] = &copied
	}
}

// inUserNamespace tells whether user IDs here are not the machine's.
func inUserNamespace() (bool, error) {
	data, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false, err
	}
	return strings.Join(strings.Fields(string(data)), " ") != "0 0 4294967295", nil
}
