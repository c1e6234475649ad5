package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/fault"
)

const (
	// hostPortBacklog is how many connections wait to be taken, for as long as
	// no node runs too. The kernel's net.core.somaxconn may make it less.
	hostPortBacklog = 4096
	// maxHostPortConnections is how many connections of one port are open at
	// once; more of them wait in the backlog.
	maxHostPortConnections = 4096
	// podDialTimeout is how long a server in a pod has to take a connection.
	podDialTimeout = 15 * time.Second
	// acceptPause is waited when no connection can be taken, as when all
	// descriptors are in use.
	acceptPause = 100 * time.Millisecond
)

// Target is the pod that host ports lead to.
type Target struct {
	// NetNS opens its network namespace. It fails when the sandbox has died.
	NetNS func() (*os.File, error)
	// IPs are its addresses.
	IPs []netip.Addr
}

// HostPorts are the ports of the host that lead to one pod. Methods are for one
// caller at a time.
type HostPorts struct {
	n       *Network
	id      string
	sockets []hostSocket
	passage atomic.Pointer[passage]

	ctx    context.Context // of connections
	cancel context.CancelFunc
	served []interface{ close() }
	wait   sync.WaitGroup
}

// hostSocket is one bound socket of the host.
type hostSocket struct {
	port HostPort
	addr netip.Addr
	file *os.File
}

// OpenHostPorts takes ports of the host for the pod id, or takes up those that
// an earlier node of the same reaper took for it. Clients are refused until
// Serve. After an error nothing is taken.
func (n *Network) OpenHostPorts(id string, ports []HostPort) (_ *HostPorts, err error) {
	h := &HostPorts{n: n, id: id}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			h.Close()
			n.ReleaseHostPorts(id, ports)
		}
	}()
	for i, p := range ports {
		for _, before := range ports[:i] {
			if before.Overlaps(p) {
				return nil, fmt.Errorf("host port %s is asked for twice by the same pod", p)
			}
		}
		for _, addr := range p.addresses() {
			key := hostPortKey(id, p, addr)
			file, kept := n.o.Kept(key)
			if !kept {
				if file, err = bindHostPort(p, addr); err != nil {
					return nil, err
				}
			}
			if file == nil {
				continue
			}
			h.sockets = append(h.sockets, hostSocket{p, addr, file})
			if err := fault.Point("hostport.bound"); err != nil {
				return nil, err
			}
			if !kept {
				if err := n.o.Keep(key, file); err != nil {
					return nil, err
				}
			}
		}
	}
	if err := fault.Point("hostport.kept"); err != nil {
		return nil, err
	}
	return h, nil
}

// ReleaseHostPorts lets go of what outlives this process. It works without
// HostPorts, and may be called again; HostPorts are to be closed before.
func (n *Network) ReleaseHostPorts(id string, ports []HostPort) {
	for _, p := range ports {
		for _, addr := range p.addresses() {
			n.o.Drop(hostPortKey(id, p, addr))
		}
	}
}

func hostPortKey(id string, p HostPort, addr netip.Addr) string {
	return "hostport/" + id + "/" + p.Protocol + "/" + netip.AddrPortFrom(addr, p.Port).String()
}

// Serve sends what comes to the ports to t, from now on. Another call with
// another target ends the flows to the one before.
func (h *HostPorts) Serve(t Target) error {
	p := &passage{Target: t, host: h.n.plan.host, host6: h.n.plan.host6, clients: map[netip.Addr]int{}}
	if err := p.open(h.sockets); err != nil {
		p.plain = true
		h.n.log.Warn("client addresses are not kept", "sandbox", h.id, "err", err)
	}
	h.passage.Store(p)
	if h.served != nil {
		for _, s := range h.served {
			if u, ok := s.(*udpPort); ok {
				u.endFlows()
			}
		}
		return nil
	}
	for _, s := range h.sockets {
		if err := h.serve(s); err != nil {
			return err
		}
	}
	return nil
}

func (h *HostPorts) serve(s hostSocket) error {
	if s.port.Protocol == "udp" {
		u, err := h.openUDP(s)
		if err != nil {
			return fmt.Errorf("host port %s: %w", s.port, err)
		}
		h.served = append(h.served, u)
		h.wait.Go(u.run)
		return nil
	}
	// Not net.Listen, which would bind it too. To do it again is no error.
	if err := unix.Listen(int(s.file.Fd()), hostPortBacklog); err != nil {
		return explainBind(s.port, s.addr, os.NewSyscallError("listen", err))
	}
	l, err := net.FileListener(s.file)
	if err != nil {
		return fmt.Errorf("host port %s: %w", s.port, err)
	}
	t := &tcpPort{h: h, port: s.port, listener: l.(*net.TCPListener), slots: make(chan struct{}, maxHostPortConnections)}
	h.served = append(h.served, t)
	h.wait.Go(t.run)
	return nil
}

// Close ends this process's part: connections end, and what was listened on
// stays with the reaper, where new ones wait for the next node. It may be called
// again.
func (h *HostPorts) Close() {
	h.cancel()
	for _, s := range h.served {
		s.close()
	}
	h.wait.Wait()
	for _, s := range h.sockets {
		_ = s.file.Close()
	}
	h.served, h.sockets = nil, nil
}

// tcpPort is one listening socket.
type tcpPort struct {
	h        *HostPorts
	port     HostPort
	listener *net.TCPListener
	slots    chan struct{}
}

func (t *tcpPort) close() { _ = t.listener.Close() }

func (t *tcpPort) run() {
	for {
		select {
		case t.slots <- struct{}{}:
		case <-t.h.ctx.Done():
			return
		}
		client, err := t.listener.AcceptTCP()
		if err != nil {
			<-t.slots
			if t.h.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			t.h.n.log.Warn("accept on a host port", "port", t.port.String(), "err", err)
			select {
			case <-time.After(acceptPause):
			case <-t.h.ctx.Done():
			}
			continue
		}
		t.h.wait.Go(func() {
			defer func() { <-t.slots }()
			t.forward(client)
		})
	}
}

// forward joins one connection to the pod's server. One that the server does
// not take is reset, which is as near to a refusal as there is by now.
func (t *tcpPort) forward(client *net.TCPConn) {
	ctx, cancel := context.WithTimeout(t.h.ctx, podDialTimeout)
	server, err := t.h.dial(ctx, client.RemoteAddr().(*net.TCPAddr).AddrPort(), t.port.PodPort)
	cancel()
	if err != nil {
		t.h.n.log.Debug("connect a host port", "port", t.port.String(), "err", err)
		_ = client.SetLinger(0)
		_ = client.Close()
		return
	}
	t.h.n.splicer.Join(t.h.ctx, client, server)
}
