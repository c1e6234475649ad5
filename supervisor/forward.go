package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/sandbox"
)

// dialTimeout is how long a server in a pod has to accept a connection.
const dialTimeout = 15 * time.Second

// DialPod connects to a port of a pod from inside the pod. The connection is
// the caller's and needs this node no more.
func (s *Supervisor) DialPod(ctx context.Context, namespace, name string, port uint16) (*net.TCPConn, error) {
	w, err := s.worker(namespace, name)
	if err != nil {
		return nil, err
	}
	boxes := w.boxes()
	if len(boxes) == 0 {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("no container of pod %q is running", name))
	}
	netns, err := boxes[0].box.OpenNetNS()
	if errors.Is(err, sandbox.ErrGone) {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %q is not running", name))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot forward to pod %q: %w", name, err)
	}
	defer func() { _ = closeAll(netns) }()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := cni.DialPod(ctx, netns, port)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return nil, apierrors.NewBadRequest(fmt.Sprintf("nothing listens on port %d of pod %q: connection refused", port, name))
	case err != nil:
		return nil, fmt.Errorf("connect to port %d of pod %q: %w", port, name, err)
	}
	return conn, nil
}

// boxes returns the containers of the pod that there are on this machine and
// that have not ended, in no order. Safe for concurrent use.
func (w *worker) boxes() []*container {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*container
	for _, c := range w.live {
		if c.box != nil && !c.isOver() {
			all = append(all, c)
		}
	}
	return all
}
