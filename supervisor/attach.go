package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// AttachOptions ask for the streams of a container that runs.
type AttachOptions struct {
	Container string // "" when the pod has only one
	// Next waits for the container, from the first byte that it prints on. The
	// pod need not be there yet; then Container is not checked.
	Next bool
	// Output is called with all that the container prints from now on, with one
	// piece at a time. As long as it has not returned the container's output is
	// held up, as that of any program is by whoever does not read it. An error
	// ends the attachment.
	Output func(stream string, p []byte) error
}

// Attachment joins somebody to the streams of a container. End it with Detach.
type Attachment struct {
	s         *Supervisor
	pod       types.NamespacedName
	container string
	output    func(stream string, p []byte) error

	joined chan struct{} // closed when c is set
	over   chan struct{} // closed when nothing more comes
	ended  sync.Once

	mu   sync.Mutex // held while Output is called
	gone bool       // guarded by mu: Detach was called
	c    *container // what it is joined to; valid when joined is closed
}

// Attach joins the streams of a container.
func (s *Supervisor) Attach(namespace, name string, o AttachOptions) (*Attachment, error) {
	a := &Attachment{
		s: s, pod: types.NamespacedName{Namespace: namespace, Name: name}, container: o.Container, output: o.Output,
		joined: make(chan struct{}), over: make(chan struct{}),
	}
	w, err := s.worker(namespace, name)
	if err != nil {
		if !o.Next {
			return nil, err
		}
		s.waiting.add(a)
		return a, nil
	}
	if a.container, err = s.enterable(namespace, name, o.Container, "attach"); err != nil {
		return nil, err
	}
	// In this order: a container that is made meanwhile finds it waiting.
	s.waiting.add(a)
	if c := w.container(a.container); c != nil && c.box != nil && !c.isOver() && s.waiting.take(a) {
		a.join(c)
	}
	if !isClosed(a.joined) && !o.Next {
		a.Detach()
		return nil, apierrors.NewBadRequest(fmt.Sprintf("container %q of pod %q is not running", a.container, name))
	}
	return a, nil
}

// join begins to pass on what c prints.
func (a *Attachment) join(c *container) {
	a.c = c
	close(a.joined)
	if !c.taps.add(a) {
		a.end()
	}
}

// Joined is closed when the container is there.
func (a *Attachment) Joined() <-chan struct{} { return a.joined }

// Over is closed when the container has ended and its last output was passed
// on, when it cannot be started, or when Output has failed.
func (a *Attachment) Over() <-chan struct{} { return a.over }

func (a *Attachment) end() { a.ended.Do(func() { close(a.over) }) }

// Detach ends the attachment, not the container. When it returns, Output is not
// called any more; it may be called again.
func (a *Attachment) Detach() {
	if !a.s.waiting.take(a) {
		select { // somebody else has taken it, and joins or ends it now
		case <-a.joined:
			a.c.taps.remove(a)
		case <-a.over:
		}
	}
	a.mu.Lock()
	a.gone = true
	a.mu.Unlock()
	a.end()
}

// write passes on a piece of output.
func (a *Attachment) write(stream string, p []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gone {
		return
	}
	if err := a.output(stream, p); err != nil {
		a.gone = true
		a.end()
	}
}

// Stdin returns what the container reads from, for writing, once the container
// is there: its terminal, or a pipe. The caller closes it. It is os.ErrClosed
// when the container has no input or has seen its end.
func (a *Attachment) Stdin() (*os.File, error) {
	switch spec := a.c.spec; {
	case spec == nil || !spec.Stdin || a.c.box == nil:
		return nil, fmt.Errorf("container %s: input: %w", a.c.name, os.ErrClosed)
	case spec.TTY:
		return a.c.box.Console()
	}
	return a.c.box.Stdin()
}

