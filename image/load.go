package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"get.podrun.dev/podrun/internal/atomicfile"
	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/linux"
)

// Loaded is an image that came from an archive, with the names it had there.
type Loaded struct {
	Image *Image   `json:"image"`
	Names []string `json:"names"` // whole
}

// The annotations by which archives name images.
const (
	annotationName = "io.containerd.image.name"          // whole
	annotationRef  = "org.opencontainers.image.ref.name" // whole, or a tag alone
)

// incoming is an image on its way in from an archive.
type incoming struct {
	manifest, config []byte
	names            []Reference
	layers           []spooled
	// old: layers are of a docker archive, which has no manifest and may have
	// them uncompressed; manifest is made of what is kept.
	old bool
}

// Load takes in the images of an OCI layout in a tar archive, or of an archive
// of docker save, old or new, compressed or not. It reads all of r. Each image
// is trusted when all its bytes have been checked; those before a broken one
// stay.
func (s *Store) Load(ctx context.Context, r io.Reader, progress func(Progress)) (loaded []Loaded, err error) {
	defer s.hold()()
	defer s.sweepAfter(&err)
	defer func() { err = explainDisk(err) }()
	sp, err := s.spool(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sp.remove()) }()
	list, err := s.inArchive(sp)
	if err != nil {
		return nil, err
	}
	for _, in := range list {
		img, err := s.takeIn(ctx, in, progress)
		if err != nil {
			return loaded, err
		}
		l := Loaded{Image: img}
		for _, n := range in.names {
			l.Names = append(l.Names, n.String())
		}
		loaded = append(loaded, l)
	}
	return loaded, nil
}

// inArchive finds the images of an archive, those of one content once.
func (s *Store) inArchive(sp *spool) ([]*incoming, error) {
	if len(sp.files) == 0 {
		return nil, errors.New("the archive is empty")
	}
	if _, ok := sp.file("index.json"); ok {
		return s.inLayout(sp)
	}
	if _, ok := sp.file("manifest.json"); ok {
		return inDockerArchive(sp)
	}
	if _, ok := sp.file("repositories"); ok {
		return nil, errors.New("the archive is of a docker before 1.10; load and save it with a newer docker")
	}
	return nil, errNoArchive
}

