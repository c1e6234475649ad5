package supervisor

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/logfile"
)

// killWait is how long the end of a killed container may take before podrun
// goes on without having seen it: the kernel can hold a process in an
// uninterruptible wait for as long as a disk or a server does not answer.
const killWait = 10 * time.Second

// lastWindow is what a container gets after its stop signal when its preStop
// hook, or waiting for its turn, took all of the grace period, as from the
// kubelet.
const lastWindow = 2 * time.Second

// stopAll ends the containers: the preStop hook and the stop signal while
// deadline lies ahead, SIGKILL then. Sidecars get their stop signal when all
// others have ended, the last one first. It returns when all have ended, or when
// ctx ends. A deletion that is asked for meanwhile brings the deadline forward.
func (w *worker) stopAll(ctx context.Context, all []*container, deadline time.Time) {
	grace, expire := context.WithCancel(ctx)
	defer expire()
	if time.Until(deadline) <= 0 {
		expire()
	}
	var stopping sync.WaitGroup
	running := slices.DeleteFunc(slices.Clone(all), func(c *container) bool {
		return !c.running.Load() || c.isOver() // held before exec: removing it is its end
	})
	for i, c := range running {
		stopping.Go(func() { w.stop(ctx, grace, c, endBefore(running, i)) })
	}
	done := make(chan struct{})
	go func() {
		stopping.Wait()
		close(done)
	}()
	woken := false
	defer func() {
		if woken {
			w.poke() // it may be of a change that is for whoever waits next
		}
	}()
	for {
		if d := w.deletionDeadline(); !d.IsZero() && d.Before(deadline) {
			deadline = d
		}
		t := time.NewTimer(time.Until(deadline))
		if grace.Err() != nil {
			t.Stop()
		}
		select {
		case <-done:
			t.Stop()
			return
		case <-w.wake:
			t.Stop()
			woken = true
		case <-t.C:
			expire()
		}
	}
}

// endBefore returns those of all, in the order of the manifest, that end before
// number n does: before a sidecar all that are none and the sidecars that
// started after it.
func endBefore(all []*container, n int) (before []*container) {
	if all[n].role != Sidecar {
		return nil
	}
	for i, c := range all {
		if c.role != Sidecar || i > n {
			before = append(before, c)
		}
	}
	return before
}

// stop ends one container that runs: its preStop hook, its stop signal when
// those in before have ended, and SIGKILL when grace ends. It returns when the
// container has ended or ctx ends.
func (w *worker) stop(ctx, grace context.Context, c *container, before []*container) {
	c.ending.Store(true)
	if grace.Err() == nil {
		w.preStop(grace, c)
		for _, other := range before {
			_ = waitFor(grace, other.over)
		}
		if ctx.Err() != nil {
			return
		}
		w.signal(c, c.stopSignal)
		if grace.Err() != nil {
			var cancel context.CancelFunc
			grace, cancel = context.WithTimeout(ctx, lastWindow)
			defer cancel()
		}
		if waitFor(grace, c.over) == nil || ctx.Err() != nil {
			return
		}
	}
	if err := c.box.Kill(); err != nil && !c.isOver() {
		w.log.Warn("kill", "container", c.name, "err", err)
	}
	select {
	case <-c.over:
	case <-ctx.Done():
	case <-time.After(killWait):
		w.log.Warn("container did not end after SIGKILL", "container", c.name)
	}
}

// kill ends one container that has failed, with grace, while the pod goes on.
// Its end is judged like any other, but under OnFailure it is made again
// whatever its exit code. why is told as an event. Safe for concurrent use.
func (w *worker) kill(c *container, grace time.Duration, why string) {
	w.note("Killing", c.field, why)
	w.s.goroutines.Go(func() {
		// Before it can end by it: the next node has to know, too.
		condemned := make(chan struct{})
		w.tell(c, func() {
			w.save(w.ctx, func(_ *corev1.Pod, r *run) { r.Condemned[c.id] = true })
			close(condemned)
		})
		select {
		case <-condemned:
		case <-c.over:
			return
		case <-w.ctx.Done():
			return
		}
		limited, cancel := context.WithTimeout(w.ctx, grace)
		defer cancel()
		w.stop(w.ctx, limited, c, nil)
	})
}

func (w *worker) signal(c *container, sig syscall.Signal) {
	if !c.running.Load() || c.isOver() {
		return
	}
	if err := c.box.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		w.log.Warn("signal", "container", c.name, "signal", sig.String(), "err", err)
	}
}

// stopSignal is lifecycle.stopSignal of the container name, else its image's
// stop signal, SIGTERM by default.
func (w *worker) stopSignal(name string) syscall.Signal {
	if spec := w.specOf(name); spec.Lifecycle != nil && spec.Lifecycle.StopSignal != nil {
		return parseSignal(string(*spec.Lifecycle.StopSignal))
	}
	pin, ok := w.run.Images[name]
	if !ok {
		return unix.SIGTERM
	}
	img, err := w.s.images.Get(pin.ID)
	if err != nil {
		return unix.SIGTERM
	}
	return parseSignal(img.Config.StopSignal)
}

