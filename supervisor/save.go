package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/store"
)

// to moves the pod to state and saves the move with what change makes of the
// pod and its run; nil changes nothing more.
func (w *worker) to(ctx context.Context, state State, change func(*corev1.Pod, *run)) {
	if _, err := w.run.State.move(state); err != nil {
		w.log.Error("refused", "err", err)
		panic(err)
	}
	w.save(ctx, func(p *corev1.Pod, r *run) {
		r.State = state
		if change != nil {
			change(p, r)
		}
	})
}

// save commits change to the stored pod and run together with the events
// noted since the last commit. While the store cannot be written (a full
// disk, say) it tries again: going on without the commit would break what
// doc.go promises. It gives up only when ctx ends.
func (w *worker) save(ctx context.Context, change func(*corev1.Pod, *run)) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		err := w.trySave(change)
		if err == nil {
			return
		}
		if errors.Is(err, store.ErrNotFound) {
			w.run.State = Gone // nobody but deleting removes it: the store was reset
			return
		}
		w.log.Error("cannot save, trying again", "err", err)
		if !pause(ctx, wait) {
			return
		}
	}
}

func (w *worker) trySave(change func(*corev1.Pod, *run)) error {
	var p *corev1.Pod
	var r *run
	events := w.events
	notes := w.takeNotes()
	_, err := w.s.store.Update(func(tx *store.Tx) error {
		o, err := tx.Get(podKey(w.namespace, w.name))
		if err != nil {
			return err
		}
		if p, err = DecodePod(o); err != nil {
			return err
		}
		// From what was acknowledged, as the run: a commit that failed may be
		// stored all the same, and change counts once.
		p.Status = *w.pod.Status.DeepCopy()
		r = w.run.clone()
		if change != nil {
			change(p, r)
		}
		putAddress(p, w.net)
		r.IP = first(p.Status.PodIP, r.IP)
		refresh(p, r, time.Now())
		if err := tx.Put(runKey(w.namespace, w.name), encode(r)); err != nil {
			return err
		}
		events, err = putEvents(tx, aboutPod(p), w.s.node, events, notes)
		if err != nil {
			return err
		}
		if err := w.s.sweepEvents(tx, time.Now()); err != nil {
			return err
		}
		return tx.Put(podKey(w.namespace, w.name), encodeObject(p))
	})
	if err != nil {
		w.putNotes(notes)
		return err
	}
	w.pod, w.run, w.events = p, r, events
	return nil
}

// note and warn keep an event for the next commit. Safe for concurrent use:
// containers are made in parallel.
func (w *worker) note(reason, field, message string) {
	w.putNotes([]note{{corev1.EventTypeNormal, reason, message, field, time.Now()}})
}

func (w *worker) warn(reason, field, message string) {
	w.putNotes([]note{{corev1.EventTypeWarning, reason, message, field, time.Now()}})
}

func (w *worker) putNotes(notes []note) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notes = append(w.notes, notes...)
}

func (w *worker) takeNotes() []note {
	w.mu.Lock()
	defer w.mu.Unlock()
	notes := w.notes
	w.notes = nil
	return notes
}

// fault is a fault point between two steps that cannot fail: tests kill the
// node there.
func (w *worker) fault(point string) {
	if err := fault.Point(point); err != nil {
		w.log.Warn("fault point of a step that cannot fail", "err", err)
	}
}

// retryLater logs err and waits a little; the caller's state stays, so that
// life enters it again.
func (w *worker) retryLater(ctx context.Context, what string, err error) {
	w.log.Error(what+", trying again", "err", err)
	w.warn("FailedKillPod", "", fmt.Sprintf("%s: %v", what, err))
	w.save(ctx, nil)
	pause(ctx, time.Second)
}

// pause waits for d and tells whether ctx lasted that long.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
