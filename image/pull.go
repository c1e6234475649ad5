package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/hint"
)

// PullOptions of one pull.
type PullOptions struct {
	// Content asks for all that save and push need too, which an image that
	// runs may lack.
	Content bool
	// Progress, if set, is told of each layer; calls may come from several
	// goroutines at once.
	Progress func(Progress)
	// Credentials are tried in this order, before those of the user.
	Credentials []Credentials
	// Platform is what the image shall be for; zero is this machine's.
	Platform Platform
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

// Resolve asks the registry what ref, which was found here, stands for now: an
// index or a manifest. The credentials are tried in this order, before those of
// the user. Unanswered judges the error.
func (s *Store) Resolve(ctx context.Context, ref Reference, credentials []Credentials) (Digest, error) {
	ref, err := s.Resolved(ref)
	if err != nil {
		return "", err
	}
	return s.resolve(ctx, ref, credentials)
}

func (s *Store) resolve(ctx context.Context, ref Reference, credentials []Credentials) (Digest, error) {
	var digest Digest
	err := s.each(ctx, ref, credentials, func(from *session) (err error) {
		digest, err = from.head(ctx, from.at.identifier)
		return err
	})
	return digest, err
}

// Pull makes the image here what ref stands for in its registry now. What is
// here already is not fetched again; when the name still stands for the same,
// one request is all. Concurrent pulls share the layers they have in common.
// A name without a registry is looked for as registries.conf says; Resolved
// tells under which it was found.
func (s *Store) Pull(ctx context.Context, ref Reference, o PullOptions) (*Image, error) {
	registries, err := s.conf.registries()
	if err != nil {
		return nil, err
	}
	names, err := registries.pullNames(ref)
	if err != nil {
		return nil, err
	}
	var errs []string
	for _, name := range names {
		img, err := s.pull(ctx, name, o)
		if err == nil || len(names) == 1 || ctx.Err() != nil {
			return img, err
		}
		errs = append(errs, fmt.Sprintf("%s: %v", name.Familiar(), err))
	}
	return nil, hint.Wrap(fmt.Errorf("none of the registries that are searched has it: %s", strings.Join(errs, "; ")), "give the whole name")
}

// pull pulls by a whole name.
func (s *Store) pull(ctx context.Context, ref Reference, o PullOptions) (*Image, error) {
	defer s.hold()()
	want := o.Platform
	if want == (Platform{}) {
		want = s.platform
	}
	s.mu.Lock()
	n, known := s.byName[ref.String()]
	img := s.images[n.ID]
	if known {
		s.use(n.ID) // whether or not it turns out to be here already
	}
	s.mu.Unlock()
	known = known && want.suits(img.Platform) && (!o.Content || s.complete(img))
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
	err := s.each(ctx, ref, o.Credentials, func(from *session) error {
		f, err := from.find(ctx, from.at.identifier, want, s.pullLimits)
		if err != nil {
			return err
		}
		pulled, err = s.take(ctx, f, ref, o)
		return err
	})
	return pulled, err
}

// each tries the places where ref may be found, and the ways to be let in, until
// one has it. The error is that of the last place, the registry itself.
func (s *Store) each(ctx context.Context, ref Reference, credentials []Credentials, try func(*session) error) error {
	registries, err := s.conf.registries()
	if err != nil {
		return err
	}
	places, err := registries.endpoints(ref)
	if err != nil {
		return err
	}
	var mirrors []string
	for i, at := range places {
		at.credentials = credentials
		if err = s.visit(ctx, at, try); err == nil || ctx.Err() != nil {
			return err
		}
		if i < len(places)-1 {
			s.log.Info("mirror failed", "image", ref.String(), "mirror", at.registry, "err", err)
			mirrors = append(mirrors, fmt.Sprintf("%s/%s: %v", at.registry, at.repository, err))
		}
	}
	if len(mirrors) > 0 {
		err = fmt.Errorf("%w; its mirrors failed too: %s", err, strings.Join(mirrors, "; "))
	}
	return err
}

// visit tries one place with each of the credentials for it until one is let
// in. Registries hide what one may not see, so "not found" may be for want of
// rights.
func (s *Store) visit(ctx context.Context, at endpoint, try func(*session) error) error {
	list, err := s.wire.authenticators(ctx, at)
	if err != nil {
		return err
	}
	for i, as := range list {
		var from *session
		if from, err = s.wire.open(ctx, at, as); err == nil {
			err = try(from)
		}
		if err == nil || ctx.Err() != nil || !errors.Is(err, ErrUnauthorized) && !errors.Is(err, ErrNotFound) {
			return err
		}
		if i < len(list)-1 {
			s.log.Info("credentials are refused, others are tried", "registry", at.registry, "err", err)
		}
	}
	return err
}

// take makes a found image whole here.
func (s *Store) take(ctx context.Context, f *found, ref Reference, o PullOptions) (*Image, error) {
	s.mu.Lock()
	known := s.images[f.id]
	s.mu.Unlock()
	if known != nil {
		for _, d := range f.documents {
			if _, err := s.putBlob(d.data, false); err != nil {
				return nil, err
			}
		}
		if o.Content && !s.complete(known) {
			var err error
			if known, err = s.refill(ctx, f, known, o.Progress); err != nil {
				return nil, err
			}
		}
		return s.add(known, ref, f.top)
	}
	diffIDs := f.config.RootFS.DiffIDs
	if len(f.layers) != len(diffIDs) {
		return nil, fmt.Errorf("the image's manifest has %d layers and its config %d", len(f.layers), len(diffIDs))
	}
	img := newImage(f.id, f.config)
	sizes := make([]int64, len(f.layers))
	g, gctx := errgroup.WithContext(ctx)
	for i, l := range f.layers {
		g.Go(func() (err error) {
			sizes[i], err = s.layer(gctx, f.session, l, Digest(diffIDs[i].String()), o.Progress)
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
	if o.Content && !s.complete(img) {
		var err error
		if img, err = s.refill(ctx, f, img, o.Progress); err != nil {
			return nil, err
		}
	}
	if err := fault.Point("pull.add"); err != nil {
		return nil, err
	}
	img, err := s.add(img, ref, f.top)
	if err != nil {
		return nil, err
	}
	if err := fault.Point("pull.added"); err != nil {
		return nil, err
	}
	s.flushSoon(img.Layers)
	return img, nil
}

// keepDocuments keeps the documents of an image from a registry as they came.
func (s *Store) keepDocuments(img *Image, f *found) (err error) {
	if _, err := s.putBlob(f.rawConfig, false); err != nil {
		return err
	}
	for _, d := range f.documents {
		if img.Manifest, err = s.putBlob(d.data, false); err != nil {
			return err
		}
	}
	img.Blobs, err = layersOf(f.documents[len(f.documents)-1].data)
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
