package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/sandbox"
)

// worker is the supervisor of one pod: the goroutine that alone changes what
// the pod has on this machine.
type worker struct {
	s               *Supervisor
	namespace, name string
	uid             types.UID
	ctx             context.Context // of the worker's goroutines: ends with the node
	log             *slog.Logger

	wake  chan struct{}   // one slot: somebody changed the stored pod
	exits chan *container // ended containers, to be judged
	calls chan func()     // run by the goroutine while the pod is Running
	done  chan struct{}   // closed when the worker has ended
	idle  atomic.Bool     // the pod is Finished: it needs no node

	// What the goroutine knows; nobody else reads it.
	pod    *corev1.Pod // as last saved
	run    *run        // likewise
	events []*corev1.Event
	box    *sandbox.Sandbox
	net    *cni.Result

	attempt  uint64                  // the revision of the last attempt to start
	found    map[string]*image.Image // of image volumes
	follower *follower               // nil: no volume shows what may change

	mu       sync.Mutex
	notes    []note                // events that wait for the next commit
	live     map[string]*container // by name; the containers there are now
	abort    context.CancelFunc    // ends the start that is going on
	removing sync.WaitGroup        // ended containers being removed
	deletion *time.Time            // when a deleted pod's containers are killed
}

func newWorker(s *Supervisor, p *corev1.Pod, r *run) *worker {
	return &worker{
		s: s, namespace: p.Namespace, name: p.Name, uid: p.UID,
		log:   s.log.With("pod", p.Namespace+"/"+p.Name),
		wake:  make(chan struct{}, 1),
		exits: make(chan *container, 4*len(allContainers(p))),
		calls: make(chan func()),
		done:  make(chan struct{}),
		pod:   p, run: r,
		live: map[string]*container{},
	}
}

// life is the life of the pod, or the rest of it after a restart of the node.
// It returns when the pod is Gone, or when ctx ends: then the pod goes on
// without this node.
func (w *worker) life(ctx context.Context) {
	defer close(w.done)
	defer w.removing.Wait()
	defer w.unfollow()
	w.ctx = ctx
	for err := w.recover(ctx); err != nil; err = w.recover(ctx) {
		w.retryLater(ctx, "cannot remove what an earlier node left", err)
		if ctx.Err() != nil {
			return
		}
	}
	if w.pod.DeletionTimestamp != nil {
		w.requestDeletion(w.pod.DeletionTimestamp.Time)
	}
	for ctx.Err() == nil {
		if w.deletionRequested() && w.run.State != Deleting && w.run.State != Gone {
			w.to(ctx, Deleting, nil)
		}
		w.log.Debug("state", "state", w.run.State)
		switch w.run.State {
		case Starting:
			w.starting(ctx)
		case Running:
			w.running(ctx)
		case Restarting:
			w.restarting(ctx)
		case BackOff:
			w.backingOff(ctx)
		case Finishing:
			w.finishing(ctx)
		case Finished:
			w.s.waiting.endAll(w)
			w.idle.Store(true)
			select {
			case <-w.wake:
			case <-ctx.Done():
			}
			w.idle.Store(false)
		case Deleting:
			w.deleting(ctx)
		case Gone:
			return
		}
	}
}

// running waits for what ends the pod's quiet: the end of a container or of
// the sandbox, a deletion, a changed image, the pod's deadline.
func (w *worker) running(ctx context.Context) {
	deadline, stop := w.deadline()
	defer stop()
	w.follow(revisionOf(w.pod), true) // an earlier node started the pod
	for w.run.State == Running {
		select {
		case <-ctx.Done():
			return
		case c := <-w.exits:
			w.ended(ctx, c)
		case call := <-w.calls:
			call()
		case <-w.box.Done():
			w.sandboxGone(ctx)
		case <-deadline:
			w.expire(ctx)
		case <-w.wake:
			if w.deletionRequested() {
				return
			}
			w.reload(ctx)
		}
	}
}

