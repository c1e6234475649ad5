package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/sandbox"
)

// CopyOut writes a file or a directory of a running container to w, see
// sandbox.Container.CopyOut.
func (s *Supervisor) CopyOut(ctx context.Context, namespace, name, container, path, base string, w io.Writer) error {
	return s.copy(namespace, name, container, path, func(c *sandbox.Container) error { return c.CopyOut(ctx, path, base, w) })
}

// CopyIn unpacks r in a running container, see sandbox.Container.CopyIn.
func (s *Supervisor) CopyIn(ctx context.Context, namespace, name, container, path string, r io.Reader, o sandbox.CopyOptions) error {
	return s.copy(namespace, name, container, path, func(c *sandbox.Container) error { return c.CopyIn(ctx, path, r, o) })
}

func (s *Supervisor) copy(namespace, name, container, path string, do func(*sandbox.Container) error) error {
	w, err := s.worker(namespace, name)
	if err != nil {
		return err
	}
	p, _, err := s.stored(namespace, name)
	if err != nil {
		return err
	}
	if container, err = pickContainer(p, container); err != nil {
		return err
	}
	c := w.container(container)
	err = sandbox.ErrGone
	if c != nil && c.box != nil && !c.isOver() {
		err = do(c.box)
	}
	switch {
	case errors.Is(err, sandbox.ErrGone):
		return apierrors.NewBadRequest(fmt.Sprintf("container %q of pod %q is not running", container, name))
	case err != nil:
		// The path and its error are the user's and the container's: no fault
		// of this node.
		return apierrors.NewBadRequest(fmt.Sprintf("cannot copy %s/%s:%s: %v", namespace, name, path, err))
	}
	return nil
}
