package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"get.podrun.dev/podrun/internal/probe"
	"get.podrun.dev/podrun/sandbox"
)

// podIP is the pod's address, "" before it has one. Safe for concurrent use.
func (w *worker) podIP() string { return *w.address.Load() }

// dial connects probes and hooks to a server. The kubelet does so from its
// host, which reaches the pods; here the pods are reached from within their
// network, and all else, as a host name in a manifest or a pod in the host's
// network, from the host's. Safe for concurrent use.
func (w *worker) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addr, err := netip.ParseAddr(host)
	if err == nil && !w.hostNetwork && (host == w.podIP() || w.s.network.Contains(addr)) {
		return w.s.network.Dial(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// timedOut is a program that was killed because it took too long.
type timedOut struct{ command []string }

func (e *timedOut) Error() string {
	return fmt.Sprintf("command %q timed out", strings.Join(e.command, " "))
}

// runIn runs a program in the container, as its user and in its environment,
// and returns its exit code and the first of what it prints. It is killed, with
// its children, when ctx ends, and after timeout (0 for none), which is a
// *timedOut. As long may its start take.
func runIn(ctx context.Context, c *container, command []string, timeout time.Duration) (code int, output string, err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = read.Close() }()
	starting := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		starting, cancel = context.WithTimeoutCause(ctx, timeout, &timedOut{command})
		defer cancel()
	}
	process, err := c.box.Exec(starting, sandbox.ExecConfig{Args: command, Stdout: write, Stderr: write})
	if err := errors.Join(err, write.Close()); err != nil {
		return 0, "", err
	}
	var expired <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		expired = timer.C
	}
	printed := make(chan string, 1)
	go func() {
		var b strings.Builder
		_, _ = io.Copy(&b, io.LimitReader(read, probe.MaxOutput))
		_, _ = io.Copy(io.Discard, read)
		printed <- b.String()
	}()
	select {
	case <-process.Done():
	case <-expired:
		err = &timedOut{command}
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		if kerr := process.Kill(); kerr != nil && !errors.Is(kerr, sandbox.ErrGone) {
			err = errors.Join(err, kerr)
		}
	}
	exit, werr := process.Wait()
	// What it left running may hold the pipe open.
	_ = read.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	return exit.Code, <-printed, errors.Join(err, werr)
}
