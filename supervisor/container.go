package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/logfile"
	"get.podrun.dev/podrun/sandbox"
)

// container is one incarnation of a container of the pod, made on this
// machine. Its end is known when over is closed; end is valid from then on.
type container struct {
	name, id    string
	spec        *corev1.Container // as it was made; not to be changed
	field       string            // of events about it: spec.containers{name}
	role        Role
	incarnation int
	stopSignal  syscall.Signal
	grace       time.Duration      // the pod's
	messageMax  int                // its part of the pod's termination messages, in bytes
	restarts    bool               // a failed one is made again
	box         *sandbox.Container // nil when only the memory of it is left
	running     atomic.Bool        // was started, by this node or an earlier one
	started     time.Time
	hooked      bool        // its postStart hook was run, or it has none
	ready       atomic.Bool // its readiness probe succeeds, or it has none

	ending   atomic.Bool   // podrun is stopping it
	stopping atomic.Bool   // its preStop hook was begun
	stopHook chan struct{} // closed when that hook has ended

	up     chan struct{} // closed when it counts as started: hook and startup probe are done
	over   chan struct{}
	end    end
	output sync.WaitGroup // copying what it prints
	taps   taps           // who is attached
}

// newContainer returns the current incarnation of the container name, which is
// neither made nor found yet.
func (w *worker) newContainer(name string) *container {
	role, _ := roleOf(w.pod, name)
	spec := w.specOf(name)
	return &container{name: name, id: w.run.id(name), incarnation: w.run.Incarnation[name], role: role,
		spec: spec, field: containerField(w.pod, name), stopSignal: w.stopSignal(name),
		grace: w.gracePeriod(), restarts: restartsFailed(&w.pod.Spec, spec), messageMax: maxPodMessages / len(allContainers(w.pod)),
		stopHook: make(chan struct{}), up: make(chan struct{}), over: make(chan struct{})}
}

func (c *container) isOver() bool { return isClosed(c.over) }

// isUp tells whether the container counts as started.
func (c *container) isUp() bool { return isClosed(c.up) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// failedToStart tells whether the container ended without having run.
func (c *container) failedToStart() bool {
	return c.isOver() && c.end.reason == reasonStart
}

// String says how the container ended, for events.
func (e end) String() string {
	switch {
	case e.reason == reasonOOM:
		return "ran out of memory and was killed"
	case e.reason == reasonStart:
		return "could not be started: " + e.message
	case e.reason == reasonUnknown:
		return "ended while nobody watched"
	case e.signal != 0:
		return fmt.Sprintf("was killed by signal %d (%s), exit code %d", e.signal, syscall.Signal(e.signal), e.code)
	}
	return fmt.Sprintf("exited with code %d", e.code)
}

// unknownEnd is the end of a container that vanished unseen, as in a reboot;
// the kubelet reports the same code.
func unknownEnd(now time.Time) end {
	return end{code: 137, reason: reasonUnknown, at: now,
		message: "The container could not be located when the node was started again"}
}

func endOf(e sandbox.Exit) end {
	out := end{code: int32(e.Code), signal: int32(e.Signal), at: e.FinishedAt, reason: reasonCompleted}
	if e.OOMKilled {
		out.reason = reasonOOM
	} else if e.Code != 0 {
		out.reason = reasonError
	}
	return out
}

// copyOutput copies what the container prints to its log until the last of its
// processes is gone or ctx ends; then the next node copies on.
func (w *worker) copyOutput(ctx context.Context, c *container) error {
	stdout, stderr, err := c.box.Output()
	if err != nil {
		return fmt.Errorf("open output: %w", err)
	}
	path := w.logPath(c.name, c.incarnation)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return errors.Join(err, closeAll(stdout, stderr))
	}
	log, err := logfile.OpenWriter(path, logfile.WriterOptions{Lost: func(stream string, bytes int64, err error) { w.logLost(c, stream, bytes, err) }})
	if err != nil {
		return errors.Join(err, closeAll(stdout, stderr))
	}
	for _, a := range w.s.waiting.takeFor(w, c.name) {
		a.join(c)
	}
	stop := context.AfterFunc(ctx, func() { _ = closeAll(stdout, stderr) })
	for stream, f := range map[string]*os.File{"stdout": stdout, "stderr": stderr} {
		if f == nil {
			continue // a terminal has one stream
		}
		c.output.Go(func() {
			if err := log.Copy(stream, tapped{f: f, stream: stream, taps: &c.taps}); err != nil && ctx.Err() == nil {
				w.log.Warn("copy output", "container", c.name, "err", err)
			}
		})
	}
	w.s.goroutines.Go(func() {
		c.output.Wait()
		if ctx.Err() == nil {
			c.taps.end()
		}
		if stop() {
			_ = closeAll(stdout, stderr)
		}
		if err := log.Close(); err != nil {
			w.log.Warn("close log", "container", c.name, "err", err)
		}
	})
	return nil
}

