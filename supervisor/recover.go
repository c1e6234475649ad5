package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/sandbox"
)

// recover takes up what an earlier node left of the pod: containers of the
// current incarnations that were started are watched again, whatever state
// the pod is in; everything else in the sandbox is removed. That is no
// restart: a container held before exec has not run, and an older incarnation
// was counted when it was replaced.
func (w *worker) recover(ctx context.Context) error {
	if w.box == nil {
		box, err := w.s.sandboxes.OpenSandbox(string(w.uid))
		if errors.Is(err, sandbox.ErrGone) || errors.Is(err, sandbox.ErrNotFound) {
			return nil // openSandbox and tearDown see to the rest
		}
		if err != nil {
			return fmt.Errorf("open sandbox: %w", err)
		}
		w.box = box
		var addrs []netip.Addr
		for _, ip := range w.pod.Status.PodIPs {
			addrs = append(addrs, parseAddr(ip.IP))
		}
		w.publish(w.pod, addrs)
		w.reopenPorts(addrs)
	}
	names := map[string]string{}
	for name := range w.run.Incarnation {
		names[w.run.id(name)] = name
	}
	ids, err := w.box.Containers()
	if err != nil {
		return err
	}
	for _, id := range ids {
		name, current := names[id]
		if current {
			if adopted, err := w.adopt(name, id); adopted || err != nil {
				if err := errors.Join(err, fault.Point("recover.adopted")); err != nil {
					return err
				}
				continue
			}
		}
		if err := w.box.DeleteContainer(ctx, id); err != nil {
			return err
		}
		if err := w.s.images.RemoveRootfs(w.s.rootfsDir(id)); err != nil {
			return err
		}
	}
	return nil
}

// adopt watches a container that an earlier node started, and tells whether
// it did.
func (w *worker) adopt(name, id string) (bool, error) {
	if w.container(name) != nil {
		return true, nil // by an attempt that failed later
	}
	box, err := w.box.OpenContainer(id)
	if errors.Is(err, sandbox.ErrGone) || errors.Is(err, sandbox.ErrNotFound) || err == nil && !box.Started() {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	c := w.newContainer(name)
	c.box, c.started = box, box.StartTime()
	c.running.Store(true)
	err = w.copyOutput(w.ctx, c)
	// It went with the reaper that kept it. For a program that is as if whoever
	// sits before it had hung up; as process 1 it is sent no SIGHUP by the kernel.
	hungUp := c.spec.TTY && errors.Is(err, os.ErrNotExist)
	if err != nil && !hungUp {
		return false, err
	}
	w.setLive(c)
	w.awaitEnd(w.ctx, c)
	if hungUp {
		w.warn("TerminalLost", c.field, "Its terminal went with the process that kept it: the container is ended")
		if err := box.Kill(); err != nil {
			return false, err
		}
	}
	// Running is saved when the hook was run.
	if c.hooked = w.wasRunning(name, id); c.hooked {
		w.probe(c, lookStatus(w.pod, name))
	}
	return true, nil
}
