package probe

import (
	"context"
	"time"
)

// TCP tries to open a connection to address. A server that accepts is well.
func TCP(ctx context.Context, dial Dial, address string, timeout time.Duration) Outcome {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	connections := newConnections(ctx, dial)
	defer connections.close()
	if _, err := connections.connect(ctx, "tcp", address); err != nil {
		return failure(err.Error())
	}
	return Outcome{Result: Success}
}
