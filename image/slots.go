package image

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A download is slow when it waits for the registry and less than slowRate bytes
// a second came since it was last looked at.
const (
	slowRate   = 128 << 10
	slowWindow = 5 * time.Second
)

// slots bound how many downloads go on at once, of all pulls together. No
// registry holds the others up:
//
//   - one has at most as many downloads as there are slots;
//   - a free slot goes to the registry that has the fewest, and within it to
//     who came first;
//   - a download that turns out slow gives its slot back and goes on without:
//     it costs next to nothing, and still counts for its registry.
type slots struct {
	total  int
	window time.Duration

	mu       sync.Mutex
	used     int
	registry map[string]int // downloads going on, the slow ones included
	waiting  []*waiter
}

type waiter struct {
	registry string
	granted  chan struct{}
}

func newSlots(total int) *slots {
	return &slots{total: total, window: slowWindow, registry: map[string]int{}}
}

// lease is a download's right to go on. Release gives it back.
type lease struct {
	of       *slots
	registry string
	moved    atomic.Int64 // bytes since it was last looked at
	reading  atomic.Bool  // it waits for the registry
	timer    *time.Timer
	slow     bool // guarded by of.mu
	released bool // guarded by of.mu
}

// acquire waits until a download from a registry may begin.
func (s *slots) acquire(ctx context.Context, registry string) (*lease, error) {
	w := &waiter{registry, make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	s.grant()
	s.mu.Unlock()
	select {
	case <-w.granted:
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		if i := slices.Index(s.waiting, w); i >= 0 {
			s.waiting = slices.Delete(s.waiting, i, i+1)
		} else { // granted just now
			s.used--
			s.leave(registry)
		}
		return nil, context.Cause(ctx)
	}
	l := &lease{of: s, registry: registry}
	s.mu.Lock()
	defer s.mu.Unlock()
	l.timer = time.AfterFunc(s.window, l.look)
	return l, nil
}

// grant gives free slots away. s.mu is held.
func (s *slots) grant() {
	for s.used < s.total {
		next := -1
		for i, w := range s.waiting {
			if n := s.registry[w.registry]; n < s.total && (next < 0 || n < s.registry[s.waiting[next].registry]) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		w := s.waiting[next]
		s.waiting = slices.Delete(s.waiting, next, next+1)
		s.used++
		s.registry[w.registry]++
		close(w.granted)
	}
}

// leave takes a download off its registry's. s.mu is held.
func (s *slots) leave(registry string) {
	if s.registry[registry]--; s.registry[registry] == 0 {
		delete(s.registry, registry)
	}
	s.grant()
}

// look takes the slot from a download that is slow.
func (l *lease) look() {
	moved := l.moved.Swap(0)
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	if l.released {
		return
	}
	if l.reading.Load() && moved < int64(slowRate*l.of.window.Seconds()) {
		l.slow = true
		l.of.used--
		l.of.grant()
		return
	}
	l.timer.Reset(l.of.window)
}

// release ends the download.
func (l *lease) release() {
	l.timer.Stop()
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	l.released = true
	if !l.slow {
		l.of.used--
	}
	l.of.leave(l.registry)
}
