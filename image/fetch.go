package image

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"get.podrun.dev/podrun/internal/fault"
)

// flight is a layer on its way, for all who want it. It goes on while anybody
// does, whoever came first.
type flight struct {
	from   endpoint
	cancel context.CancelFunc
	done   chan struct{}
	size   int64 // valid when done is closed, as is err
	err    error

	mu      sync.Mutex
	reports map[int]func(Progress)
	next    int
}

// join adds somebody who wants the layer.
func (f *flight) join(report func(Progress)) (ticket int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	f.reports[f.next] = report
	return f.next
}

// leave takes one away, and tells whether it was the last.
func (f *flight) leave(ticket int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.reports, ticket)
	return len(f.reports) == 0
}

func (f *flight) report(p Progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, report := range f.reports {
		report(p)
	}
}

// layer sees to it that a layer is here, and returns its unpacked size. Who
// comes second waits for who came first; the download ends early only when
// nobody wants it any more.
func (s *Store) layer(ctx context.Context, from *session, l v1.Descriptor, diffID Digest, report func(Progress)) (int64, error) {
	short := l.Digest.Hex[:12]
	tell := func(p Progress) {
		if report != nil {
			p.Layer = short
			report(p)
		}
	}
	for {
		s.mu.Lock()
		if size, ok := s.have(diffID); ok {
			s.mu.Unlock()
			tell(Progress{Status: StatusExists})
			return size, nil
		}
		f, going := s.flights[diffID]
		if !going {
			f = s.takeOff(ctx, from, l, diffID)
		}
		ticket := f.join(tell)
		s.mu.Unlock()
		select {
		case <-f.done:
			f.leave(ticket)
		case <-ctx.Done():
			if f.leave(ticket) {
				f.cancel()
				<-f.done
			}
			return 0, context.Cause(ctx)
		}
		if errors.Is(f.err, context.Canceled) && ctx.Err() == nil {
			continue // we came when the last had left
		}
		// Another's failure is not ours if we know another place.
		if f.err == nil || !going || f.from.same(from.at) {
			return f.size, f.err
		}
	}
}

// takeOff starts the download of a layer. s.mu is held.
func (s *Store) takeOff(ctx context.Context, from *session, l v1.Descriptor, diffID Digest) *flight {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{from: from.at, cancel: cancel, done: make(chan struct{}), reports: map[int]func(Progress){}}
	s.flights[diffID] = f
	go func() {
		f.size, f.err = s.fetch(ctx, from, l, diffID, f.report)
		s.mu.Lock()
		if s.flights[diffID] == f {
			delete(s.flights, diffID)
		}
		s.mu.Unlock()
		cancel()
		close(f.done)
	}()
	return f
}

// fetch downloads a layer and unpacks it while it comes.
func (s *Store) fetch(ctx context.Context, from *session, l v1.Descriptor, diffID Digest, report func(Progress)) (size int64, err error) {
	lease, err := s.slots.acquire(ctx, from.at.registry)
	if err != nil {
		return 0, err
	}
	defer lease.release()
	blob := from.blob(ctx, l)
	defer func() { err = errors.Join(err, blob.Close()) }()
	kept, err := s.newBlob(false)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, kept.abort()) }()
	counter := &meter{r: io.TeeReader(blob, kept), lease: lease, total: l.Size, report: report}
	made, err := s.install(ctx, counter, diffID)
	if err != nil {
		return 0, explainDisk(err)
	}
	if err := kept.commit(Digest(l.Digest.String()), false); err != nil {
		return 0, explainDisk(err)
	}
	report(Progress{Status: StatusComplete, Done: l.Size, Total: l.Size, Warnings: made.Warnings})
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

// meter reports what has come, a few times a second, and tells the lease.
type meter struct {
	r           io.Reader
	lease       *lease
	done, total int64
	last        time.Time
	report      func(Progress)
}

func (m *meter) Read(p []byte) (int, error) {
	m.lease.reading.Store(true)
	n, err := m.r.Read(p)
	m.lease.reading.Store(false)
	m.lease.moved.Add(int64(n))
	m.done += int64(n)
	if now := time.Now(); now.Sub(m.last) > 100*time.Millisecond {
		m.last = now
		m.report(Progress{Status: StatusPulling, Done: m.done, Total: m.total})
	}
	return n, err
}
