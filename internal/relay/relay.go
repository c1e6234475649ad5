// Package relay joins two connections into one: what comes in on either goes
// out on the other. It knows no addresses and makes no connections.
package relay

import (
	"context"
	"io"
	"net"
	"sync"
)

// Half is a connection whose sending side can be ended alone.
type Half interface {
	net.Conn
	CloseWrite() error
}

// Join copies both ways until both are done or ctx ends, and closes both. The
// end of one direction is passed on as such, and a reset or any other break as
// a reset. Between two TCP connections the bytes stay in the kernel: io.Copy
// splices them.
func Join(ctx context.Context, a, b Half) {
	stop := context.AfterFunc(ctx, func() { _ = a.Close(); _ = b.Close() })
	defer stop()
	var wait sync.WaitGroup
	wait.Go(func() { copyHalf(ctx, a, b) })
	wait.Go(func() { copyHalf(ctx, b, a) })
	wait.Wait()
	_ = a.Close()
	_ = b.Close()
}

func copyHalf(ctx context.Context, dst, src Half) {
	if _, err := io.Copy(dst, src); err != nil {
		if ctx.Err() != nil {
			return // nothing broke: both are being closed
		}
		// A broken connection is broken both ways.
		reset(dst)
		reset(src)
		return
	}
	_ = dst.CloseWrite()
}

// reset closes a connection so that the other side learns that it broke, where
// its kind knows how to tell.
func reset(c Half) {
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = c.Close()
}
