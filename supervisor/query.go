package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/internal/logfile"
	"get.podrun.dev/podrun/sandbox"
)

// Containers lists the containers of all pods as "podrun ps" shows them: those
// that run or were made, and with all also those that ended.
func (s *Supervisor) Containers(all bool) ([]Container, error) {
	pods, _, err := s.store.List(kindPod, "")
	if err != nil {
		return nil, err
	}
	list := []Container{}
	for _, o := range pods {
		p, err := DecodePod(o)
		if err != nil {
			return nil, err
		}
		for _, st := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
			if c, ok := s.describe(p, st); ok && (all || c.State != "exited") {
				list = append(list, c)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b Container) int { return b.Created.Compare(a.Created) })
	return list, nil
}

// Container is one container as "podrun ps" shows it.
type Container struct {
	ID         string    `json:"id"`
	Image      string    `json:"image"`
	ImageID    string    `json:"imageID"`
	Command    []string  `json:"command"`
	Created    time.Time `json:"created"`
	State      string    `json:"state"` // created, running or exited
	ExitCode   int32     `json:"exitCode"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	Namespace  string    `json:"namespace"`
	Pod        string    `json:"pod"`
	Name       string    `json:"name"`
}

// describe makes a Container of a status; not ok is one that was never made.
func (s *Supervisor) describe(p *corev1.Pod, st corev1.ContainerStatus) (Container, bool) {
	id, made := strings.CutPrefix(st.ContainerID, idScheme)
	if !made {
		return Container{}, false
	}
	c := Container{
		ID: id, Image: st.Image, ImageID: st.ImageID, Namespace: p.Namespace, Pod: p.Name, Name: st.Name, State: "created",
	}
	if w, err := s.worker(p.Namespace, p.Name); err == nil {
		if live := w.container(st.Name); live != nil && live.id == id && live.box != nil {
			c.Command = live.box.Args()
		}
	}
	ended := st.State.Terminated
	if ended == nil && st.State.Running == nil {
		ended = st.LastTerminationState.Terminated
	}
	switch {
	case st.State.Running != nil:
		c.State, c.StartedAt = "running", st.State.Running.StartedAt.Time
	case ended != nil:
		c.State, c.StartedAt, c.FinishedAt, c.ExitCode = "exited", ended.StartedAt.Time, ended.FinishedAt.Time, ended.ExitCode
	default:
		return Container{}, false
	}
	c.Created = c.StartedAt
	if c.Command == nil {
		for _, spec := range allContainers(p) {
			if spec.Name == st.Name {
				c.Command = append(slices.Clone(spec.Command), spec.Args...)
			}
		}
	}
	return c, true
}

// findContainer returns the live container that ref names: an id or a unique
// beginning of one, POD/CONTAINER or NAMESPACE/POD/CONTAINER.
func (s *Supervisor) findContainer(ref string) (*worker, *container, error) {
	s.mu.Lock()
	workers := make([]*worker, 0, len(s.workers))
	for _, w := range s.workers {
		workers = append(workers, w)
	}
	s.mu.Unlock()

	type match struct {
		w *worker
		c *container
	}
	var found []match
	parts := strings.Split(ref, "/")
	for _, w := range workers {
		w.mu.Lock()
		for name, c := range w.live {
			byName := len(parts) == 2 && parts[0] == w.name && parts[1] == name && w.namespace == corev1.NamespaceDefault ||
				len(parts) == 3 && parts[0] == w.namespace && parts[1] == w.name && parts[2] == name
			if byName || len(parts) == 1 && ref != "" && strings.HasPrefix(c.id, ref) {
				found = append(found, match{w, c})
			}
		}
		w.mu.Unlock()
	}
	switch len(found) {
	case 0:
		return nil, nil, apierrors.NewNotFound(corev1.Resource("containers"), ref)
	case 1:
		return found[0].w, found[0].c, nil
	}
	return nil, nil, apierrors.NewConflict(corev1.Resource("containers"), ref,
		fmt.Errorf("%d containers have ids that begin so; give more of the id", len(found)))
}

// LogOptions says which lines of a log are wanted; the names are kubectl's.
type LogOptions struct {
	Container  string // "" when the pod has only one
	Previous   bool   // of the incarnation before this one
	Follow     bool
	Timestamps bool
	Tail       int64 // lines from the end; negative for all
	Since      time.Time
	LimitBytes int64 // 0 for no limit
}

// Logs writes the log of a container to out, with Follow until the container
// has ended or ctx ends. started is called once before the first byte: until
// then an error can still be answered as one.
func (s *Supervisor) Logs(ctx context.Context, namespace, name string, o LogOptions, started func() io.Writer) error {
	w, err := s.worker(namespace, name)
	if err != nil {
		return err
	}
	p, r, err := s.stored(namespace, name)
	if err != nil {
		return err
	}
	if o.Container, err = pickContainer(p, o.Container); err != nil {
		return err
	}
	incarnation := r.Incarnation[o.Container]
	c := w.container(o.Container)
	if c != nil {
		incarnation = c.incarnation
	}
	st := statusOf(p, o.Container)
	// Between two incarnations it is the last that ran, the previous one, too.
	between := c == nil && st.State.Waiting != nil
	if o.Previous || between && incarnation > 0 {
		incarnation--
	}
	if o.Previous {
		if _, err := os.Stat(w.logPath(o.Container, incarnation)); incarnation < 0 || err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("previous terminated container %q in pod %q not found", o.Container, name))
		}
	}
	path := w.logPath(o.Container, incarnation)
	if _, err := os.Stat(path); err != nil {
		reason := reasonCreating
		if st.State.Waiting != nil {
			reason = st.State.Waiting.Reason
		}
		return apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is waiting to start: %s", o.Container, name, reason))
	}
	return logfile.Read(ctx, path, logfile.ReadOptions{
		Follow: o.Follow && !o.Previous, Done: drained(ctx, c), Tail: o.Tail, Since: o.Since,
		Timestamps: o.Timestamps, LimitBytes: o.LimitBytes,
	}, started())
}

// drained is closed when the last byte of c's output is in its log; nil stands
// for a container that is gone.
func drained(ctx context.Context, c *container) <-chan struct{} {
	done := make(chan struct{})
	if c == nil {
		close(done)
		return done
	}
	go func() {
		defer close(done)
		if waitFor(ctx, c.over) == nil {
			c.output.Wait()
		}
	}()
	return done
}

// stored returns a pod and its run as they are in the store.
func (s *Supervisor) stored(namespace, name string) (*corev1.Pod, *run, error) {
	o, err := s.store.Get(podKey(namespace, name))
	if err != nil {
		return nil, nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	p, err := DecodePod(o)
	if err != nil {
		return nil, nil, err
	}
	r, err := s.loadRun(p)
	return p, r, err
}

// pickContainer checks that name is a container of p; "" stands for the only
// one.
func pickContainer(p *corev1.Pod, name string) (string, error) {
	var names, inits []string
	for _, c := range p.Spec.Containers {
		names = append(names, c.Name)
	}
	for _, c := range p.Spec.InitContainers {
		inits = append(inits, c.Name)
	}
	switch {
	case name == "" && len(names) == 1:
		return names[0], nil
	case name == "":
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %v", p.Name, names))
	case slices.Contains(names, name) || slices.Contains(inits, name):
		return name, nil
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, p.Name))
}

// enterable names the container that somebody wants to exec into or attach, of
// a pod that is not over.
func (s *Supervisor) enterable(namespace, name, container, verb string) (string, error) {
	p, _, err := s.stored(namespace, name)
	if err == nil {
		container, err = pickContainer(p, container)
	}
	if err != nil {
		return "", err
	}
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return "", apierrors.NewBadRequest(fmt.Sprintf("cannot %s a container in a completed pod; current phase is %s", verb, p.Status.Phase))
	}
	return container, nil
}

// ExecOptions is a program to run in a container that runs.
type ExecOptions struct {
	Container             string // "" when the pod has only one
	Command               []string
	TTY                   bool
	Rows, Cols            uint16
	Stdin, Stdout, Stderr *os.File // the program's own, without a terminal; may be nil
}

// Exec starts a program in a running container. The caller waits for it and
// keeps the files until then.
func (s *Supervisor) Exec(ctx context.Context, namespace, name string, o ExecOptions) (*sandbox.Process, error) {
	w, err := s.worker(namespace, name)
	if err != nil {
		return nil, err
	}
	if o.Container, err = s.enterable(namespace, name, o.Container, "exec into"); err != nil {
		return nil, err
	}
	c := w.container(o.Container)
	if c == nil || c.box == nil || c.isOver() || !c.box.Started() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("container %q of pod %q is not running", o.Container, name))
	}
	process, err := c.box.Exec(ctx, sandbox.ExecConfig{
		Args: o.Command, TTY: o.TTY, Rows: o.Rows, Cols: o.Cols,
		Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr,
	})
	var refused *sandbox.StartError
	if err != nil && !errors.As(err, &refused) {
		return nil, fmt.Errorf("cannot exec in container %q of pod %q: %w", o.Container, name, err)
	}
	return process, err
}
