package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/supervisor"
)

// AttachRequest asks for the streams of a container that runs. The client's
// stdin, stdout and stderr travel beside the request as descriptors, in this
// order.
type AttachRequest struct {
	ID        string `json:"id"`        // chosen by the client, names the terminal in a resize
	Container string `json:"container"` // "" when the pod has only one
	// Next waits for the container, from its first byte on. The pod need not be
	// there yet.
	Next  bool `json:"next,omitempty"`
	Stdin bool `json:"stdin,omitempty"` // pass on what stdin gives
	// DetachKeys end the attachment when they are typed; none for no such keys.
	DetachKeys []byte `json:"detachKeys,omitempty"`
	Rows       uint16 `json:"rows,omitempty"` // of the client's terminal, 0 when it has none
	Cols       uint16 `json:"cols,omitempty"`
}

// AttachEvent is one line of the answer to an attach. The first tells the
// container, when it is there; the second is the end.
type AttachEvent struct {
	ContainerID string `json:"containerID,omitempty"`
	Over        bool   `json:"over,omitempty"`
	Detached    bool   `json:"detached,omitempty"` // by the keys
}

// Attached is an attachment to a container. It is not safe for concurrent use.
type Attached struct {
	body  *responseBody
	lines *json.Decoder
}

// Attach joins the files to the streams of a container. It returns when what
// the container prints from now on will be seen. The files go to the node with
// the request; the caller keeps its own. The end of ctx, or Close, detaches.
func (c *Client) Attach(ctx context.Context, namespace, name string, r AttachRequest, stdin, stdout, stderr *os.File) (*Attached, error) {
	body, err := c.send(ctx, http.MethodPost, podrunPath(namespace, name, "attach"), nil, r, stdin, stdout, stderr)
	if err != nil {
		return nil, err
	}
	return &Attached{body: body, lines: json.NewDecoder(body)}, nil
}

// Next blocks until something happens. Its error is an *InterruptedError when
// the node died.
func (a *Attached) Next() (AttachEvent, error) {
	var e AttachEvent
	if err := a.lines.Decode(&e); err != nil {
		return e, a.body.broken(err)
	}
	return e, nil
}

// Close detaches.
func (a *Attached) Close() error { return a.body.Close() }

// attach joins the client's files to a container until that ends, the client
// goes or types the keys to detach. The container does not notice.
func (a *api) attach(w http.ResponseWriter, r *http.Request) error {
	var request AttachRequest
	if err := decode(r, &request); err != nil {
		return err
	}
	files := ConnFiles(r.Context())
	defer closeFiles(files...)
	if len(files) != 3 {
		return apierrors.NewBadRequest(fmt.Sprintf("attach needs 3 descriptors beside the request, got %d", len(files)))
	}
	waker, err := newWaker()
	if err != nil {
		return err
	}
	ctx, cancel := a.during(r)
	defer cancel()
	stdout, close1 := ownScreen(files[1])
	defer close1()
	stderr, close2 := ownScreen(files[2])
	defer close2()
	attachment, err := a.supervisor.Attach(r.PathValue("namespace"), r.PathValue("name"), supervisor.AttachOptions{
		Container: request.Container, Next: request.Next,
		Output: func(stream string, p []byte) error {
			to := stdout
			if stream == "stderr" {
				to = stderr
			}
			return waker.write(descriptor(to), p)
		},
	})
	if err != nil {
		waker.wake()
		waker.close()
		return err
	}
	var input sync.WaitGroup
	defer waker.close()
	defer input.Wait()
	defer attachment.Detach()
	defer waker.wake()
	defer cancel()

	answer := json.NewEncoder(stream(w, "application/json"))
	select {
	case <-attachment.Joined():
	case <-attachment.Over(): // it cannot be started, or was deleted
		_ = answer.Encode(AttachEvent{Over: true})
		return nil
	case <-ctx.Done():
		return nil
	}
	if request.Rows > 0 && request.Cols > 0 {
		// A size that changes makes a program draw its screen again. One
		// without a terminal has no size.
		_ = attachment.Resize(request.Rows+1, request.Cols+1)
		_ = attachment.Resize(request.Rows, request.Cols)
	}
	defer a.terminals.add(request.ID, attachment)()
	if err := answer.Encode(AttachEvent{ContainerID: attachment.ContainerID()}); err != nil {
		return nil
	}
	left := make(chan AttachEvent, 1)
	if request.Stdin {
		input.Go(func() {
			keys := detachKeys{keys: request.DetachKeys}
			copyInput(ctx, attachment, waker, files[0], &keys)
			if a.stopped.Err() != nil {
				return // the client attaches again, to the next node
			}
			joined := len(request.DetachKeys) > 0 // with the client's terminal
			if keys.typed() || !attachment.EndStdin(ctx, joined) {
				left <- AttachEvent{Over: true, Detached: keys.typed()}
			}
		})
	}
	end := AttachEvent{Over: true}
	select {
	case <-attachment.Over():
	case end = <-left:
	case <-ctx.Done():
	}
	_ = answer.Encode(end) // the client may have gone
	return nil
}

// copyInput copies from to the container until either ends.
func copyInput(ctx context.Context, attachment *supervisor.Attachment, waker *waker, from *os.File, keys *detachKeys) {
	to, err := attachment.Stdin()
	if err != nil {
		// The container reads nothing: what is typed is dropped, the keys to
		// detach are not.
		to = nil
	} else {
		// A container that does not read must not hold up the end.
		stop := context.AfterFunc(ctx, func() { _ = to.Close() })
		defer func() {
			stop()
			_ = to.Close()
		}()
	}
	buf := make([]byte, 4096)
	for {
		n, err := waker.read(descriptor(from), buf)
		p, typed := keys.filter(buf[:n], errors.Is(err, io.EOF))
		if len(p) > 0 && to != nil {
			if _, err := to.Write(p); err != nil {
				return
			}
		}
		if err != nil || typed {
			return
		}
	}
}

// detachKeys finds a sequence of keys in what is typed. The beginning of one is
// held back until it is known whether it is one.
type detachKeys struct {
	keys []byte
	seen int
}

func (d *detachKeys) typed() bool { return len(d.keys) > 0 && d.seen == len(d.keys) }

// filter returns what of p, and of what was held back, is not of the sequence.
func (d *detachKeys) filter(p []byte, end bool) (out []byte, typed bool) {
	if len(d.keys) == 0 {
		return p, false
	}
	for _, b := range p {
		if b == d.keys[d.seen] {
			if d.seen++; d.typed() {
				return out, true
			}
			continue
		}
		out = append(out, d.keys[:d.seen]...)
		d.seen = 0
		if b == d.keys[0] {
			d.seen = 1
			continue
		}
		out = append(out, b)
	}
	if end {
		out = append(out, d.keys[:d.seen]...)
		d.seen = 0
	}
	return out, false
}
