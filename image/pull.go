package image

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"get.podrun.dev/podrun/internal/fault"
)

// maxLayers is how many layers an overlay mount takes by its options.
const maxLayers = 60

// PullOptions of one pull.
type PullOptions struct {
	// Progress, if set, is told of each layer; calls may come from several
	// goroutines at once.
	Progress func(Progress)
	// Credentials are asked in this order, before those of the user.
	Credentials []Credentials
}

// Progress is where one layer is on its way.
type Progress struct {
	Layer  string `json:"layer"`  // 12 hex digits of its digest
	Status string `json:"status"` // one of the constants below
	Done   int64  `json:"done"`   // bytes that have come
	Total  int64  `json:"total"`  // bytes, compressed
	// Warnings are what could not be kept as the layer has it.
	Warnings []string `json:"warnings,omitempty"`
}

// The statuses, in docker's words.
const (
	StatusPulling  = "Downloading"
	StatusExists   = "Already exists"
	StatusComplete = "Pull complete"
)

// Resolve asks the registry what ref stands for now, an index or a manifest.
func (s *Store) Resolve(ctx context.Context, ref Reference) (Digest, error) {
	return s.resolve(ctx, ref, nil)
}

func (s *Store) resolve(ctx context.Context, ref Reference, credentials []Credentials) (Digest, error) {
	var digest Digest
	err := s.each(ref, credentials, func(at endpoint) (err error) {
		digest, err = s.wire.head(ctx, at, ref)
		return err
	})
	return digest, err
}

// Pull makes the image here what ref stands for in its registry now. What is
// here already is not fetched again; when the name still stands for the same,
// one request is all. Concurrent pulls share the layers they have in common.
func (s *Store) Pull(ctx context.Context, ref Reference, o PullOptions) (*Image, error) {
	defer s.hold()()
	s.mu.Lock()
	n, known := s.byName[ref.String()]
	img := s.images[n.ID]
	s.mu.Unlock()
	if known && ref.Digest() != "" && n.Top == ref.Digest() {
		return img, nil // a digest stands for the same for ever
	}
	if known {
		top, err := s.resolve(ctx, ref, o.Credentials)
		if err != nil {
			return nil, err
		}
		if top == n.Top {
			return img, nil
		}
	}
	var pulled *Image
	err := s.each(ref, o.Credentials, func(at endpoint) (err error) {
		pulled, err = s.pullFrom(ctx, at, ref, o)
		return err
	})
	return pulled, err
}

// each tries the places where ref may be found until one has it. The error is
// that of the last, the registry itself.
func (s *Store) each(ref Reference, credentials []Credentials, try func(endpoint) error) error {
	registries := s.registries
	if registries == nil {
		var err error
		if registries, err = LoadRegistries(); err != nil {
			return err
		}
	}
	places, err := registries.endpoints(ref)
	if err != nil {
		return err
	}
	for i, at := range places {
		at.credentials = credentials
		if err = try(at); err == nil || errors.Is(err, context.Canceled) {
			return err
		}
		if i < len(places)-1 {
			s.log.Info("mirror failed", "image", ref.String(), "mirror", at.registry, "err", err)
		}
	}
	return err
}

func (s *Store) pullFrom(ctx context.Context, at endpoint, ref Reference, o PullOptions) (*Image, error) {
	f, err := s.wire.find(ctx, at, ref)
	if err != nil {
		return nil, err
	}
	id, err := f.image.ConfigName()
	if err != nil {
		return nil, explain(err, at)
	}
	s.mu.Lock()
	known := s.images[Digest(id.String())]
	s.mu.Unlock()
	if known != nil {
		if _, err := s.putBlob(f.named, false); err != nil {
			return nil, err
		}
		return s.add(known, &ref, f.top)
	}
	config, err := f.image.ConfigFile()
	if err != nil {
		return nil, explain(err, at)
	}
	layers, err := f.image.Layers()
	if err != nil {
		return nil, explain(err, at)
	}
	diffIDs := config.RootFS.DiffIDs
	if len(layers) != len(diffIDs) {
		return nil, fmt.Errorf("the image's manifest has %d layers and its config %d", len(layers), len(diffIDs))
	}
	if len(layers) > maxLayers {
		return nil, fmt.Errorf("the image has %d layers; podrun takes up to %d", len(layers), maxLayers)
	}
	img := newImage(Digest(id.String()), config)
	sizes := make([]int64, len(layers))
	g, gctx := errgroup.WithContext(ctx)
	for i, l := range layers {
		g.Go(func() (err error) {
			sizes[i], err = s.layer(gctx, at, l, Digest(diffIDs[i].String()), o.Progress)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, n := range sizes {
		img.Size += n
	}
	if err := s.keepDocuments(img, f); err != nil {
		return nil, err
	}
	if err := fault.Point("pull.add"); err != nil {
		return nil, err
	}
	return s.add(img, &ref, f.top)
}

// keepDocuments keeps the documents of an image from a registry as they came.
func (s *Store) keepDocuments(img *Image, f *found) error {
	manifest, err := f.image.RawManifest()
	if err != nil {
		return err
	}
	config, err := f.image.RawConfigFile()
	if err != nil {
		return err
	}
	for _, document := range [][]byte{f.named, config, manifest} {
		if img.Manifest, err = s.putBlob(document, false); err != nil {
			return err
		}
	}
	img.Blobs, err = layersOf(manifest)
	return err
}

func newImage(id Digest, c *v1.ConfigFile) *Image {
	img := &Image{
		ID: id, Created: c.Created.Time, Pulled: time.Now(),
		Platform: Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant},
		Config: Config{
			Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd, Env: c.Config.Env, User: c.Config.User,
			WorkingDir: c.Config.WorkingDir, StopSignal: c.Config.StopSignal, Labels: c.Config.Labels,
		},
	}
	for port := range c.Config.ExposedPorts {
		img.Config.ExposedPorts = append(img.Config.ExposedPorts, port)
	}
	for path := range c.Config.Volumes {
		img.Config.Volumes = append(img.Config.Volumes, path)
	}
	for _, d := range c.RootFS.DiffIDs {
		img.Layers = append(img.Layers, Digest(d.String()))
	}
	return img
}
