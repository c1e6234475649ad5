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
// end of one direction is passed on as such. Between two TCP connections the
// bytes stay in the kernel: io.Copy splices them.
func Join(ctx context.Context, a, b Half) {
	stop := context.AfterFunc(ctx, func() { _ = a.Close(); _ = b.Close() })
	defer stop()
	var wait sync.WaitGroup
	wait.Go(func() { copyHalf(a, b) })
	wait.Go(func() { copyHalf(b, a) })
	wait.Wait()
	_ = a.Close()
	_ = b.Close()
}

func copyHalf(dst, src Half) {
	if _, err := io.Copy(dst, src); err != nil {
		// A broken connection is broken both ways.
		_ = dst.Close()
		_ = src.Close()
		return
	}
	_ = dst.CloseWrite()
}
