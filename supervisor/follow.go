package supervisor

import (
	"context"
	"errors"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/store"
)

// revisionOf is the revision of the store at which p was saved last.
func revisionOf(p *corev1.Pod) uint64 {
	n, _ := strconv.ParseUint(p.ResourceVersion, 10, 64) // "" of a pod that was never saved: from now
	return n
}

// follower writes the volumes of one pod anew when what they show changes. It
// is there only for pods with such volumes.
type follower struct {
	stop context.CancelFunc
	done chan struct{}
}

// follow begins to follow what the pod's volumes show, from the revision that
// they were written at or an earlier one. It may be called again.
func (w *worker) follow(since uint64) {
	if w.follower != nil {
		return
	}
	keys := map[store.Key]bool{}
	for i := range w.pod.Spec.Volumes {
		v := &w.pod.Spec.Volumes[i]
		shownObjects(v, func(kind, name string) {
			keys[store.Key{Kind: kind, Namespace: w.namespace, Name: name}] = true
		})
		if showsPod(v) {
			keys[podKey(w.namespace, w.name)] = true
		}
	}
	if len(keys) == 0 {
		return
	}
	ctx, stop := context.WithCancel(w.ctx)
	f := &follower{stop: stop, done: make(chan struct{})}
	changed := w.s.changes(ctx, keys, since)
	w.follower = f
	w.s.goroutines.Go(func() {
		defer close(f.done)
		for {
			select {
			case <-changed:
				w.refreshVolumes()
			case <-ctx.Done():
				return
			}
		}
	})
}

// unfollow ends it; then nothing writes into the volumes any more.
func (w *worker) unfollow() {
	if w.follower != nil {
		w.follower.stop()
		<-w.follower.done
		w.follower = nil
	}
}

// showsPod tells whether a volume shows fields of the pod.
func showsPod(v *corev1.Volume) bool {
	if v.Projected != nil {
		for _, s := range v.Projected.Sources {
			if s.DownwardAPI != nil {
				return true
			}
		}
	}
	return v.DownwardAPI != nil
}

// refreshVolumes writes what has changed. It runs beside the worker's
// goroutine and so reads the stored pod, not the worker's.
func (w *worker) refreshVolumes() {
	o, err := w.s.store.Get(podKey(w.namespace, w.name))
	if err != nil {
		return // deleted: its volumes go too
	}
	p, err := DecodePod(o)
	if err != nil || p.UID != w.uid {
		return
	}
	if err := w.s.volumes.Refresh(p, objects{s: w.s, pod: p}); err != nil {
		// An object was deleted, or lost a key: what was there stays.
		w.log.Warn("refresh volumes", "err", err)
		for _, err := range joined(err) {
			w.warn("FailedMount", "", explain(err))
		}
	}
}

// awaitObjects returns a channel that tells when an object which the pod
// refers to was written after the pod's last attempt to start, if that is what
// the pod may be waiting for: a pod that backs off from a crash waits for
// nothing but the time.
func (w *worker) awaitObjects(ctx context.Context) (written <-chan struct{}, stop func()) {
	if w.run.Retries == 0 {
		return nil, func() {}
	}
	keys := references(w.pod)
	if len(keys) == 0 {
		return nil, func() {}
	}
	since := w.attempt
	if since == 0 { // an earlier node tried
		since = revisionOf(w.pod)
	}
	ctx, stop = context.WithCancel(ctx)
	return w.s.changes(ctx, keys, since), stop
}

// changes returns a channel that tells, once for all that came since it was
// last read, that an object of keys was written after the revision since. It
// lasts until ctx ends.
func (s *Supervisor) changes(ctx context.Context, keys map[store.Key]bool, since uint64) <-chan struct{} {
	changed := make(chan struct{}, 1)
	tell := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	scopes := map[store.Key]bool{} // kinds and namespaces
	for k := range keys {
		scopes[store.Key{Kind: k.Kind, Namespace: k.Namespace}] = true
	}
	for scope := range scopes {
		s.goroutines.Go(func() {
			for from := since; ctx.Err() == nil; from = 0 {
				watch, err := s.store.Watch(ctx, scope.Kind, scope.Namespace, from)
				var compacted *store.CompactedError
				if errors.As(err, &compacted) {
					continue
				}
				if err != nil {
					return // the store is closed
				}
				if from != since {
					tell() // some changes were missed: look
				}
				for e := range watch.Events() {
					if keys[e.Object.Key] && e.Type != store.Deleted {
						tell()
					}
				}
				if errors.Is(watch.Err(), store.ErrClosed) {
					return
				}
			}
		})
	}
	return changed
}
