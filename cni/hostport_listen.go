package cni

import (
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"get.podrun.dev/podrun/internal/fault"
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

	served []interface{ close() }
	wait   sync.WaitGroup // for UDP
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
	t, err := h.listenTCP(s)
	if err != nil {
		return err
	}
	h.served = append(h.served, t)
	return nil
}

// Close ends this process's part: connections end, and what was listened on
// stays with the reaper, where new ones wait for the next node. It may be called
// again.
func (h *HostPorts) Close() {
	for _, s := range h.served {
		s.close()
	}
	h.wait.Wait()
	for _, s := range h.sockets {
		_ = s.file.Close()
	}
	h.served, h.sockets = nil, nil
}
