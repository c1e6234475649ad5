package probe

import (
	"context"
	"time"
)

// TCP tries to open a connection to address. A server that accepts is well.
func TCP(ctx context.Context, dial Dial, address string, timeout time.Duration) Outcome {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := lingering(dial)(ctx, "tcp", address)
	if err != nil {
		return failure(err.Error())
	}
	_ = conn.Close()
	return Outcome{Result: Success}
}
