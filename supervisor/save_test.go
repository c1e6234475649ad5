package supervisor

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/store"
)

// TestSaveAgain: a commit that failed, though the disk has it, and that is made
// again, counts once.
func TestSaveAgain(t *testing.T) {
	w := idleWorker(t, &Supervisor{store: openStore(t)})
	_, err := w.s.store.Update(func(tx *store.Tx) error {
		return errors.Join(tx.Put(runKey(w.namespace, w.name), encode(w.run)), tx.Put(podKey(w.namespace, w.name), encodeObject(w.pod)))
	})
	if err != nil {
		t.Fatal(err)
	}
	save := func(change func(*corev1.Pod, *run)) {
		t.Helper()
		if err := w.trySave(change); err != nil {
			t.Fatal(err)
		}
	}
	for i := range maxEvents {
		w.note("Old", "", fmt.Sprint(i))
	}
	save(nil)
	save(func(_ *corev1.Pod, r *run) { r.Restarting = "b" })

	w.note("New", "", "")
	w.note("Old", "", "5")
	pod, run, events, notes := w.pod, w.run, w.events, slices.Clone(w.notes)
	save(countRestart)
	w.pod, w.run, w.events, w.notes = pod, run, events, notes // as after an error
	save(countRestart)

	o, err := w.s.store.Get(podKey(w.namespace, w.name))
	if err != nil {
		t.Fatal(err)
	}
	p, err := DecodePod(o)
	if err != nil {
		t.Fatal(err)
	}
	if n := statusOf(p, "b").RestartCount; n != 1 {
		t.Errorf("got %d restarts, want 1", n)
	}
	got := map[string]int{}
	for _, e := range stored(t, w.s.store, p) {
		got[e]++
	}
	// The oldest has made room for the new one.
	for e, want := range map[string]int{"Old x1": maxEvents - 2, "Old x2": 1, "New x1": 1} {
		if got[e] != want {
			t.Errorf("got %d events %q, want %d", got[e], e, want)
		}
	}
	if len(w.events) != maxEvents {
		t.Errorf("%d events are known, want %d", len(w.events), maxEvents)
	}
}

func countRestart(p *corev1.Pod, r *run) { r.count(p) }
