package supervisor

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/store"
)

func openStore(t *testing.T) *store.Store {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "store.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// commitNotes writes notes as events of p, as a commit does.
func commitNotes(t *testing.T, st *store.Store, p *corev1.Pod, known []*corev1.Event, notes ...note) []*corev1.Event {
	t.Helper()
	_, err := st.Update(func(tx *store.Tx) (err error) {
		known, err = putEvents(tx, aboutPod(p), "laptop", known, notes)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return known
}

func stored(t *testing.T, st *store.Store, p *corev1.Pod) (list []string) {
	t.Helper()
	events, err := loadEvents(st, aboutPod(p))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		list = append(list, fmt.Sprintf("%s x%d", e.Reason, e.Count))
	}
	return list
}

func TestEventsAreCountedAndBounded(t *testing.T) {
	st, p, now := openStore(t), onePod(), time.Now()
	known := commitNotes(t, st, p, nil, note{"Normal", "A", "a", "", now}, note{"Normal", "A", "a", "", now}, note{"Normal", "B", "b", "", now})
	known = commitNotes(t, st, p, known, note{"Normal", "A", "a", "", now.Add(time.Second)})
	if got, want := stored(t, st, p), []string{"A x3", "B x1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	var many []note
	for i := range 2 * maxEvents {
		many = append(many, note{"Normal", "C", fmt.Sprint(i), "", now.Add(time.Duration(i) * time.Second)})
	}
	known = commitNotes(t, st, p, known, many...)
	if got := stored(t, st, p); len(got) != maxEvents || len(known) != maxEvents {
		t.Errorf("got %d stored and %d known events, want %d", len(got), len(known), maxEvents)
	}

	// One that another pod's commit has swept, before the clock was set back, is
	// gone already.
	if _, err := st.Update(func(tx *store.Tx) error { return tx.Delete(eventKey(known[0])) }); err != nil {
		t.Fatal(err)
	}
	known = commitNotes(t, st, p, known, note{"Normal", "D", "d", "", now.Add(time.Hour)})
	if got := stored(t, st, p); len(got) != maxEvents || len(known) != maxEvents {
		t.Errorf("got %d stored and %d known events, want %d", len(got), len(known), maxEvents)
	}
}

func TestEventsExpire(t *testing.T) {
	st, p, now := openStore(t), onePod(), time.Now()
	old := now.Add(-eventTTL - time.Minute)
	known := commitNotes(t, st, p, nil, note{"Normal", "Old", "", "", old}, note{"Normal", "Young", "", "", now})
	known = commitNotes(t, st, p, known, note{"Normal", "Young", "", "", now})
	if got, want := stored(t, st, p), []string{"Young x2"}; !slices.Equal(got, want) || len(known) != 1 {
		t.Errorf("got %q, want %q", got, want)
	}

	// Those of a pod that commits no more go with another's commit, now and then.
	finished := onePod()
	finished.Name, finished.UID = "job", "v"
	commitNotes(t, st, finished, nil, note{"Normal", "Old", "", "", old})
	s := &Supervisor{}
	sweep := func(now time.Time) {
		if _, err := st.Update(func(tx *store.Tx) error { return s.sweepEvents(tx, now) }); err != nil {
			t.Fatal(err)
		}
	}
	s.swept.Store(now.Unix())
	sweep(now.Add(sweepEvery / 2))
	if got := stored(t, st, finished); len(got) != 1 {
		t.Errorf("swept too early: %q", got)
	}
	sweep(now.Add(sweepEvery + time.Second))
	if got := stored(t, st, finished); len(got) != 0 {
		t.Errorf("not swept: %q", got)
	}
	if got := stored(t, st, p); len(got) != 1 {
		t.Errorf("swept too much: %q", got)
	}
}
