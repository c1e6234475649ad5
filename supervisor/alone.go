package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// alone is the restart of one container while the rest of its pod goes on. Like
// a group restart it is two commits: the decision gives the container its next
// incarnation, the second raises its restartCount before it is made.
type alone struct {
	History   History   `json:"history,omitzero"`
	Due       bool      `json:"due,omitempty"`     // to be made again, until it runs
	Counted   bool      `json:"counted,omitempty"` // restartCount has it
	NotBefore time.Time `json:"notBefore,omitzero"`
	Retries   int       `json:"retries,omitempty"` // failed attempts to make it
}

// restartAlone decides the restart of the one container that ended.
func (w *worker) restartAlone(ctx context.Context, c *container) {
	now := time.Now()
	byPerson := w.run.ByPerson[c.id]
	history := w.run.Alone[c.name].History
	history.Started = c.started
	wait, history := history.Next(now, byPerson)
	w.explain("ContainerRestart", cause{container: c.name, id: c.id, end: &c.end, byPerson: byPerson}, "it is made again", wait)
	w.fault("alone.decide")
	w.save(ctx, func(p *corev1.Pod, r *run) {
		s := statusOf(p, c.name)
		setTerminated(s, c.id, c.end)
		if wait > 0 {
			setWaiting(s, reasonCrashLoop, crashLoopMessage(p, c.name, wait))
		} else {
			setWaiting(s, c.role.waits(), "")
		}
		r.Incarnation[c.name]++
		r.forget(c.id)
		r.Alone[c.name] = alone{History: history, Due: true, NotBefore: now.Add(wait)}
	})
	w.fault("alone.decided")
	w.removeAll([]*container{c})
	if wait > 0 {
		w.warn("BackOff", c.field, fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.name, podWords(w.pod)))
	}
}

// due returns a channel that tells when the next container is to be made again
// alone; it is nil when none is.
func (w *worker) due() (due <-chan time.Time, stop func()) {
	var next time.Time
	for _, a := range w.run.Alone {
		if a.Due && (next.IsZero() || a.NotBefore.Before(next)) {
			next = a.NotBefore
		}
	}
	if next.IsZero() {
		return nil, func() {}
	}
	t := time.NewTimer(time.Until(next))
	return t.C, func() { t.Stop() }
}

// makeDue makes the containers whose wait is over.
func (w *worker) makeDue(ctx context.Context) {
	state := w.run.State
	specs := allContainers(w.pod)
	for i := range specs {
		if a := w.run.Alone[specs[i].Name]; !a.Due || time.Now().Before(a.NotBefore) {
			continue
		}
		w.makeAlone(ctx, &specs[i])
		if ctx.Err() != nil || w.run.State != state {
			return
		}
	}
}

// makeAlone makes one container again beside those that run. What an earlier
// node made of it is taken up.
func (w *worker) makeAlone(ctx context.Context, spec *corev1.Container) {
	change := func(f func(s *corev1.ContainerStatus, a *alone)) {
		w.save(w.ctx, func(p *corev1.Pod, r *run) {
			a := r.Alone[spec.Name]
			f(statusOf(p, spec.Name), &a)
			r.Alone[spec.Name] = a
		})
	}
	if !w.run.Alone[spec.Name].Counted {
		w.fault("alone.count")
		change(func(s *corev1.ContainerStatus, a *alone) {
			s.RestartCount++
			a.Counted = true
			role, _ := roleOf(w.pod, spec.Name)
			setWaiting(s, role.waits(), "")
		})
		w.fault("alone.counted")
	}
	state := w.run.State
	c, err := w.makeOne(ctx, spec)
	if ctx.Err() != nil {
		return // the node ends, or a person deletes the pod
	}
	if w.run.State != state {
		return // what happened while its image was pulled decided otherwise
	}
	if err != nil {
		w.makeFailed(ctx, spec.Name, err)
		return
	}
	if c.failedToStart() {
		return // its end waits to be judged
	}
	change(func(s *corev1.ContainerStatus, a *alone) {
		setRunning(s, c)
		a.Due, a.Counted, a.Retries = false, false, 0
	})
}

// makeOne finds or creates one container and lets it run.
func (w *worker) makeOne(ctx context.Context, spec *corev1.Container) (*container, error) {
	images := w.beginPulls(ctx, []corev1.Container{*spec})
	defer images.end()
	if err := images.wait(ctx, false); err != nil {
		return nil, err
	}
	volumes, err := w.prepareVolumes(images.volumeImages())
	if err != nil {
		return nil, err
	}
	w.pin(ctx, images)
	b := builder{w: w, images: images.images, volumes: volumes}
	c := b.find(spec)
	if c == nil {
		if c, err = b.create(ctx, spec); err != nil {
			return nil, err
		}
	}
	return c, w.startAll(ctx, c)
}

// makeFailed says why a container could not be made, and has it tried again
// later.
func (w *worker) makeFailed(ctx context.Context, name string, err error) {
	f := &startError{container: name, reason: reasonCreating, err: err}
	errors.As(err, &f)
	w.warnStartFailed(f)
	made := w.container(name)
	if made != nil {
		w.stopAll(ctx, []*container{made}, time.Now())
	}
	w.save(ctx, func(p *corev1.Pod, r *run) {
		a := r.Alone[name]
		a.Retries++
		a.NotBefore = time.Now().Add(delay(a.Retries))
		r.Alone[name] = a
		if made != nil {
			r.Incarnation[name]++
		}
		setWaiting(statusOf(p, name), f.reason, explain(f.err))
	})
	if made != nil {
		w.removeAll([]*container{made})
	}
}