// EndStdin says that no more input comes from here, and tells whether there is
// still something to be attached for: a container with stdinOnce sees the end
// of its input now, and may have an answer to it. A terminal has no end: where
// none is joined with it, ^D is typed until the container or ctx has ended, as
// a program that sets its terminal's mode drops what was typed before.
func (a *Attachment) EndStdin(ctx context.Context, joined bool) bool {
	spec := a.c.spec
	switch {
	case spec == nil || !spec.Stdin || !spec.StdinOnce || a.c.box == nil:
		return false
	case !spec.TTY:
		a.c.box.CloseStdin()
		return true
	case joined:
		return false
	}
	console, err := a.c.box.Console()
	if err != nil {
		return false
	}
	defer func() { _ = console.Close() }()
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for {
		if _, err := console.WriteString("\x04"); err != nil {
			return true // it ends
		}
		select {
		case <-again.C:
		case <-a.over:
			return true
		case <-ctx.Done():
			return true
		}
	}
}

// ContainerID names the container, once it is there.
func (a *Attachment) ContainerID() string { return idScheme + a.c.id }

// Resize sets the size of the container's terminal, in characters.
func (a *Attachment) Resize(rows, cols uint16) error {
	if !isClosed(a.joined) || a.c.box == nil {
		return errors.New("the container is not running")
	}
	return a.c.box.Resize(rows, cols)
}

// waiting are the attachments to containers that are not there yet.
type waiting struct {
	mu   sync.Mutex
	list []*Attachment
}

func (q *waiting) add(a *Attachment) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, a)
}

// take takes a from those that wait; whoever is told true has to join or to end
// it.
func (q *waiting) take(a *Attachment) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.list, a)
	if i < 0 {
		return false
	}
	q.list = slices.Delete(q.list, i, i+1)
	return true
}

// takeFor takes those that wait for a container; container "" stands for all of
// the pod's.
func (q *waiting) takeFor(w *worker, container string) []*Attachment {
	q.mu.Lock()
	defer q.mu.Unlock()
	var taken []*Attachment
	q.list = slices.DeleteFunc(q.list, func(a *Attachment) bool {
		match := a.pod == w.key() && (container == "" || a.container == "" || a.container == container)
		if match {
			taken = append(taken, a)
		}
		return match
	})
	return taken
}

// endAll ends all that wait for a container of w's pod.
func (q *waiting) endAll(w *worker) {
	for _, a := range q.takeFor(w, "") {
		a.end()
	}
}

// taps are the attachments to a container.
type taps struct {
	some atomic.Bool // spares a container that nobody is attached to the lock
	mu   sync.Mutex
	list []*Attachment
	over bool
}

// add tells whether the container's output has not ended yet.
func (t *taps) add(a *Attachment) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.list = append(t.list, a)
		t.some.Store(true)
	}
	return !t.over
}

func (t *taps) remove(a *Attachment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = slices.DeleteFunc(t.list, func(b *Attachment) bool { return a == b })
	t.some.Store(len(t.list) > 0)
}

func (t *taps) write(stream string, p []byte) {
	if !t.some.Load() {
		return
	}
	t.mu.Lock()
	list := slices.Clone(t.list)
	t.mu.Unlock()
	for _, a := range list {
		a.write(stream, p)
	}
}

// end tells the attachments that the last output was passed on.
func (t *taps) end() {
	t.mu.Lock()
	list := t.list
	t.list, t.over = nil, true
	t.mu.Unlock()
	for _, a := range list {
		a.end()
	}
}

// tapped is an output of a container on its way to the log.
type tapped struct {
	f      *os.File
	stream string
	taps   *taps
}

// Read passes on to the attachments what it returns.
func (r tapped) Read(p []byte) (int, error) {
	n, err := r.f.Read(p)
	if n > 0 {
		r.taps.write(r.stream, p[:n])
	}
	if errors.Is(err, unix.EIO) {
		err = io.EOF // a terminal's last user is gone
	}
	return n, err
}