// logLost tells that c printed what its log does not have, in an event.
func (w *worker) logLost(c *container, stream string, bytes int64, err error) {
	if w.ctx.Err() != nil {
		return
	}
	w.warn("LogLost", c.field, fmt.Sprintf("%d bytes of the container's %s are not in its log: %v", bytes, stream, err))
	// Now: the pod may have nothing else to save for a long time.
	w.s.goroutines.Go(func() { w.tell(c, func() { w.save(w.ctx, nil) }) })
}

// awaitEnd hands the container to the worker when it ends. It gives up when
// ctx ends; the next node waits on.
func (w *worker) awaitEnd(ctx context.Context, c *container) {
	w.s.goroutines.Go(func() {
		exit, err := c.box.Wait(ctx)
		if ctx.Err() != nil {
			return
		}
		c.end = endOf(exit)
		c.end.message = w.terminationMessage(c)
		if err != nil {
			c.end = unknownEnd(time.Now())
			w.log.Warn("wait for container", "container", c.name, "err", err)
		}
		w.over(ctx, c)
	})
}

// over makes the end of c known.
func (w *worker) over(ctx context.Context, c *container) {
	close(c.over)
	select {
	case w.exits <- c:
	case <-ctx.Done():
	}
}

func closeAll(files ...*os.File) error {
	var err error
	for _, f := range files {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// startOne lets a created container run, watches for its end and runs its
// postStart hook; one that runs already is left alone. A program that cannot be
// run is the end of the container, not an error.
func (w *worker) startOne(ctx context.Context, c *container) error {
	if c.running.Load() && !c.hooked {
		w.bringUp(ctx, c)
	}
	if c.running.Load() || c.isOver() {
		return nil
	}
	err := c.box.Start(ctx)
	c.started = time.Now()
	var refused *sandbox.StartError
	switch {
	case errors.As(err, &refused):
		w.refused(c, refused)
		return nil
	case err != nil:
		return &startError{container: c.name, reason: reasonRun, err: err}
	}
	c.running.Store(true)
	w.fault("container.started")
	w.note("Started", c.field, "Container started")
	w.awaitEnd(w.ctx, c)
	w.bringUp(ctx, c)
	return nil
}

// bringUp runs the postStart hook of a container that was started, and begins
// its probes. A node that is killed under the hook leaves it to the next one,
// which runs it again: it is delivered at least once, as in Kubernetes.
func (w *worker) bringUp(ctx context.Context, c *container) {
	w.postStart(ctx, c)
	if ctx.Err() != nil {
		return
	}
	c.hooked = true
	w.probe(c, nil)
}

// specOf is the manifest's part for the container name.
func (w *worker) specOf(name string) *corev1.Container { return specIn(w.pod, name) }

func specIn(p *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// tell has the worker's goroutine run f while it looks after c, which runs. It
// gives up when c has ended. For the goroutines that watch containers.
func (w *worker) tell(c *container, f func()) {
	select {
	case w.calls <- f:
	case <-c.over:
	case <-w.ctx.Done():
	}
}

// refused is the end of a container whose program cannot be run, with the
// exit code that the kubelet reports for it.
func (w *worker) refused(c *container, err *sandbox.StartError) {
	w.warn("Failed", c.field, "Error: "+explain(err))
	c.end = end{code: 128, reason: reasonStart, message: explain(err), at: time.Now()}
	w.over(w.ctx, c)
	for _, a := range w.s.waiting.takeFor(w, c.name) {
		a.join(c)
		a.end()
	}
}

// logPath is where the output of one incarnation of a container is kept, in
// the kubelet's layout.
func (w *worker) logPath(name string, incarnation int) string {
	return filepath.Join(w.logDir(), name, strconv.Itoa(incarnation)+".log")
}

func (w *worker) logDir() string {
	return filepath.Join(w.s.paths.Data, "logs", w.namespace+"_"+w.name+"_"+string(w.uid))
}

// containers returns the containers there are now, main ones and init ones,
// in the order of the manifest. For the worker's goroutine: see boxes.
func (w *worker) containers() []*container {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*container
	for _, spec := range allContainers(w.pod) {
		if c := w.live[spec.Name]; c != nil {
			all = append(all, c)
		}
	}
	return all
}

// container returns the container name that is there now, or nil. Safe for
// concurrent use.
func (w *worker) container(name string) *container {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.live[name]
}

func (w *worker) setLive(c *container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live[c.name] = c
}

// wasRunning tells whether the stored status has the container name running
// as id.
func (w *worker) wasRunning(name, id string) bool {
	s := lookStatus(w.pod, name)
	return s != nil && s.State.Running != nil && s.ContainerID == idScheme+id
}

// completed tells whether the current incarnation of the container name has
// ended for good.
func (w *worker) completed(name string) bool {
	s := lookStatus(w.pod, name)
	return s != nil && s.State.Terminated != nil && s.State.Terminated.ContainerID == idScheme+w.run.id(name)
}
