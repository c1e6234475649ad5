package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"get.podrun.dev/podrun/cni"
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

	hostNetwork bool
	address     atomic.Pointer[string] // the pod's IP, as soon as it has one

	// What the goroutine knows; nobody else reads it.
	pod    *corev1.Pod // as last saved
	run    *run        // likewise
	events []*corev1.Event
	box    *sandbox.Sandbox
	net    *cni.Result
	ports  *cni.HostPorts   // nil: it has none, or not yet
	served *sandbox.Sandbox // that ports lead to
	freed  <-chan struct{}  // closed when a pod has given up ports since ours were asked for

	attempt  uint64    // the revision of the last attempt to start
	follower *follower // nil: no volume shows what may change

	mu       sync.Mutex
	notes    []note                // events that wait for the next commit
	live     map[string]*container // by name; the containers there are now
	abort    context.CancelFunc    // ends the start that is going on
	removing sync.WaitGroup        // ended containers being removed
	deletion *time.Time            // when a deleted pod's containers are killed
}

func newWorker(s *Supervisor, p *corev1.Pod, r *run) *worker {
	w := &worker{
		s: s, namespace: p.Namespace, name: p.Name, uid: p.UID,
		log:   s.log.With("pod", p.Namespace+"/"+p.Name),
		wake:  make(chan struct{}, 1),
		exits: make(chan *container, 4*len(allContainers(p))),
		calls: make(chan func()),
		done:  make(chan struct{}),
		pod:   p, run: r,
		live:        map[string]*container{},
		hostNetwork: p.Spec.HostNetwork,
	}
	w.address.Store(&p.Status.PodIP)
	return w
}

// life is the life of the pod, or the rest of it after a restart of the node.
// It returns when the pod is Gone, or when ctx ends: then the pod goes on
// without this node.
func (w *worker) life(ctx context.Context) {
	defer close(w.done)
	defer w.removing.Wait()
	defer w.unfollow()
	defer w.closePorts()
	w.ctx = ctx
	// A pod that is deleted meanwhile is removed from what is on disk alone.
	for err := w.recover(ctx); err != nil && !w.deletionRequested(); err = w.recover(ctx) {
		w.retryLater(ctx, "cannot remove what an earlier node left", err)
		if ctx.Err() != nil {
			return
		}
	}
	if w.run.State == Starting && len(w.events) == 0 && len(w.run.Images) == 0 && len(hostPorts(w.pod)) == 0 {
		w.noteScheduled()
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

const eventScheduled = "Scheduled"

func (w *worker) noteScheduled() {
	w.note(eventScheduled, "", fmt.Sprintf("Successfully assigned %s/%s to %s", w.namespace, w.name, w.s.node))
}

// running waits for what ends the pod's quiet: the end of a container or of
// the sandbox, a deletion, a changed image, the pod's deadline.
func (w *worker) running(ctx context.Context) {
	if w.box == nil {
		w.sandboxGone(ctx) // with the machine's last boot
		return
	}
	w.follow(revisionOf(w.pod), true) // an earlier node started the pod
	for w.run.State == Running {
		w.attendRunning(ctx)
		if ctx.Err() != nil || w.deletionRequested() {
			return
		}
	}
}

// attendRunning waits for one thing that happens to the running pod, and sees
// to it.
func (w *worker) attendRunning(ctx context.Context) {
	due, stop := w.due()
	defer stop()
	deadline, stop := w.deadline() // what wakes it may have changed it
	defer stop()
	select {
	case <-ctx.Done():
	case c := <-w.exits:
		w.ended(ctx, c)
	case call := <-w.calls:
		call()
	case <-due:
		startCtx, done := w.abortable(ctx)
		w.makeDue(startCtx)
		done()
	case <-w.box.Done():
		w.sandboxGone(ctx)
	case <-deadline:
		w.expire(ctx)
	case <-w.wake:
		if !w.deletionRequested() {
			w.reload(ctx)
		}
	}
}

// ended judges the end of one container of the pod.
func (w *worker) ended(ctx context.Context, c *container) {
	if w.ctx.Err() != nil {
		return // the next node's to judge
	}
	if c.id != w.run.id(c.name) {
		return // of an earlier incarnation
	}
	if r, n := roleOf(w.pod, c.name); r == Init && n != w.run.InitDone {
		return // judged before
	}
	switch w.judge(c) {
	case RestartGroup:
		w.restart(ctx, cause{container: c.name, id: c.id, end: &c.end, byPerson: w.run.ByPerson[c.id]})
	case RestartAlone:
		w.restartAlone(ctx, c)
	case Keep:
		w.keep(ctx, c)
	case Succeed:
		w.finish(ctx, corev1.PodSucceeded, "", "")
	case Fail:
		w.finish(ctx, corev1.PodFailed, "", "")
	}
}

func (w *worker) judge(c *container) Verdict {
	e := Ending{
		Pod: w.pod.Spec.RestartPolicy, Container: w.specOf(c.name), ExitCode: c.end.code, Condemned: w.run.Condemned[c.id],
		Alone:   w.pod.Annotations[AnnotationRestartScope] == "container",
		MainRun: w.run.State == Running, OthersDone: true,
	}
	e.Role, _ = roleOf(w.pod, c.name)
	for _, other := range w.pod.Spec.Containers {
		if other.Name == c.name {
			continue
		}
		if !w.completed(other.Name) {
			e.OthersDone = false
		} else if lookStatus(w.pod, other.Name).State.Terminated.ExitCode != 0 {
			e.OthersFailed = true
		}
	}
	return Judge(e)
}

// keep leaves a container as it ended. An init container is done with it.
func (w *worker) keep(ctx context.Context, c *container) {
	role, n := roleOf(w.pod, c.name)
	w.save(ctx, func(p *corev1.Pod, r *run) {
		s := statusOf(p, c.name)
		setTerminated(s, c.id, c.end)
		if role == Init {
			s.Ready = true // as the kubelet has a completed init container
			r.InitDone = n + 1
		}
		if a, ok := r.Alone[c.name]; ok {
			r.Alone[c.name] = alone{History: a.History}
		}
	})
	w.removeAll([]*container{c})
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
	for _, c := range allContainers(p) {
		if role, _ := roleOf(p, c.Name); role == Init {
			continue // the next restart runs it again
		}
		pin, pinned := w.run.Images[c.Name]
		if !pinned || pin.Reference == c.Image {
			continue
		}
		if w.run.State == BackOff {
			w.to(ctx, Starting, func(p *corev1.Pod, r *run) { r.count(p) })
			return
		}
		if w.run.State == Running {
			w.restart(ctx, cause{container: c.Name, what: "the image of container " + c.Name + " was changed", byPerson: true})
			return
		}
	}
}
