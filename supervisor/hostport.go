package supervisor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/internal/fault"
)

// hostPortRetry is how long a pod waits for a port of the host that it could
// not get, before it tries again. The end of another pod is told at once.
const hostPortRetry = 5 * time.Second

// reasonUnschedulable is that of the condition of a pod that waits for a port.
const reasonUnschedulable = "Unschedulable"

// hostPorts are the ports of the host that a pod asks for. Of init containers
// only sidecars', as the scheduler counts them.
func hostPorts(p *corev1.Pod) (ports []cni.HostPort) {
	for _, c := range allContainers(p) {
		if role, _ := roleOf(p, c.Name); role == Init {
			continue
		}
		for _, port := range c.Ports {
			if port.HostPort == 0 {
				continue
			}
			hp := cni.HostPort{
				Protocol: strings.ToLower(string(port.Protocol)), HostIP: parseAddr(port.HostIP),
				Port: uint16(port.HostPort), PodPort: uint16(port.ContainerPort),
			}
			if !slices.Contains(ports, hp) {
				ports = append(ports, hp)
			}
		}
	}
	return ports
}

// portClaims says which pod has which ports of the host, those of pods in the
// host's network included. Safe for concurrent use; the zero value has none.
type portClaims struct {
	mu    sync.Mutex
	held  map[types.UID]portClaim
	freed chan struct{} // closed when one is given back, and made anew
}

type portClaim struct {
	pod   string // namespace/name
	ports []cni.HostPort
}

// take claims all ports for a pod, or none. It may be called again.
func (c *portClaims) take(uid types.UID, pod string, ports []cni.HostPort) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for other, claim := range c.held {
		if other == uid {
			continue
		}
		for _, held := range claim.ports {
			for _, p := range ports {
				if p.Overlaps(held) {
					return fmt.Errorf("host port %s is held by pod %s", p, claim.pod)
				}
			}
		}
	}
	if c.held == nil {
		c.held = map[types.UID]portClaim{}
	}
	c.held[uid] = portClaim{pod, ports}
	return nil
}

// drop gives back what take got, of which nobody needs to hear: the ports could
// not be had.
func (c *portClaims) drop(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, uid)
}

// release gives back the ports of a pod, and tells those who wait for some.
func (c *portClaims) release(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.held[uid]; !ok {
		return
	}
	delete(c.held, uid)
	if c.freed != nil {
		close(c.freed)
		c.freed = nil
	}
}

// next returns a channel that is closed by the next release.
func (c *portClaims) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.freed == nil {
		c.freed = make(chan struct{})
	}
	return c.freed
}

// reclaim gives the pods of an earlier node the ports that they had. pods are
// in the order of their creation.
func (c *portClaims) reclaim(workers []*worker) {
	for _, w := range workers {
		if w.run.Unscheduled == "" && w.run.State != Finished {
			if ports := hostPorts(w.pod); len(ports) > 0 {
				_ = c.take(w.uid, w.namespace+"/"+w.name, ports)
			}
		}
	}
}

// takePorts gets the pod the ports of the host that it asks for, before
// anything else is made of it. Nobody is let in yet.
func (w *worker) takePorts(ctx context.Context) error {
	ports := hostPorts(w.pod)
	if len(ports) == 0 {
		return nil
	}
	w.freed = w.s.ports.next() // before the look, so that no end is missed
	if err := w.s.ports.take(w.uid, w.namespace+"/"+w.name, ports); err != nil {
		w.s.network.ReleaseHostPorts(string(w.uid), ports) // of an earlier node, which knew no better
		return portError(err)
	}
	if w.ports == nil && !w.pod.Spec.HostNetwork {
		var err error
		if w.ports, err = w.s.network.OpenHostPorts(string(w.uid), ports); err != nil {
			w.s.ports.drop(w.uid)
			return portError(err)
		}
	}
	if !slices.ContainsFunc(w.events, func(e *corev1.Event) bool { return e.Reason == eventScheduled }) {
		w.noteScheduled()
	}
	if w.run.Unscheduled != "" {
		w.save(ctx, func(p *corev1.Pod, r *run) {
			r.Unscheduled = ""
			for _, c := range allContainers(p) {
				if s := statusOf(p, c.Name); s.State == (corev1.ContainerState{}) {
					setWaiting(s, firstReason(p), "")
				}
			}
		})
	}
	return nil
}

func portError(err error) error {
	return &startError{reason: reasonUnschedulable, event: "FailedScheduling", err: err}
}

// servePorts lets clients of the host ports into the pod, before its programs
// run. It may be called again.
func (w *worker) servePorts() error {
	if w.ports == nil || w.served == w.box || w.net == nil {
		return nil
	}
	var ips []netip.Addr
	for _, ip := range w.net.IPs {
		ips = append(ips, ip.Addr())
	}
	return w.serveAt(ips)
}

// serveAt has the host ports lead to the sandbox, which has the addresses ips.
func (w *worker) serveAt(ips []netip.Addr) error {
	if err := w.ports.Serve(cni.Target{NetNS: w.box.OpenNetNS, IPs: ips}); err != nil {
		return portError(err)
	}
	w.served = w.box
	return nil
}

// reopenPorts takes up the ports of a pod that an earlier node ran. When that
// fails the pod goes on without, and it is tried again.
func (w *worker) reopenPorts(ips []netip.Addr) {
	if w.pod.Spec.HostNetwork || len(hostPorts(w.pod)) == 0 || len(ips) == 0 || w.run.Unscheduled != "" {
		return
	}
	err := w.tryReopenPorts(ips)
	if err == nil {
		return
	}
	w.warn("HostPortConflict", "", explain(err))
	w.s.goroutines.Go(func() {
		for open := false; !open && pause(w.ctx, hostPortRetry); {
			try := func() { open = w.tryReopenPorts(ips) == nil }
			tried := make(chan struct{})
			select {
			case w.calls <- func() { try(); close(tried) }:
				<-tried
			case <-w.done:
				return
			case <-w.ctx.Done():
				return
			}
		}
	})
}

// tryReopenPorts is for the worker's goroutine.
func (w *worker) tryReopenPorts(ips []netip.Addr) error {
	if w.ports != nil || w.box == nil {
		return nil // a start has seen to it, or will
	}
	ports := hostPorts(w.pod)
	if err := w.s.ports.take(w.uid, w.namespace+"/"+w.name, ports); err != nil {
		return err
	}
	var err error
	if w.ports, err = w.s.network.OpenHostPorts(string(w.uid), ports); err != nil {
		return err
	}
	return w.serveAt(ips)
}

// closePorts ends this node's part in the host ports.
func (w *worker) closePorts() {
	if w.ports != nil {
		w.ports.Close()
		w.ports, w.served = nil, nil
	}
}

// releasePorts gives the host ports back. It is idempotent.
func (w *worker) releasePorts() error {
	ports := hostPorts(w.pod)
	if len(ports) == 0 {
		return nil
	}
	if err := fault.Point("teardown.hostports"); err != nil {
		return err
	}
	w.closePorts()
	w.s.network.ReleaseHostPorts(string(w.uid), ports)
	w.s.ports.release(w.uid)
	return nil
}

// portsFreed tells, for a pod that waits for a port of the host, when another
// pod gave some back. A pod that an earlier node left waiting need not wait.
func (w *worker) portsFreed() <-chan struct{} {
	if w.run.Unscheduled == "" {
		return nil
	}
	if w.freed == nil {
		now := make(chan struct{})
		close(now)
		return now
	}
	return w.freed
}
