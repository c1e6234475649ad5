// Package probe asks a server how it is: by an HTTP request, by a TCP
// connection, or by the gRPC health protocol, as the kubelet's probes and
// lifecycle hooks do (https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/).
//
// It makes one attempt and words its outcome. When an attempt is made, what
// several of them in a row mean and what is done about it is the caller's, and
// so is the way to the server: every connection is made by a Dial and is
// closed before the attempt returns.
package probe

import (
	"context"
	"net"
	"sync"
)

// Dial connects to an IP address and port, or to a name and port if the
// manifest has a name.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Result is what one attempt found.
type Result string

// The results.
const (
	Success Result = "success"
	Warning Result = "warning" // a success that deserves a word
	Failure Result = "failure"
	// Unknown is an attempt that could not be made, for a reason that says
	// nothing about the server.
	Unknown Result = "unknown"
)

// Outcome is the result of one attempt, in the words of the kubelet's events.
type Outcome struct {
	Result Result
	Output string
}

// MaxOutput is how much of what a server or a program says is read.
const MaxOutput = 10 << 10

// version is the Kubernetes version whose probes these are, for servers that
// look at the user agent.
const version = "1.37"

// failure is a failed attempt. A server has a say in its text, by a header or
// by where it redirects to: no more of it is kept than of any answer.
func failure(text string) Outcome { return Outcome{Failure, text[:min(len(text), MaxOutput)]} }

// connections are those of one attempt. They end with it, whatever package
// http would keep them for: it goes on connecting for a request that has timed
// out, and leaves a connection to the next one.
type connections struct {
	dial   Dial
	ended  context.Context
	cancel context.CancelFunc

	mu   sync.Mutex
	open []net.Conn
}

// newConnections returns the connections of an attempt under ctx. They must be
// closed.
func newConnections(ctx context.Context, dial Dial) *connections {
	c := &connections{dial: dial}
	c.ended, c.cancel = context.WithCancel(ctx)
	return c
}

// connect is a DialContext; the context that it is given lasts longer than the
// attempt.
func (c *connections) connect(_ context.Context, network, address string) (net.Conn, error) {
	conn, err := c.dial(c.ended, network, address)
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		// Closing discards what is under way after a second at the most:
		// frequent probes leave no heap of connections in TIME_WAIT.
		_ = tcp.SetLinger(1)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.ended.Err(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	c.open = append(c.open, conn)
	return conn, nil
}

// connected tells whether there was one.
func (c *connections) connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open) > 0
}

func (c *connections) close() {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.open {
		_ = conn.Close()
	}
}