// inLayout finds the images of an OCI image layout
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md).
func (s *Store) inLayout(sp *spool) ([]*incoming, error) {
	data, err := sp.document("index.json")
	if err != nil {
		return nil, err
	}
	top, err := v1.ParseIndexManifest(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	var list []*incoming
	known := map[Digest]*incoming{}
	var others []string
	for _, d := range top.Manifests {
		manifest, err := s.manifestIn(sp, d, 0)
		if err != nil {
			return nil, err
		}
		if manifest == nil {
			others = append(others, describePlatform(d))
			continue
		}
		in := known[manifest.digest]
		if in == nil {
			if in, err = imageIn(sp, manifest); err != nil {
				return nil, err
			}
			known[manifest.digest] = in
			list = append(list, in)
		}
		if ref := nameIn(d.Annotations); ref != nil {
			in.names = append(in.names, *ref)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("the archive has no image for %s, only %s", s.platform, orNothing(others))
	}
	return list, nil
}

func orNothing(list []string) string {
	if len(list) == 0 {
		return "none at all"
	}
	return strings.Join(list, ", ")
}

func describePlatform(d v1.Descriptor) string {
	if d.Platform == nil {
		return string(d.MediaType)
	}
	return d.Platform.String()
}

// blob finds content of a layout and compares what its descriptor says.
func (sp *spool) blob(d v1.Descriptor) (spooled, error) {
	f, ok := sp.file("blobs/" + d.Digest.Algorithm + "/" + d.Digest.Hex)
	switch {
	case !ok:
		return f, fmt.Errorf("the archive lacks %s", d.Digest)
	case f.digest != Digest(d.Digest.String()):
		return f, fmt.Errorf("the archive's %s has digest %s", d.Digest, f.digest)
	case f.size != d.Size:
		return f, fmt.Errorf("the archive's %s has %d bytes, not %d", d.Digest, f.size, d.Size)
	}
	return f, nil
}

// manifestIn finds the manifest that a descriptor leads to, our platform's out
// of an index; nil when there is none.
func (s *Store) manifestIn(sp *spool, d v1.Descriptor, depth int) (*spooled, error) {
	switch {
	case d.MediaType.IsIndex() && depth < maxNesting:
		f, err := sp.blob(d)
		if err != nil {
			return nil, err
		}
		data, err := f.read()
		if err != nil {
			return nil, err
		}
		index, err := v1.ParseIndexManifest(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("index %s: %w", d.Digest, err)
		}
		// An archive may have been made for some platforms only.
		index.Manifests = slices.DeleteFunc(index.Manifests, func(e v1.Descriptor) bool {
			_, ok := sp.file("blobs/sha256/" + e.Digest.Hex)
			return !ok
		})
		e, err := choose(index, s.platform)
		if err != nil {
			return nil, nil
		}
		return s.manifestIn(sp, *e, depth+1)
	case !d.MediaType.IsImage() || d.Platform != nil && d.Platform.OS == "unknown": // attestations
		return nil, nil
	case depth == 0 && d.Platform != nil && !s.platform.suits(Platform{OS: d.Platform.OS, Architecture: d.Platform.Architecture, Variant: d.Platform.Variant}):
		return nil, nil
	}
	f, err := sp.blob(d)
	return &f, err
}

// imageIn is the image of a manifest.
func imageIn(sp *spool, manifest *spooled) (*incoming, error) {
	data, err := manifest.read()
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", manifest.digest, err)
	}
	config, err := sp.blob(m.Config)
	if err != nil {
		return nil, err
	}
	in := &incoming{manifest: data}
	if in.config, err = config.read(); err != nil {
		return nil, err
	}
	for _, l := range m.Layers {
		if err := checkLayerType(l); err != nil {
			return nil, err
		}
		f, err := sp.blob(l)
		if err != nil {
			return nil, err
		}
		in.layers = append(in.layers, f)
	}
	return in, nil
}

// nameIn is the name that annotations give; nil when it is none, or a tag
// alone.
func nameIn(annotations map[string]string) *Reference {
	name := annotations[annotationName]
	if name == "" {
		name = annotations[annotationRef]
		if !strings.ContainsAny(name, ":/") {
			return nil
		}
	}
	ref, err := ParseReference(name)
	if err != nil || ref.digest != "" {
		return nil
	}
	return &ref
}

// inDockerArchive finds the images of "docker save"
// (https://github.com/moby/docker-image-spec/blob/main/v1.2.md#combined-image-json--filesystem-changeset-format).
func inDockerArchive(sp *spool) ([]*incoming, error) {
	data, err := sp.document("manifest.json")
	if err != nil {
		return nil, err
	}
	var entries []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(data, &entries); err != nil {
		if not := (*json.UnmarshalTypeError)(nil); errors.As(err, &not) && not.Field == "" { // skopeo's "dir:" has a manifest of this name
			return nil, errNoArchive
		}
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	var list []*incoming
	for _, e := range entries {
		in := &incoming{old: true}
		if in.config, err = sp.document(e.Config); err != nil {
			return nil, err
		}
		for _, name := range e.Layers {
			f, ok := sp.file(name)
			if !ok {
				return nil, fmt.Errorf("the archive has no %s", name)
			}
			in.layers = append(in.layers, f)
		}
		for _, name := range e.RepoTags {
			ref, err := ParseReference(name)
			if err != nil {
				return nil, err
			}
			in.names = append(in.names, ref)
		}
		list = append(list, in)
	}
	if len(list) == 0 {
		return nil, errors.New("the archive has no image")
	}
	return list, nil
}

// loadJobs is how many layers of an archive are unpacked at once.
const loadJobs = 4

// takeIn makes an image of what came.
func (s *Store) takeIn(ctx context.Context, in *incoming, progress func(Progress)) (*Image, error) {
	config, err := v1.ParseConfigFile(bytes.NewReader(in.config))
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	diffIDs := config.RootFS.DiffIDs
	if len(diffIDs) != len(in.layers) {
		return nil, fmt.Errorf("the image has %d layers and its config %d", len(in.layers), len(diffIDs))
	}
	if err := checkLayers(len(diffIDs)); err != nil {
		return nil, err
	}
	sizes, blobs := make([]int64, len(diffIDs)), make([]Blob, len(diffIDs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(loadJobs)
	for i, f := range in.layers {
		g.Go(func() error {
			diffID := Digest(diffIDs[i].String())
			report := func(p Progress) {
				if progress != nil {
					p.Layer, p.Total = diffID.Hex()[:12], f.size
					progress(p)
				}
			}
			report(Progress{Status: StatusLoading})
			blob, made, err := s.takeLayer(gctx, f, diffID, in.old)
			if err != nil {
				return err
			}
			blobs[i], sizes[i] = blob, made.Size
			report(Progress{Status: StatusLoaded, Done: f.size, Warnings: made.Warnings})
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if in.old {
		if in.manifest, err = newManifest(in.config, blobs); err != nil {
			return nil, err
		}
	}
	return s.addOwn(config, in.config, in.manifest, sizes, in.names)
}

// The statuses of a load.
const (
	StatusLoading = "Loading layer"
	StatusLoaded  = "Loaded"
)

// addOwn adds an image that no registry need have, its layers being here: what
// is kept of it is flushed to disk.
func (s *Store) addOwn(config *v1.ConfigFile, rawConfig, manifest []byte, sizes []int64, names []Reference) (*Image, error) {
	id, err := s.putBlob(rawConfig, true)
	if err != nil {
		return nil, err
	}
	img := newImage(id, config)
	if img.Manifest, err = s.putBlob(manifest, true); err != nil {
		return nil, err
	}
	if img.Blobs, err = layersOf(manifest); err != nil {
		return nil, err
	}
	for _, n := range sizes {
		img.Size += n
	}
	img.Own = true
	// No registry has them: they must be on disk before anything names them, and
	// with them what says so, also of those that another image has brought.
	if err := s.flush(img.Layers); err != nil {
		return nil, err
	}
	if err := linux.SyncFS(s.layers()); err != nil {
		return nil, fmt.Errorf("flush layers: %w", err)
	}
	if err := fault.Point("load.add"); err != nil {
		return nil, err
	}
	return s.addNamed(img, names, img.Manifest)
}

// takeLayer makes a layer of a file, and keeps it as a blob: a plain tar
// compressed if it may be.
func (s *Store) takeLayer(ctx context.Context, f spooled, diffID Digest, compress bool) (blob Blob, made unpacked, err error) {
	file, err := os.Open(f.path)
	if err != nil {
		return Blob{}, unpacked{}, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	kind, err := sniff(file)
	if err != nil {
		return Blob{}, unpacked{}, err
	}
	if kind != "" || !compress {
		blob = Blob{Digest: f.digest, Size: f.size, MediaType: layerType + "+" + kind}
		if made, err = s.ensureLayer(ctx, file, diffID); err != nil {
			return Blob{}, unpacked{}, err
		}
		return blob, made, s.moveIn(file, f)
	}
	// A plain tar: what is kept, and goes to registries, is compressed.
	kept, err := s.newBlob(true)
	if err != nil {
		return Blob{}, unpacked{}, err
	}
	defer func() { err = errors.Join(err, kept.abort()) }()
	z := newCompressor(kept)
	if made, err = s.ensureLayer(ctx, io.TeeReader(file, z), diffID); err != nil {
		return Blob{}, unpacked{}, err
	}
	if err := z.Close(); err != nil {
		return Blob{}, unpacked{}, err
	}
	blob = Blob{Digest: kept.digest(), Size: kept.size, MediaType: layerType + "+gzip"}
	return blob, made, errors.Join(kept.commit(blob.Digest, true), fault.Point("load.layer"))
}

// ensureLayer makes a layer of the bytes of r, or only checks them where it is
// here already.
func (s *Store) ensureLayer(ctx context.Context, r io.Reader, diffID Digest) (unpacked, error) {
	s.mu.Lock()
	size, ok := s.have(diffID)
	s.mu.Unlock()
	if ok {
		return unpacked{Size: size}, checkLayer(r, diffID)
	}
	return s.install(ctx, r, diffID)
}

// moveIn turns a spooled file, whose digest is checked, into a blob.
func (s *Store) moveIn(file *os.File, f spooled) error {
	if err := file.Sync(); err != nil {
		return err
	}
	// Images of one archive share files.
	if err := os.Link(f.path, s.blobPath(f.digest)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return errors.Join(atomicfile.SyncDir(s.blobs()), fault.Point("load.layer"))
}
