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

func failure(text string) Outcome { return Outcome{Failure, text} }

// lingering makes closing conn discard what is under way after a second at the
// most, so that frequent probes do not pile up connections in TIME_WAIT.
func lingering(dial Dial) Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(1)
		}
		return conn, err
	}
}
