package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/probe"
)

// postStart runs the postStart hook of a container that was started, if it has
// one. It returns when the hook has ended, the container has, or ctx ends. A
// hook that fails ends the container.
func (w *worker) postStart(ctx context.Context, c *container) {
	if c.spec.Lifecycle == nil || c.spec.Lifecycle.PostStart == nil {
		return
	}
	hook, done := c.whileRunning(ctx)
	defer done()
	err := w.runHook(hook, c, c.spec.Lifecycle.PostStart)
	if err == nil || hook.Err() != nil {
		return // if the container has ended, that is judged
	}
	w.log.Info("postStart hook failed", "container", c.name, "err", err)
	// Not why: the answer of a server is nothing for whoever reads events.
	w.warn("FailedPostStartHook", c.field, "PostStartHook failed")
	w.kill(c, c.grace, "FailedPostStartHook")
	_ = waitFor(hook, c.over)
}

// preStop runs the preStop hook of a container that is about to be stopped, if
// it has one. It returns when the hook has ended, the container has, or ctx
// ends, which it does with the grace period. A container that is stopped twice
// runs its hook once.
func (w *worker) preStop(ctx context.Context, c *container) {
	if c.spec.Lifecycle == nil || c.spec.Lifecycle.PreStop == nil {
		return
	}
	if !c.stopping.CompareAndSwap(false, true) {
		select {
		case <-c.stopHook:
		case <-c.over:
		case <-ctx.Done():
		}
		return
	}
	defer close(c.stopHook)
	hook, done := c.whileRunning(ctx)
	defer done()
	if err := w.runHook(hook, c, c.spec.Lifecycle.PreStop); err != nil && hook.Err() == nil {
		w.log.Info("preStop hook failed", "container", c.name, "err", err)
		w.warn("FailedPreStopHook", c.field, "PreStopHook failed")
	}
}

// whileRunning returns a context that ends with ctx or with the container.
// done must be called.
func (c *container) whileRunning(ctx context.Context) (running context.Context, done func()) {
	running, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-c.over:
			cancel()
		case <-running.Done():
		}
	}()
	return running, cancel
}

// runHook runs one hook to its end or that of ctx.
func (w *worker) runHook(ctx context.Context, c *container, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		code, output, err := runIn(ctx, c, h.Exec.Command, 0)
		if err == nil && code != 0 {
			err = fmt.Errorf("command %q exited with %d: %.200s", h.Exec.Command, code, output)
		}
		return err
	case h.HTTPGet != nil:
		port, err := probe.Port(h.HTTPGet.Port, c.spec)
		if err != nil {
			return err
		}
		req, err := probe.Request(ctx, h.HTTPGet, w.podIP(), port, "lifecycle")
		if err != nil {
			return err
		}
		fellBack, err := probe.Hook(w.dial, req)
		if fellBack {
			w.warn("LifecycleHTTPFallback", "", fmt.Sprintf("request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", req.URL.Host))
		}
		return err
	case h.Sleep != nil:
		pause(ctx, time.Duration(h.Sleep.Seconds)*time.Second)
		return nil
	}
	return errors.New("the hook has no handler that can be run")
}
