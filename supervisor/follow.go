package supervisor

import (
	"context"
	"errors"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/store"
)

// revisionOf is the revision of the store at which p was saved last.
func revisionOf(p *corev1.Pod) uint64 {
	n, _ := strconv.ParseUint(p.ResourceVersion, 10, 64) // "" of a pod that was never saved: from now
	return n
}

// follower looks after the volumes of one pod: it writes them anew when what
// they show changes, and measures those with a limit. It is there only for
// pods with such volumes.
type follower struct {
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// follow begins to look after the pod's volumes, from the revision that they
// were written at or an earlier one; stale tells that nobody knows. It may be
// called again.
func (w *worker) follow(since uint64, stale bool) {
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
	measured := w.measured()
	if len(keys)+len(measured) == 0 {
		return
	}
	ctx, stop := context.WithCancel(w.ctx)
	w.follower = &follower{stop: stop}
	if len(keys) > 0 {
		changed := w.s.changes(ctx, keys, since)
		w.follower.wg.Go(func() {
			if stale {
				w.refreshVolumes(ctx)
			}
			for {
				select {
				case <-changed:
					w.refreshVolumes(ctx)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	if len(measured) > 0 {
		w.follower.wg.Go(func() { w.measure(ctx, measureInterval, measured) })
	}
}

// unfollow ends that; then nothing writes into the volumes any more.
func (w *worker) unfollow() {
	if w.follower != nil {
		w.follower.stop()
		w.follower.wg.Wait()
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
// goroutine and so reads the stored pod, not the worker's. ctx ends the telling
// of what went wrong.
func (w *worker) refreshVolumes(ctx context.Context) {
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
		// Now, as the pod may have nothing else to save for a long time.
		select {
		case w.calls <- func() { w.save(w.ctx, nil) }:
		case <-ctx.Done():
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
