package supervisor

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// deadline returns a channel that tells when spec.activeDeadlineSeconds, if it
// is set, have passed since the pod's start.
func (w *worker) deadline() (expired <-chan time.Time, stop func()) {
	at, limited := w.activeUntil()
	if !limited {
		return nil, func() {}
	}
	t := time.NewTimer(time.Until(at))
	return t.C, func() { t.Stop() }
}

// activeUntil is when the pod has been active for as long as it may.
func (w *worker) activeUntil() (at time.Time, limited bool) {
	limit := w.pod.Spec.ActiveDeadlineSeconds
	if limit == nil {
		return time.Time{}, false
	}
	return w.pod.Status.StartTime.Add(time.Duration(*limit) * time.Second), true
}

// expire ends a pod that was active for as long as it may.
func (w *worker) expire(ctx context.Context) {
	const message = "Pod was active on the node longer than the specified deadline"
	w.note("DeadlineExceeded", "", message)
	w.finish(ctx, corev1.PodFailed, "DeadlineExceeded", message)
}

// finish decides the end of the pod.
func (w *worker) finish(ctx context.Context, phase corev1.PodPhase, reason, message string) {
	w.noteKilling(w.containers())
	w.fault("finish.decide")
	until := time.Now().Add(w.gracePeriod())
	w.to(ctx, Finishing, func(p *corev1.Pod, r *run) {
		r.Ended = &ended{Phase: phase, Reason: reason, Message: message, Until: until}
		for _, c := range w.containers() {
			if c.isOver() && c.id == r.id(c.name) {
				setTerminated(statusOf(p, c.name), c.id, c.end)
			}
		}
	})
	w.fault("finish.decided")
}

// finishing stops what still runs, sidecars last, with what is left of the
// grace period, and gives back everything but the object and the logs.
func (w *worker) finishing(ctx context.Context) {
	rest := w.containers()
	w.stopAll(ctx, rest, w.run.Ended.Until)
	if ctx.Err() != nil || w.deletionRequested() {
		return
	}
	w.fault("finish.stopped")
	if err := w.tearDown(ctx); err != nil {
		w.retryLater(ctx, "cannot remove what a finished pod had", err)
		return
	}
	w.to(ctx, Finished, func(p *corev1.Pod, r *run) {
		for _, c := range rest {
			if s := statusOf(p, c.name); c.isOver() && s.State.Terminated == nil {
				setTerminated(s, c.id, c.end)
			}
		}
		for _, c := range allContainers(p) {
			settle(statusOf(p, c.Name), r.id(c.Name))
		}
	})
}

// settle leaves the status of a container in a pod that has finished with no
// state that says it might still run. One that waited to be made again ended as
// it did last; one that never ran has no state, and the pod's reason is shown.
func settle(s *corev1.ContainerStatus, id string) {
	switch last := s.LastTerminationState; {
	case s.State.Running != nil:
		setTerminated(s, id, unknownEnd(time.Now()))
	case s.State.Waiting != nil && last.Terminated != nil:
		s.State, s.LastTerminationState = last, corev1.ContainerState{}
	case s.State.Waiting != nil:
		s.State = corev1.ContainerState{}
	}
}

// deleting removes everything the pod has, the object last: as long as
// something is left, "get pods" shows it.
func (w *worker) deleting(ctx context.Context) {
	all := w.containers()
	w.noteKilling(all)
	w.save(ctx, nil)
	w.stopAll(ctx, all, w.deletionDeadline())
	if ctx.Err() != nil {
		return
	}
	if err := w.tearDown(ctx); err != nil {
		w.retryLater(ctx, "cannot remove what a deleted pod had", err)
		return
	}
	w.fault("delete.object")
	if err := w.s.forget(w); err != nil {
		w.retryLater(ctx, "cannot remove a deleted pod from the store", err)
		return
	}
	w.run.State = Gone
}

// noteKilling tells of the containers that are about to be stopped.
func (w *worker) noteKilling(all []*container) {
	for _, c := range all {
		if c.running.Load() && !c.isOver() {
			w.note("Killing", c.field, "Stopping container "+c.name)
		}
	}
}
