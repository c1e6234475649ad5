package cni

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"get.podrun.dev/podrun/internal/relay"
)

const (
	// maxConnecting is how many connections of pods may wait for their
	// destination at once; a SYN beyond it is dropped and sent again.
	maxConnecting = 1024
	// connectTimeout is how long a destination has to answer.
	connectTimeout = 15 * time.Second
)

// tcpForwarder takes the pods' connections to the outside and makes them
// anew from the host: the destination first, so that what it says, refusal
// included, is what the pod is told.
type tcpForwarder struct {
	ctx           context.Context
	gateway, host tcpip.Address
	log           *slog.Logger
}

// handle is called on a goroutine of its own for each SYN.
func (f *tcpForwarder) handle(r *tcp.ForwarderRequest) {
	id := r.ID()
	if id.LocalAddress == f.gateway {
		r.Complete(true) // nothing listens there but what the stack knows of
		return
	}
	to := netip.AddrPortFrom(netip.AddrFrom4(id.LocalAddress.As4()), id.LocalPort)
	if id.LocalAddress == f.host {
		to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), id.LocalPort)
	}
	dialer := net.Dialer{Timeout: connectTimeout}
	outside, err := dialer.DialContext(f.ctx, "tcp4", to.String())
	if err != nil {
		f.log.Debug("connect for a pod", "to", to, "err", err)
		r.Complete(true)
		return
	}
	var queue waiter.Queue
	endpoint, tcpErr := r.CreateEndpoint(&queue)
	if tcpErr != nil {
		f.log.Debug("accept from a pod", "to", to, "err", tcpErr.String())
		r.Complete(true)
		_ = outside.Close()
		return
	}
	r.Complete(false)
	endpoint.SocketOptions().SetKeepAlive(true)
	relay.Join(f.ctx, gonet.NewTCPConn(&queue, endpoint), outside.(*net.TCPConn))
}
