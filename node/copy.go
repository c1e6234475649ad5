package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/sandbox"
)

// CopyRequest asks for files to be copied into or out of a container that runs.
// They travel as a tar archive through a pipe, one end of which comes beside the
// request.
type CopyRequest struct {
	Container  string `json:"container"` // "" when the pod has only one
	Path       string `json:"path"`      // in the container
	Base       string `json:"base"`      // the name of the archive's first entry
	NoPreserve bool   `json:"noPreserve,omitempty"`
}

// CopyOut gives a file or a directory of a container, as a tar archive, to
// unpack.
func (c *Client) CopyOut(ctx context.Context, namespace, name string, r CopyRequest, unpack func(io.Reader) error) error {
	return c.copy(ctx, podrunPath(namespace, name, "copy-out"), r, func(read, write *os.File) (ours, theirs *os.File) { return read, write },
		func(f *os.File) error { return unpack(f) })
}

// CopyIn makes in a container what pack writes, a tar archive.
func (c *Client) CopyIn(ctx context.Context, namespace, name string, r CopyRequest, pack func(io.Writer) error) error {
	return c.copy(ctx, podrunPath(namespace, name, "copy-in"), r, func(read, write *os.File) (ours, theirs *os.File) { return write, read },
		func(f *os.File) error { return pack(f) })
}

func (c *Client) copy(ctx context.Context, path string, r CopyRequest, ends func(read, write *os.File) (ours, theirs *os.File), use func(*os.File) error) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	ours, theirs := ends(read, write)
	used := make(chan error, 1)
	go func() {
		err := use(ours)
		used <- errors.Join(err, ours.Close())
	}()
	body, err := c.send(ctx, http.MethodPost, path, nil, r, theirs)
	if err == nil {
		err = body.decode(nil)
	}
	// Now the node has its end closed: our side sees the end, or a broken pipe.
	_ = theirs.Close()
	uerr := <-used
	var interrupted *InterruptedError
	switch {
	case errors.As(err, &interrupted) || ctx.Err() != nil || uerr == nil:
		return err
	case err != nil && (errors.Is(uerr, unix.EPIPE) || errors.Is(uerr, io.ErrUnexpectedEOF) || errors.Is(uerr, fs.ErrClosed)):
		return err // the node's is the reason of ours
	}
	return uerr
}

func (a *api) copyOut(w http.ResponseWriter, r *http.Request) error {
	return a.copy(w, r, func(ctx context.Context, request CopyRequest, f *os.File) error {
		return a.supervisor.CopyOut(ctx, r.PathValue("namespace"), r.PathValue("name"), request.Container, request.Path, request.Base, f)
	})
}

func (a *api) copyIn(w http.ResponseWriter, r *http.Request) error {
	return a.copy(w, r, func(ctx context.Context, request CopyRequest, f *os.File) error {
		return a.supervisor.CopyIn(ctx, r.PathValue("namespace"), r.PathValue("name"), request.Container, request.Path, f,
			sandbox.CopyOptions{Base: request.Base, NoPreserve: request.NoPreserve})
	})
}

func (a *api) copy(w http.ResponseWriter, r *http.Request, do func(context.Context, CopyRequest, *os.File) error) error {
	var request CopyRequest
	if err := decode(r, &request); err != nil {
		return err
	}
	files := ConnFiles(r.Context())
	defer closeFiles(files...)
	if len(files) != 1 {
		return apierrors.NewBadRequest(fmt.Sprintf("cp needs a pipe beside the request, got %d descriptors", len(files)))
	}
	if request.Path == "" || request.Base == "" {
		return apierrors.NewBadRequest("cp needs a path in the container")
	}
	ctx, cancel := a.during(r)
	defer cancel()
	// Ends the waiting for a client that neither reads nor writes. The pipe is
	// the client's own, and does not block.
	defer context.AfterFunc(ctx, func() { _ = files[0].Close() })()
	if err := do(ctx, request, files[0]); err != nil {
		return err
	}
	respond(w, http.StatusOK, struct{}{})
	return nil
}
