package supervisor

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
)

// errDecided ends an attempt to start in which the end of a container decided
// where the pod goes.
var errDecided = errors.New("the end of a container decided otherwise")

// initialize runs the init containers that are not done, one after the other:
// one that ends is done when it completed, a sidecar when it has started. The
// sidecars that run meanwhile are looked after. One that fails ends the
// attempt: the pod restarts or has failed.
func (w *worker) initialize(ctx context.Context, b builder) error {
	if len(w.pod.Spec.InitContainers) == 0 {
		return nil
	}
	if err := w.findSidecars(ctx, b); err != nil {
		return err
	}
	for n := w.run.InitDone; n < len(w.pod.Spec.InitContainers); n = w.run.InitDone {
		spec := &w.pod.Spec.InitContainers[n]
		if err := w.beginInit(ctx, b, spec); err != nil {
			return err
		}
		for w.run.InitDone == n {
			if err := w.attend(ctx, spec); err != nil {
				return err
			}
		}
	}
	return nil
}

// findSidecars takes up the sidecars that started before a crash or a failed
// attempt, and judges the end of those that are gone.
func (w *worker) findSidecars(ctx context.Context, b builder) error {
	for i := range w.run.InitDone {
		spec := &w.pod.Spec.InitContainers[i]
		if !isSidecar(spec) || w.run.Alone[spec.Name].Due {
			continue
		}
		if c := b.find(spec); c != nil && c.isOver() {
			if w.ended(ctx, c); w.run.State != Starting {
				return errDecided
			}
		}
	}
	w.makeDue(ctx)
	return ctx.Err()
}

// beginInit makes the next init container, unless its end has decided when
// that is to be.
func (w *worker) beginInit(ctx context.Context, b builder, spec *corev1.Container) (err error) {
	if w.run.Alone[spec.Name].Due {
		return nil
	}
	c := b.find(spec)
	if c == nil {
		if c, err = b.create(ctx, spec); err != nil {
			return err
		}
	}
	w.fault("init.start")
	if err := w.startAll(ctx, c); err != nil {
		return err
	}
	if !c.isOver() && !w.wasRunning(c.name, c.id) {
		w.save(ctx, func(p *corev1.Pod, r *run) {
			setRunning(statusOf(p, c.name), c)
			r.sidecarStarted(p, c)
		})
		w.fault("init.started")
	}
	return nil
}

// sidecarStarted counts c among the init containers that are done if it is a
// sidecar which has started.
func (r *run) sidecarStarted(p *corev1.Pod, c *container) {
	if role, n := roleOf(p, c.name); role == Sidecar && n == r.InitDone && c.isUp() {
		r.InitDone = n + 1
	}
}

// attend waits for one thing that happens while the init container of spec is
// not done, and sees to it.
func (w *worker) attend(ctx context.Context, spec *corev1.Container) error {
	due, stop := w.due()
	defer stop()
	var up <-chan struct{}
	c := w.container(spec.Name)
	if c != nil && isSidecar(spec) && !c.isOver() {
		up = c.up
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-up:
		w.save(ctx, func(p *corev1.Pod, r *run) {
			setRunning(statusOf(p, c.name), c)
			r.sidecarStarted(p, c)
		})
	case ended := <-w.exits:
		w.ended(ctx, ended)
	case call := <-w.calls:
		call()
	case <-due:
		w.makeDue(ctx)
	}
	if w.run.State != Starting {
		return errDecided
	}
	return nil
}
