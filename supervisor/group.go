package supervisor

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// cause is why a pod's containers are made again.
type cause struct {
	container string // the restart is counted on it
	id        string // its id, when it ended
	end       *end   // how it ended; nil when it did not
	what      string // why, when it did not end
	byPerson  bool   // somebody asked for it: no back-off
}

// restart decides one restart of the pod and begins it. Nothing is killed or
// made before the decision is in the store; it is counted by the commit that
// lets the new containers be made, as the kubelet counts a start and not a
// wait.
func (w *worker) restart(ctx context.Context, c cause) {
	now := time.Now()
	wait, history := w.run.History.Next(now, c.byPerson)
	w.explain("GroupRestart", c, madeAgain(w.pod), wait)
	w.fault("restart.decide")
	unmade := w.unmade()
	w.to(ctx, Restarting, func(p *corev1.Pod, r *run) {
		if c.end != nil {
			setTerminated(statusOf(p, c.container), c.id, *c.end)
		}
		r.Restarting = c.container
		r.ByRule = c.end != nil && matchingRule(specIn(p, c.container), c.end.code) == corev1.ContainerRestartRuleActionRestartAllContainers
		r.History, r.NotBefore, r.Retries = history, now.Add(wait), 0
		r.forget(c.id)
		for name := range r.Incarnation {
			if !unmade[name] {
				r.Incarnation[name]++
			}
		}
		for name, a := range r.Alone {
			r.Alone[name] = alone{History: a.History}
		}
	})
	w.fault("restart.decided")
}

// madeAgain says what a restart of p does. An init container that fails is
// often the only one that was made before.
func madeAgain(p *corev1.Pod) string {
	n := 0
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, s := range list {
			if s.ContainerID != "" {
				n++
			}
		}
	}
	if n < 2 {
		return "the pod's containers are made again"
	}
	return fmt.Sprintf("all %d containers are made again", n)
}

// unmade are the containers whose current incarnation was not made yet: they
// wait to be made again alone. They keep it, so that "logs --previous" finds
// what ran last.
func (w *worker) unmade() map[string]bool {
	names := map[string]bool{}
	for name, a := range w.run.Alone {
		if a.Due && w.container(name) == nil {
			names[name] = true
		}
	}
	return names
}

// explain notes for "describe" which container ended how, and what is done
// about it.
func (w *worker) explain(reason string, c cause, what string, wait time.Duration) {
	why := c.what
	if c.end != nil {
		why = fmt.Sprintf("container %s %s", c.container, c.end)
		if c.byPerson {
			why += " (stopped by a person)"
		}
	}
	if wait > 0 {
		what += fmt.Sprintf(" in %s", wait.Round(time.Second))
	}
	w.note(reason, containerField(w.pod, c.container), why+"; "+what)
}

// restarting removes every container that is not of the current incarnation.
// What it finds may be running, dead, or left by a node that was killed here.
func (w *worker) restarting(ctx context.Context) {
	grace := time.Duration(0)
	if d, err := time.ParseDuration(w.pod.Annotations[AnnotationRestartGrace]); err == nil {
		grace = d
	}
	w.forgetExits()
	var old []*container
	for _, c := range w.containers() {
		if c.id != w.run.id(c.name) {
			old = append(old, c)
		}
	}
	w.stopAll(ctx, old, time.Now().Add(grace))
	if ctx.Err() != nil {
		return
	}
	wait := time.Until(w.run.NotBefore)
	next := Starting
	if wait > 0 {
		next = BackOff
	}
	w.fault("restart.count")
	w.to(ctx, next, func(p *corev1.Pod, r *run) {
		for _, c := range old {
			s := statusOf(p, c.name)
			if c.isOver() && s.State.Terminated == nil {
				setTerminated(s, c.id, c.end)
			}
		}
		for _, c := range allContainers(p) { // what vanished, as in a reboot
			if s := statusOf(p, c.Name); s.State.Running != nil {
				setTerminated(s, strings.TrimPrefix(s.ContainerID, idScheme), unknownEnd(time.Now()))
			}
		}
		if next == Starting {
			r.count(p)
		} else {
			setCrashLoop(p, r.Restarting, wait)
		}
	})
	w.fault("restart.counted")
	w.removeAll(old)
	if next == BackOff {
		name := first(w.run.Restarting, w.pod.Spec.Containers[0].Name)
		w.warn("BackOff", containerField(w.pod, name), fmt.Sprintf("Back-off restarting failed container %s in pod %s", name, podWords(w.pod)))
	}
}

// setCrashLoop has the containers of p, which ended together, wait for the
// end of the back-off. Init containers that completed show so until then.
func setCrashLoop(p *corev1.Pod, name string, wait time.Duration) {
	culprit, at := roleOf(p, name)
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		s := statusOf(p, c.Name)
		switch {
		case culprit == Init && i > at:
			setWaiting(s, reasonInitializing, "")
		case isSidecar(c) || i == at:
			setWaiting(s, reasonCrashLoop, crashLoopMessage(p, c.Name, wait))
		}
	}
	for _, c := range p.Spec.Containers {
		if culprit == Init {
			setWaiting(statusOf(p, c.Name), reasonInitializing, "")
		} else {
			setWaiting(statusOf(p, c.Name), reasonCrashLoop, crashLoopMessage(p, c.Name, wait))
		}
	}
}

func crashLoopMessage(p *corev1.Pod, container string, wait time.Duration) string {
	return fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", wait.Round(time.Second), container, podWords(p))
}

// podWords names a pod as the kubelet's messages do.
func podWords(p *corev1.Pod) string { return fmt.Sprintf("%s_%s(%s)", p.Name, p.Namespace, p.UID) }

// forgetExits drops the ends that wait to be judged: a counted restart has
// judged them.
func (w *worker) forgetExits() {
	for {
		select {
		case <-w.exits:
		default:
			return
		}
	}
}

// backingOff waits until the pod may be started again. After a failed attempt
// to start, its sidecars may run meanwhile.
func (w *worker) backingOff(ctx context.Context) {
	over := time.NewTimer(time.Until(w.run.NotBefore))
	defer over.Stop()
	// As kubectl shows it: the error first, that one waits for the next try after.
	settle := time.NewTimer(2 * time.Second)
	defer settle.Stop()
	deadline, stop := w.deadline()
	defer func() { stop() }()
	written, forget := w.awaitObjects(ctx)
	defer forget()
	waits, end := context.WithCancel(ctx)
	defer end()
	network := w.s.network.Await(waits, w.pod.Annotations[AnnotationNetwork])
	for w.run.State == BackOff {
		select {
		case <-ctx.Done():
			return
		case <-deadline:
			w.expire(ctx)
		case <-w.portsFreed():
			w.to(ctx, Starting, func(p *corev1.Pod, r *run) { r.count(p) })
		case <-network:
			w.to(ctx, Starting, func(p *corev1.Pod, r *run) { r.count(p) })
		case <-written:
			w.to(ctx, Starting, func(p *corev1.Pod, r *run) { r.count(p) })
		case <-over.C:
			w.to(ctx, Starting, func(p *corev1.Pod, r *run) { r.count(p) })
		case <-settle.C:
			if w.waitsFor(reasonErrPull) {
				w.pullBacksOff(ctx)
			}
		case c := <-w.exits:
			w.ended(ctx, c)
		case call := <-w.calls:
			call()
		case <-w.wake:
			if w.deletionRequested() {
				return
			}
			w.reload(ctx)
			stop()
			deadline, stop = w.deadline()
		}
	}
}
