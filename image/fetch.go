package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"get.podrun.dev/podrun/internal/fault"
)

// flight is a layer on its way, for all who want it.
type flight struct {
	done chan struct{}
	size int64
	err  error
}

// layer sees to it that a layer is here, and returns its unpacked size. Who
// comes second waits for who came first.
func (s *Store) layer(ctx context.Context, at endpoint, l v1.Layer, diffID Digest, report func(Progress)) (int64, error) {
	digest, err := l.Digest()
	if err != nil {
		return 0, err
	}
	if report == nil {
		report = func(Progress) {}
	}
	short := digest.Hex[:12]
	for {
		s.mu.Lock()
		if size, ok := s.have(diffID); ok {
			s.mu.Unlock()
			report(Progress{Layer: short, Status: StatusExists})
			return size, nil
		}
		f, going := s.flights[diffID]
		if !going {
			f = &flight{done: make(chan struct{})}
			s.flights[diffID] = f
			s.mu.Unlock()
			f.size, f.err = s.fetch(ctx, at, l, diffID, func(p Progress) { p.Layer = short; report(p) })
			s.mu.Lock()
			delete(s.flights, diffID)
			s.mu.Unlock()
			close(f.done)
			return f.size, f.err
		}
		s.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		// The other pull's end is not ours: it may have been cancelled.
		if f.err != nil && !errors.Is(f.err, context.Canceled) {
			return 0, f.err
		}
	}
}

// fetch downloads a layer and unpacks it while it comes.
func (s *Store) fetch(ctx context.Context, at endpoint, l v1.Layer, diffID Digest, report func(Progress)) (size int64, err error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	mediaType, err := l.MediaType()
	if err != nil {
		return 0, err
	}
	if err := checkLayerType(mediaType); err != nil {
		return 0, err
	}
	total, err := l.Size()
	if err != nil {
		return 0, explain(err, at)
	}
	// The library checks what it hands out against digest and size.
	blob, err := l.Compressed()
	if err != nil {
		return 0, explain(err, at)
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	digest, err := l.Digest()
	if err != nil {
		return 0, err
	}
	kept, err := s.newBlob(false)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, kept.abort()) }()
	counter := &meter{r: io.TeeReader(blob, kept), total: total, report: report}
	made, err := s.install(ctx, counter, diffID)
	if err != nil {
		return 0, explain(err, at)
	}
	if err := kept.commit(Digest(digest.String()), false); err != nil {
		return 0, err
	}
	report(Progress{Status: StatusComplete, Done: total, Total: total, Warnings: made.Warnings})
	return made.Size, nil
}

// install makes a layer of the compressed bytes that r holds, reading all of
// them. Half a layer is never in its place.
func (s *Store) install(ctx context.Context, r io.Reader, diffID Digest) (made unpacked, err error) {
	dir, err := os.MkdirTemp(s.tmp(), "layer-")
	if err != nil {
		return unpacked{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if made, err = s.unpack(ctx, r, filepath.Join(dir, "fs"), diffID); err != nil {
		return unpacked{}, err
	}
	for _, w := range made.Warnings {
		s.log.Warn("layer is not kept as it is", "digest", diffID, "warning", w)
	}
	if err := fault.Point("pull.unpacked"); err != nil {
		return unpacked{}, err
	}
	return made, s.keep(dir, diffID, made.Size)
}

// checkLayerType tells whether podrun can read a layer of a media type.
func checkLayerType(t types.MediaType) error {
	if !t.IsDistributable() {
		return fmt.Errorf("layer of type %q is not distributable: its registry does not have it", t)
	}
	return nil
}

// meter reports what has come, a few times a second.
type meter struct {
	r           io.Reader
	done, total int64
	last        time.Time
	report      func(Progress)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.done += int64(n)
	if now := time.Now(); now.Sub(m.last) > 100*time.Millisecond {
		m.last = now
		m.report(Progress{Status: StatusPulling, Done: m.done, Total: m.total})
	}
	return n, err
}