// deadline returns a channel that tells when spec.activeDeadlineSeconds, if it
// is set, have passed since the pod's start.
func (w *worker) deadline() (expired <-chan time.Time, stop func()) {
	limit := w.pod.Spec.ActiveDeadlineSeconds
	if limit == nil {
		return nil, func() {}
	}
	t := time.NewTimer(time.Until(w.pod.Status.StartTime.Add(time.Duration(*limit) * time.Second)))
	return t.C, func() { t.Stop() }
}

func (w *worker) expire(ctx context.Context) {
	w.finish(ctx, corev1.PodFailed, "DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
}

// ended judges the end of one container of the running pod.
func (w *worker) ended(ctx context.Context, c *container) {
	if c.id != w.run.id(c.name) {
		return // of an earlier incarnation
	}
	if slices.ContainsFunc(w.pod.Spec.InitContainers, func(i corev1.Container) bool { return i.Name == c.name }) {
		return // initialize has judged it
	}
	switch Judge(w.pod.Spec.RestartPolicy, c.end.code, w.othersCompleted(c.name)) {
	case Restart:
		w.restart(ctx, cause{container: c.name, id: c.id, end: &c.end, byPerson: w.run.ByPerson[c.id]})
	case Keep:
		w.save(ctx, func(p *corev1.Pod, r *run) { setTerminated(statusOf(p, c.name), c.id, c.end) })
		w.removeAll([]*container{c})
	case Succeed:
		w.finish(ctx, corev1.PodSucceeded, "", "")
	case Fail:
		w.finish(ctx, corev1.PodFailed, "", "")
	}
}

// sandboxGone makes the whole pod again, sandbox included: its pause process
// died, and no new container could join what the others still share.
func (w *worker) sandboxGone(ctx context.Context) {
	w.note("SandboxChanged", "", "Pod sandbox changed, it will be killed and re-created.")
	if w.pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
		w.finish(ctx, corev1.PodFailed, "SandboxChanged", "the sandbox of the pod died")
		return
	}
	w.restart(ctx, cause{container: w.pod.Spec.Containers[0].Name, what: "the pod's sandbox died"})
}

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
	one := w.pod.Annotations[AnnotationRestartScope] == "container" && c.end != nil
	w.explainRestart(c, one, wait)
	w.fault("restart.decide")
	w.to(ctx, Restarting, func(p *corev1.Pod, r *run) {
		if c.end != nil {
			setTerminated(statusOf(p, c.container), c.id, *c.end)
		}
		r.Restarting = c.container
		r.History, r.NotBefore, r.Retries = history, now.Add(wait), 0
		delete(r.ByPerson, c.id)
		for name := range r.Incarnation {
			if !one || name == c.container {
				r.Incarnation[name]++
			}
		}
		if !one {
			r.InitDone = 0
		}
	})
	w.fault("restart.decided")
}

// explainRestart notes for "describe" which container ended how, and what is
// done about it.
func (w *worker) explainRestart(c cause, one bool, wait time.Duration) {
	why := c.what
	if c.end != nil {
		why = fmt.Sprintf("container %s %s", c.container, c.end)
		if c.byPerson {
			why += " (stopped by a person)"
		}
	}
	what := fmt.Sprintf("all %d containers are made again", len(w.run.Incarnation))
	reason := "GroupRestart"
	if one {
		what, reason = "it is made again", "ContainerRestart"
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
		if next == Starting {
			r.count(p)
		}
		for _, c := range old {
			s := statusOf(p, c.name)
			if c.isOver() && s.State.Terminated == nil {
				setTerminated(s, c.id, c.end)
			}
		}
		for _, c := range allContainers(p) {
			if s := statusOf(p, c.Name); s.ContainerID != idScheme+r.id(c.Name) || s.State.Running == nil {
				if wait > 0 {
					setWaiting(s, reasonCrashLoop, fmt.Sprintf("back-off %s restarting failed pod=%s_%s(%s)", wait.Round(time.Second), p.Name, p.Namespace, p.UID))
				} else {
					setWaiting(s, reasonCreating, "")
				}
			}
		}
	})
	w.fault("restart.counted")
	w.removeAll(old)
	if next == BackOff {
		w.warn("BackOff", "", fmt.Sprintf("Back-off restarting failed pod %s in %s", w.name, wait.Round(time.Second)))
	}
}

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

