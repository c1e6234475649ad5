package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/hint"
)

// The statuses of a push, in docker's words.
const (
	StatusPushing = "Pushing"
	StatusPushed  = "Pushed"
	StatusInPlace = "Layer already exists"
)

// PushOptions of one push.
type PushOptions struct {
	// Progress, if set, is told of each layer, by several goroutines one after
	// the other, and not after Push has returned.
	Progress func(Progress)
	// Credentials are asked in this order, before those of the user.
	Credentials []Credentials
}

// Push puts the image that ref names here into the registry that ref says, and
// describes the manifest that is there now. What the registry has is not sent;
// what another of its repositories has is mounted from there.
func (s *Store) Push(ctx context.Context, ref Reference, o PushOptions) (*Blob, error) {
	if ref.Digest() != "" {
		return nil, errors.New("an image is pushed by a tag, not by a digest")
	}
	defer s.holdContent()()
	ref, err := s.Resolved(ref)
	if err != nil {
		return nil, err
	}
	img, err := s.Lookup(ref)
	if err != nil {
		return nil, err
	}
	documents, err := s.whole(img)
	if err != nil {
		return nil, err
	}
	at, err := s.pushEndpoint(ref)
	if err != nil {
		return nil, err
	}
	at.credentials = o.Credentials
	repository, err := at.name()
	if err != nil {
		return nil, err
	}
	options, asked, err := s.wire.options(ctx, at)
	if err != nil {
		return nil, err
	}
	progress, end := untilEnd(o.Progress)
	defer end()
	core := &content{s: s, img: img, documents: documents, progress: progress, sent: map[Digest]*atomic.Bool{}}
	for _, b := range img.Blobs {
		core.sent[b.Digest] = new(atomic.Bool)
	}
	whole, err := core.image(repository, s.elsewhere(ref))
	if err != nil {
		return nil, err
	}
	options = append(options, remote.WithJobs(s.slots.total))
	if err := fault.Point("push.begin"); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		err := remote.Write(repository.Tag(ref.Tag()), whole, options...)
		if err == nil {
			break
		}
		err = asked.why(err)
		if here := local(err); errors.Is(here, errNoBlob) {
			return nil, hint.Wrap(here, img.pullAgain())
		} else if here != nil {
			return nil, here
		}
		wait := s.wire.after(try)
		if answer := answerIn(err); answer != nil {
			wait = max(wait, answer.After)
		}
		if try >= s.wire.triesOf(err) || !again(err) || wait > maxRetryAfter || ctx.Err() != nil {
			return nil, explain(err, at)
		}
		s.log.Info("push is tried again", "image", ref.String(), "attempt", try, "wait", wait, "err", explain(err, at))
		if err := pause(ctx, wait); err != nil {
			return nil, err
		}
	}
	if err := fault.Point("push.sent"); err != nil {
		return nil, err
	}
	for _, b := range img.Blobs {
		status := StatusInPlace
		if core.sent[b.Digest].Load() {
			status = StatusPushed
		}
		progress(Progress{Layer: b.Digest.Hex()[:12], Status: status, Done: b.Size, Total: b.Size})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The name stands for what the registry has now.
	if n, ok := s.byName[ref.String()]; ok && n.ID == img.ID && n.Top != img.Manifest {
		undo := s.remember()
		s.byName[ref.String()] = named{ID: img.ID, Top: img.Manifest}
		if err := s.saveOr(undo); err != nil {
			return nil, err
		}
	}
	return &documents[0], nil
}

// untilEnd is report until end is called: net/http may go on reading a body for
// a while when the request it belongs to has failed.
func untilEnd(report func(Progress)) (progress func(Progress), end func()) {
	var mu sync.Mutex
	progress = func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		if report != nil {
			report(p)
		}
	}
	return progress, func() {
		mu.Lock()
		defer mu.Unlock()
		report = nil
	}
}