func (w *worker) gracePeriod() time.Duration {
	if w.run.Ended != nil && w.run.Ended.Reason == reasonEvicted {
		return time.Second // the kubelet's for what takes too much
	}
	if g := w.pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return time.Duration(*g) * time.Second
	}
	return 30 * time.Second
}

// removeAll removes ended containers and their file systems beside whatever
// comes next. What a crash leaves of them the next node removes.
func (w *worker) removeAll(all []*container) {
	for _, c := range all {
		w.dropLive(c)
		w.removing.Go(func() {
			// Not ctx: an end that was saved is reaped even while the node ends.
			ctx, cancel := context.WithTimeout(context.Background(), killWait)
			defer cancel()
			if err := w.remove(ctx, c); err != nil {
				w.log.Warn("remove container", "container", c.name, "err", err)
			}
		})
	}
}

// remove removes one container. It may be called again.
func (w *worker) remove(ctx context.Context, c *container) error {
	if c.box == nil {
		return w.s.images.RemoveRootfs(w.s.rootfsDir(c.id))
	}
	err := c.box.Delete(ctx)
	c.output.Wait() // the last process is gone: this is the rest of what it printed
	w.dropOldLogs(c)
	return errors.Join(err, w.s.images.RemoveRootfs(w.s.rootfsDir(c.id)))
}

// dropOldLogs keeps the logs of c and of the incarnation before the next one;
// "logs --previous" reaches no further back.
func (w *worker) dropOldLogs(c *container) {
	if err := logfile.Remove(w.logPath(c.name, c.incarnation-1)); err != nil {
		w.log.Warn("remove old log", "container", c.name, "err", err)
	}
}

func (w *worker) dropLive(c *container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.live[c.name] == c {
		delete(w.live, c.name)
	}
}

// tearDown gives back everything the pod has on this machine but its object,
// its run and its logs. It works from what is on disk, and may be called
// again after a failure.
func (w *worker) tearDown(ctx context.Context) error {
	w.removeAll(w.containers())
	w.removing.Wait()
	if err := w.releasePorts(); err != nil {
		return err
	}
	if err := errors.Join(fault.Point("teardown.network"), w.leaveNetwork(ctx)); err != nil {
		return err
	}
	w.net = nil
	if err := errors.Join(fault.Point("teardown.sandbox"), w.dropSandbox(ctx)); err != nil {
		return err
	}
	w.unfollow()
	if err := errors.Join(fault.Point("teardown.volumes"), w.s.volumes.Remove(string(w.uid))); err != nil {
		return err
	}
	for name, n := range w.run.Incarnation {
		// Left by a crash: a file system whose container was never made, or is gone.
		for _, id := range []string{containerID(w.uid, name, n), containerID(w.uid, name, n-1)} {
			if err := w.s.images.RemoveRootfs(w.s.rootfsDir(id)); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(w.filesDir())
}

// dropSandbox removes the sandbox with everything in it, its end of the network
// too. The address goes with the network, not here.
func (w *worker) dropSandbox(ctx context.Context) error {
	if err := w.s.sandboxes.DeleteSandbox(ctx, string(w.uid)); err != nil {
		return err
	}
	w.box, w.net = nil, nil
	return nil
}

// requestDeletion makes the worker delete the pod, killing what still runs at
// deadline. An earlier deadline replaces a later one. Safe for concurrent use.
func (w *worker) requestDeletion(deadline time.Time) {
	w.mu.Lock()
	if w.deletion == nil || deadline.Before(*w.deletion) {
		w.deletion = &deadline
	}
	abort := w.abort
	w.mu.Unlock()
	if abort != nil {
		abort()
	}
	w.poke()
}

// poke tells the worker that the stored pod changed. Safe for concurrent use.
func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) deletionRequested() bool { return !w.deletionDeadline().IsZero() }

// deletionDeadline is when a deleted pod's containers are killed; zero for a
// pod that is not being deleted.
func (w *worker) deletionDeadline() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deletion == nil {
		return time.Time{}
	}
	return *w.deletion
}

// abortable returns a context that a deletion ends, also one that was asked for
// already, and the pod's deadline. For the worker's goroutine.
func (w *worker) abortable(ctx context.Context) (_ context.Context, done func()) {
	var cancel context.CancelFunc
	if at, limited := w.activeUntil(); limited {
		ctx, cancel = context.WithDeadline(ctx, at)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.abort = cancel
	if w.deletion != nil {
		cancel()
	}
	return ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.abort = nil
		cancel()
	}
}