// backingOff waits until the pod may be started again.
func (w *worker) backingOff(ctx context.Context) {
	over := time.NewTimer(time.Until(w.run.NotBefore))
	defer over.Stop()
	// As kubectl shows it: the error first, that one waits for the next try after.
	settle := time.NewTimer(2 * time.Second)
	defer settle.Stop()
	deadline, stop := w.deadline()
	defer stop()
	written, forget := w.awaitObjects(ctx)
	defer forget()
	for {
		select {
		case <-ctx.Done():
			return
		case <-deadline:
			w.expire(ctx)
			return
		case <-written:
			w.to(ctx, Starting, func(p *corev1.Pod, r *run) { r.count(p) })
			return
		case <-over.C:
			w.to(ctx, Starting, func(p *corev1.Pod, r *run) { r.count(p) })
			return
		case <-settle.C:
			if w.waitsFor(reasonErrPull) {
				w.save(ctx, func(p *corev1.Pod, r *run) { pullBackOff(p) })
			}
		case <-w.wake:
			if w.deletionRequested() {
				return
			}
			if w.reload(ctx); w.run.State != BackOff {
				return
			}
		}
	}
}

// finish decides the end of the pod.
func (w *worker) finish(ctx context.Context, phase corev1.PodPhase, reason, message string) {
	w.to(ctx, Finishing, func(p *corev1.Pod, r *run) {
		r.Ended = &ended{Phase: phase, Reason: reason, Message: message}
		for _, c := range w.containers() {
			if c.isOver() {
				setTerminated(statusOf(p, c.name), c.id, c.end)
			}
		}
	})
}

// finishing stops what still runs, with grace, and gives back everything but
// the object and the logs.
func (w *worker) finishing(ctx context.Context) {
	rest := w.containers()
	w.stopAll(ctx, rest, time.Now().Add(w.gracePeriod()))
	if ctx.Err() != nil || w.deletionRequested() {
		return
	}
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
			// Containers that never came to run keep no state that says they might.
			if s := statusOf(p, c.Name); s.State.Running != nil {
				setTerminated(s, r.id(c.Name), unknownEnd(time.Now()))
			}
		}
	})
}

// deleting removes everything the pod has, the object last: as long as
// something is left, "get pods" shows it.
func (w *worker) deleting(ctx context.Context) {
	all := w.containers()
	for _, c := range all {
		if !c.isOver() {
			w.note("Killing", containerField(w.pod, c.name), "Stopping container "+c.name)
		}
	}
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

// reload takes up what a person changed in the stored pod. A new image makes
// the containers again; it counts as a restart, as in Kubernetes.
func (w *worker) reload(ctx context.Context) {
	o, err := w.s.store.Get(podKey(w.namespace, w.name))
	if err != nil {
		return // deleted under us: the next wake tells
	}
	p, err := DecodePod(o)
	if err != nil {
		w.log.Error("reload", "err", err)
		return
	}
	w.pod = p
	for _, c := range p.Spec.Containers {
		pin, pinned := w.run.Images[c.Name]
		if !pinned || pin.Reference == c.Image {
			continue
		}
		if w.run.State == BackOff {
			w.to(ctx, Starting, nil)
			return
		}
		if w.run.State == Running {
			w.restart(ctx, cause{container: c.Name, what: "the image of container " + c.Name + " was changed", byPerson: true})
			return
		}
	}
}