// again tells whether a push that failed may succeed: what the registry took is
// not sent again.
func again(err error) bool {
	if answer := answerIn(err); answer != nil {
		return troubled(answer.Status)
	}
	var cut net.Error
	var stalled *stalledError
	return errors.As(err, &cut) || errors.As(err, &stalled) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// pushEndpoint is the registry that ref names. Mirrors and other locations are
// for pulls; that it is insecure, or blocked, counts here too.
func (s *Store) pushEndpoint(ref Reference) (endpoint, error) {
	registries, err := s.conf.registries()
	if err != nil {
		return endpoint{}, err
	}
	places, err := registries.endpoints(ref)
	if err != nil {
		return endpoint{}, err
	}
	at := places[len(places)-1]
	at.registry, at.repository = ref.Registry(), ref.Repository()
	return at, nil
}

// elsewhere are the other repositories of ref's registry that may have each
// blob, by the names of images here.
func (s *Store) elsewhere(ref Reference) map[Digest]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[Digest]string{}
	for full, n := range s.byName {
		r, err := ParseReference(full)
		if err != nil || r.Registry() != ref.Registry() || r.Repository() == ref.Repository() {
			continue
		}
		for _, b := range s.images[n.ID].Blobs {
			found[b.Digest] = r.Repository()
		}
	}
	return found
}

// content is an image as the library sees it, read from blobs.
type content struct {
	s         *Store
	img       *Image
	documents []Blob
	progress  func(Progress)
	sent      map[Digest]*atomic.Bool // which layers the registry did not have
}

// image is c with its layers mounted from other repositories of the registry
// that may have them.
func (c *content) image(target name.Repository, repositories map[Digest]string) (v1.Image, error) {
	whole, err := partial.CompressedToImage(c)
	if err != nil {
		return nil, err
	}
	layers, err := whole.Layers()
	if err != nil {
		return nil, err
	}
	for i, b := range c.img.Blobs {
		if from, ok := repositories[b.Digest]; ok {
			layers[i] = &remote.MountableLayer{Layer: layers[i], Reference: target.Registry.Repo(from).Digest(string(b.Digest))}
		}
	}
	return &mountable{whole, layers}, nil
}

type mountable struct {
	v1.Image
	layers []v1.Layer
}

// Layers are the image's.
func (m *mountable) Layers() ([]v1.Layer, error) { return m.layers, nil }

func (c *content) RawConfigFile() ([]byte, error) { return c.s.readBlob(c.img.ID) }
func (c *content) RawManifest() ([]byte, error)   { return c.s.readBlob(c.img.Manifest) }

// MediaType is the manifest's.
func (c *content) MediaType() (types.MediaType, error) {
	if t := c.documents[0].MediaType; t != "" {
		return types.MediaType(t), nil
	}
	return types.OCIManifestSchema1, nil
}

// LayerByDigest is one of the image's layers.
func (c *content) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, b := range c.img.Blobs {
		if b.Digest == Digest(h.String()) {
			return &contentLayer{c, b}, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", h, errNoBlob)
}

type contentLayer struct {
	of   *content
	blob Blob
}

func (l *contentLayer) Digest() (v1.Hash, error) { return v1.NewHash(string(l.blob.Digest)) }
func (l *contentLayer) Size() (int64, error)     { return l.blob.Size, nil }

// MediaType is the layer's.
func (l *contentLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.blob.MediaType), nil
}

// Compressed is what is sent, when the registry lacks it.
func (l *contentLayer) Compressed() (io.ReadCloser, error) {
	r, err := l.of.s.openBlob(l.blob.Digest)
	if err != nil {
		return nil, err
	}
	if err := fault.Point("push.blob"); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	l.of.sent[l.blob.Digest].Store(true)
	return &sending{ReadCloser: r, of: l}, nil
}

// sending tells how much of a layer is on its way, a few times a second.
type sending struct {
	io.ReadCloser
	of   *contentLayer
	done int64
	last time.Time
}

func (r *sending) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.done += int64(n)
	if now := time.Now(); now.Sub(r.last) > 100*time.Millisecond {
		r.last = now
		r.of.of.progress(Progress{Layer: r.of.blob.Digest.Hex()[:12], Status: StatusPushing, Done: r.done, Total: r.of.blob.Size})
	}
	return n, err
}
