package store

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"go.etcd.io/bbolt"
)

// EventType says what happened to an object.
type EventType string

// The event types, as the Kubernetes watch API spells them.
const (
	Added    EventType = "ADDED"
	Modified EventType = "MODIFIED"
	Deleted  EventType = "DELETED"
)

// Event is one change. Object is the object after it; for Deleted the last
// value, with the revision of the deletion.
type Event struct {
	Type   EventType
	Object Object
}

// CompactedError says that a watch asked for changes that are no longer kept.
type CompactedError struct {
	From   uint64 // what was asked for
	Oldest uint64 // the oldest revision that can be
}

func (e *CompactedError) Error() string {
	return fmt.Sprintf("revision %d is too old, the oldest kept is %d", e.From, e.Oldest)
}

// SlowWatcherError ends a watch whose reader fell too far behind.
type SlowWatcherError struct{ Behind int }

func (e *SlowWatcherError) Error() string {
	return fmt.Sprintf("the watcher fell %d changes behind", e.Behind)
}

// maxBehind is how many changes wait for the reader of a watch before the
// watch is cut: a writer never waits for a reader.
const maxBehind = 10_000

// Watcher delivers changes in the order of their revisions, none twice.
type Watcher struct {
	events    chan Event
	kind, ns  string
	done      chan struct{} // closed when no more will be queued
	mu        sync.Mutex
	queue     []Event
	more      chan struct{} // one slot: the queue has something
	err       error
	endedOnce sync.Once
}

// Watch delivers the changes of one kind, in one namespace or in all for "",
// that come after revision from; 0 stands for now. The watch lasts until ctx
// ends, the store closes or its reader falls too far behind: then Events is
// closed and Err tells why. *CompactedError when from is too old.
func (s *Store) Watch(ctx context.Context, kind, namespace string, from uint64) (*Watcher, error) {
	w := &Watcher{
		events: make(chan Event), kind: kind, ns: namespace,
		done: make(chan struct{}), more: make(chan struct{}, 1),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if from > 0 {
		// publish waits for s.mu: what it has told is what we read here, so
		// that history and live meet without a gap.
		missed, err := s.since(from, s.revision)
		if err != nil {
			return nil, err
		}
		w.add(missed)
	}
	s.watchers[w] = struct{}{}
	go w.deliver(ctx, func() {
		s.mu.Lock()
		delete(s.watchers, w)
		s.mu.Unlock()
	})
	return w, nil
}

// since reads the changes after from up to and including to.
func (s *Store) since(from, to uint64) ([]Event, error) {
	var events []Event
	err := s.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketLog).Cursor()
		first, _ := c.First()
		if oldest := number(first); from < to && (first == nil || from+1 < oldest) {
			return &CompactedError{From: from, Oldest: oldest}
		}
		for k, v := c.Seek(encodeNumber(from + 1)); k != nil && number(k) <= to; k, v = c.Next() {
			var e Event
			if err := json.Unmarshal(v, &e); err != nil {
				return fmt.Errorf("stored change %d: %w", number(k), err)
			}
			events = append(events, e)
		}
		return nil
	})
	return events, err
}

// publish tells the watchers of a commit.
func (s *Store) publish(events []Event, revision uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision = revision
	for w := range s.watchers {
		w.add(events)
	}
}

// Events is where the changes arrive; closed at the end.
func (w *Watcher) Events() <-chan Event { return w.events }

// Err tells why Events was closed; nil before, and when ctx ended it.
func (w *Watcher) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// add queues the events that w is for. It never waits.
func (w *Watcher) add(events []Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range events {
		if e.Object.Kind == w.kind && (w.ns == "" || e.Object.Namespace == w.ns) {
			w.queue = append(w.queue, e)
		}
	}
	if len(w.queue) > maxBehind {
		w.endLocked(&SlowWatcherError{Behind: len(w.queue)})
	}
	if len(w.queue) > 0 {
		select {
		case w.more <- struct{}{}:
		default:
		}
	}
}

func (w *Watcher) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endLocked(err)
}

func (w *Watcher) endLocked(err error) {
	w.endedOnce.Do(func() {
		w.err = err
		close(w.done)
	})
}

func (w *Watcher) take() []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.queue
	w.queue = nil
	return q
}

// deliver hands the queue to the reader until the watch ends.
func (w *Watcher) deliver(ctx context.Context, forget func()) {
	defer close(w.events)
	defer forget()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.done:
			return
		case <-w.more:
		}
		for _, e := range w.take() {
			select {
			case w.events <- e:
			case <-ctx.Done():
				return
			case <-w.done:
				return
			}
		}
	}
}
