package store_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/store"
)

func open(t *testing.T, path string, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func text(s string) func(uint64) ([]byte, error) {
	return func(uint64) ([]byte, error) { return []byte(s), nil }
}

func put(t *testing.T, s *store.Store, k store.Key, value string) uint64 {
	t.Helper()
	rev, err := s.Update(func(tx *store.Tx) error { return tx.Put(k, text(value)) })
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func pod(name string) store.Key { return store.Key{Kind: "Pod", Namespace: "default", Name: name} }

func TestObjects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path, store.Options{})
	if _, err := s.Get(pod("a")); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Get of nothing: %v, want ErrNotFound", err)
	}
	first := put(t, s, pod("a"), "one")
	second := put(t, s, pod("a"), "two")
	if second <= first {
		t.Errorf("revisions %d, then %d: must grow", first, second)
	}
	o, err := s.Get(pod("a"))
	if err != nil || string(o.Value) != "two" || o.Revision != second || o.Created != first {
		t.Errorf("Get = %+v, %v; want two, revision %d, created %d", o, err, second, first)
	}
	_, err = s.Update(func(tx *store.Tx) error { return tx.Create(pod("a"), text("three")) })
	if !errors.Is(err, store.ErrExists) {
		t.Errorf("Create of what is there: %v, want ErrExists", err)
	}
	boom := errors.New("boom")
	_, err = s.Update(func(tx *store.Tx) error {
		if err := tx.Put(pod("b"), text("lost")); err != nil {
			return err
		}
		return boom
	})
	if err != boom {
		t.Errorf("Update returns %v, want the function's own error", err)
	}
	if _, err := s.Get(pod("b")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an aborted commit left an object: %v", err)
	}

	put(t, s, store.Key{Kind: "Pod", Namespace: "other", Name: "a"}, "x")
	put(t, s, store.Key{Kind: "PodLike", Namespace: "default", Name: "a"}, "x")
	if all, rev, err := s.List("Pod", ""); err != nil || len(all) != 2 || rev == 0 {
		t.Errorf("List of all namespaces = %d objects at %d, %v; want 2", len(all), rev, err)
	}
	if some, _, err := s.List("Pod", "default"); err != nil || len(some) != 1 {
		t.Errorf("List of default = %d objects, %v; want 1", len(some), err)
	}

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path, store.Options{})
	if o, err := s.Get(pod("a")); err != nil || string(o.Value) != "two" {
		t.Errorf("after reopening: %+v, %v", o, err)
	}
	if rev := put(t, s, pod("c"), "x"); rev <= second {
		t.Errorf("revision %d after reopening repeats an old one (%d)", rev, second)
	}
}

func TestWatchJoinsHistoryAndLive(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"), store.Options{})
	from := put(t, s, pod("before"), "x")
	var writers sync.WaitGroup
	const n, each = 4, 50
	for w := range n {
		writers.Go(func() {
			for i := range each {
				put(t, s, pod(fmt.Sprintf("p%d-%d", w, i)), "x")
			}
		})
	}
	// Watchers that begin at different moments see the same changes.
	var watchers sync.WaitGroup
	for range 3 {
		watchers.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			w, err := s.Watch(ctx, "Pod", "default", from)
			if err != nil {
				t.Error(err)
				return
			}
			last := from
			for range n * each {
				e, ok := <-w.Events()
				if !ok {
					t.Errorf("watch ended early: %v", w.Err())
					return
				}
				if e.Object.Revision != last+1 || e.Type != store.Added {
					t.Errorf("event %s %d after revision %d", e.Type, e.Object.Revision, last)
					return
				}
				last = e.Object.Revision
			}
		})
	}
	writers.Wait()
	watchers.Wait()
}

func TestWatchEventTypes(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"), store.Options{})
	w, err := s.Watch(t.Context(), "Pod", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, pod("a"), "one")
	put(t, s, pod("a"), "two")
	if _, err := s.Update(func(tx *store.Tx) error { return tx.Delete(pod("a")) }); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		kind  store.EventType
		value string
	}{{store.Added, "one"}, {store.Modified, "two"}, {store.Deleted, "two"}} {
		if e := <-w.Events(); e.Type != want.kind || string(e.Object.Value) != want.value {
			t.Errorf("event %s %q, want %s %q", e.Type, e.Object.Value, want.kind, want.value)
		}
	}
}

func TestWatchTooOld(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"), store.Options{History: 5})
	first := put(t, s, pod("a"), "x")
	for range 10 {
		put(t, s, pod("a"), "x")
	}
	var compacted *store.CompactedError
	if _, err := s.Watch(t.Context(), "Pod", "", first); !errors.As(err, &compacted) {
		t.Errorf("Watch from a forgotten revision: %v, want *CompactedError", err)
	} else if _, err := s.Watch(t.Context(), "Pod", "", compacted.Oldest); err != nil {
		t.Errorf("Watch from the oldest kept revision %d: %v", compacted.Oldest, err)
	}
}

func TestSlowWatcherHoldsUpNobody(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"), store.Options{})
	w, err := s.Watch(t.Context(), "Pod", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Update(func(tx *store.Tx) error {
		for range 10_002 {
			if err := tx.Put(pod("a"), text("x")); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range w.Events() {
	}
	var slow *store.SlowWatcherError
	if !errors.As(w.Err(), &slow) {
		t.Errorf("a watcher that did not read ended with %v, want *SlowWatcherError", w.Err())
	}
}

func BenchmarkPut(b *testing.B) {
	s, err := store.Open(filepath.Join(b.TempDir(), "store.db"), store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	value := make([]byte, 4096)
	for b.Loop() {
		if _, err := s.Update(func(tx *store.Tx) error {
			return tx.Put(pod("a"), func(uint64) ([]byte, error) { return value, nil })
		}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestSchema: a store of a later layout is refused by name, and one of this
// layout opens whoever wrote it and whatever came before.
func TestSchema(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	opens := func(version string) error {
		s, err := store.Open(path, store.Options{Version: version})
		if err != nil {
			return err
		}
		return s.Close()
	}
	for _, version := range []string{"v1", "v2", "v1", ""} {
		if err := opens(version); err != nil {
			t.Fatalf("%q: %v", version, err)
		}
	}
	for _, test := range []struct{ writer, want, mend string }{
		{"v9", "podrun v9 wrote it, with schema 7; this podrun, v2, knows schemas up to 1", "use podrun v9 or a later one"},
		{"", "podrun of a later version wrote it, with schema 7; this podrun, v2, knows schemas up to 1", "use the podrun that wrote it"},
	} {
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			meta := tx.Bucket([]byte("meta"))
			return errors.Join(meta.Put([]byte("schema"), []byte{0, 0, 0, 0, 0, 0, 0, 7}), meta.Put([]byte("writer"), []byte(test.writer)))
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		err = opens("v2")
		if err == nil || err.Error() != fmt.Sprintf("cannot open store %q: %s", path, test.want) || hint.Of(err) != test.mend {
			t.Errorf("got %v; %s", err, hint.Of(err))
		}
	}
}
