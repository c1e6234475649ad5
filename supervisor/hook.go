package supervisor

import "context"

// postStart runs the postStart hook of a container that was started, if it has
// one. It returns when the hook has ended, the container has, or ctx ends. A
// hook that fails ends the container.
func (w *worker) postStart(ctx context.Context, c *container) {}

// preStop runs the preStop hook of a container that is about to be stopped, if
// it has one. It returns when the hook has ended, the container has, or ctx
// ends, which it does with the grace period.
func (w *worker) preStop(ctx context.Context, c *container) {}
