package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/pod"
	"get.podrun.dev/podrun/sandbox"
)

// startError is why a pod could not be started for now.
type startError struct {
	container string // "" when the pod itself could not be started
	reason    string // the container's waiting reason
	event     string // the event's, when it is not the usual one
	err       error
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// starting brings the pod to Running, from nothing or from whatever an
// earlier node left: each step first looks for what is already there.
func (w *worker) starting(ctx context.Context) {
	if reason, message := rejection(w.pod); reason != "" {
		w.warn(reason, "", message)
		w.to(ctx, Finishing, func(p *corev1.Pod, r *run) {
			r.Ended = &ended{Phase: corev1.PodFailed, Reason: reason, Message: "Pod was rejected: " + message}
			for _, c := range allContainers(p) {
				statusOf(p, c.Name).State = corev1.ContainerState{} // it waits for nothing
			}
		})
		return
	}
	startCtx, done := w.abortable(ctx)
	defer done()
	err := w.start(startCtx)
	switch {
	case ctx.Err() != nil || w.deletionRequested() || w.run.State != Starting:
		return // the node ends, a person deletes, or the end of a container decided
	case errors.Is(startCtx.Err(), context.DeadlineExceeded):
		w.expire(ctx)
	case err == nil:
		w.to(ctx, Running, func(p *corev1.Pod, r *run) {
			w.s.setLimits(p, time.Now())
			for _, c := range w.containers() {
				if r.id(c.name) != c.id || c.failedToStart() || w.wasRunning(c.name, c.id) {
					continue
				}
				setRunning(statusOf(p, c.name), c)
				r.History.Started = c.started
			}
			r.Retries = 0
		})
	default:
		w.startFailed(ctx, err)
	}
}

// start makes what the pod needs, in the order in which one thing needs the
// other: images beside sandbox and network, then the init containers one by
// one, then all containers at once, held before their first instruction until
// the last of them and the address are there.
func (w *worker) start(ctx context.Context) error {
	network := w.newConnection()
	step := w.steps()
	if err := w.takePorts(ctx); err != nil {
		return err
	}

	images := w.beginPulls(ctx, allContainers(w.pod))
	defer images.end()
	if w.hasImageVolumes() {
		if err := images.wait(ctx, false); err != nil {
			return err
		}
		w.pin(ctx, images)
	}
	volumes, err := w.prepareVolumes(images.volumeImages())
	if err != nil {
		return err
	}
	if err := w.writeFiles(w.pod, w.net); err != nil {
		return &startError{reason: reasonCreating, err: err}
	}
	if err := w.openSandbox(ctx); err != nil {
		return &startError{reason: reasonCreating, err: err}
	}
	step("sandbox")
	// A pod that has its address already may have sidecars.
	alone := w.net != nil
	network.begin(ctx, w.box.NetNS())
	if err := images.wait(ctx, alone); err != nil {
		return errors.Join(err, network.wait())
	}
	step("images")
	w.pin(ctx, images)
	step("pinned")
	if needsAddress(w.pod) || len(w.pod.Spec.InitContainers) > 0 {
		if err := errors.Join(network.wait(), w.servePorts()); err != nil {
			return err
		}
	}
	b := builder{w: w, images: images.images, volumes: volumes}
	if err := w.initialize(ctx, b); err != nil {
		return errors.Join(err, network.wait())
	}
	made, err := w.makeAll(ctx, b)
	step("containers made")
	if err := errors.Join(err, network.wait()); err != nil {
		return err
	}
	if err := w.servePorts(); err != nil {
		return err
	}
	step("network")
	defer step("containers started")
	w.fault("container.start")
	return w.startAll(ctx, made...)
}

// steps returns a function that logs a step of a start and how long after the
// start's beginning it was done.
func (w *worker) steps() func(name string) {
	if !w.log.Enabled(context.Background(), slog.LevelDebug) {
		return func(string) {}
	}
	began := time.Now()
	return func(name string) { w.log.Debug("start", "step", name, "took", time.Since(began)) }
}

// connection is the pod's way into the network while the pod starts: it is
// made beside the containers and waited for only where the address is needed.
type connection struct {
	w      *worker
	pod    *corev1.Pod
	group  errgroup.Group
	result *cni.Result
}

func (w *worker) newConnection() *connection {
	return &connection{w: w, pod: w.pod, result: w.net}
}

// begin joins the network namespace netns to the network. A pod that was
// joined before gets the same answer again.
func (n *connection) begin(ctx context.Context, netns string) {
	n.result = n.w.net
	if n.result != nil {
		return
	}
	request, err := n.w.cniPod(netns)
	n.group.Go(func() error {
		if err != nil {
			return &startError{reason: reasonCreating, err: fmt.Errorf("set up network: %w", err)}
		}
		if n.pod.Spec.HostNetwork {
			n.result = n.w.s.network.Host(parseAddr(n.w.s.hostIP))
			for _, capability := range slices.Sorted(maps.Keys(request.Capabilities)) {
				n.w.warn("NetworkCapability", "", fmt.Sprintf("what the pod asks for has no effect: no plugin with the capability %s makes the host's network", capability))
			}
		} else if n.result, err = n.w.s.network.Add(ctx, request); err != nil {
			return &startError{reason: reasonCreating, err: fmt.Errorf("set up network: %w", err)}
		}
		for _, name := range n.result.Omitted {
			n.w.warn("NetworkCapability", "", fmt.Sprintf("what the pod asks for has no effect: its network has no plugin with the capability %s", name))
		}
		if err := n.w.writeFiles(n.pod, n.result); err != nil {
			return &startError{reason: reasonCreating, err: err}
		}
		var addrs []netip.Addr
		for _, ip := range n.result.IPs {
			addrs = append(addrs, ip.Addr())
		}
		n.w.publish(n.pod, addrs)
		return nil
	})
}

// wait returns when the pod has its address, in w.net, or cannot have one. It
// may be called again, by the worker's goroutine only.
func (n *connection) wait() error {
	err := n.group.Wait()
	n.w.net = n.result
	if n.result != nil && len(n.result.IPs) > 0 {
		ip := n.result.IPs[0].Addr().String()
		n.w.address.Store(&ip)
	}
	return err
}

// openSandbox finds the pod's sandbox or makes it.
func (w *worker) openSandbox(ctx context.Context) error {
	if w.box != nil {
		select {
		case <-w.box.Done():
			if err := w.dropSandbox(ctx); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	box, err := w.s.sandboxes.OpenSandbox(string(w.uid))
	if err == nil {
		w.box = box
		return nil
	}
	if !errors.Is(err, sandbox.ErrGone) && !errors.Is(err, sandbox.ErrNotFound) {
		return fmt.Errorf("open sandbox: %w", err)
	}
	// What a dead sandbox left: its address is given back before the new
	// sandbox asks for it again.
	if err := w.leaveNetwork(ctx); err != nil {
		return fmt.Errorf("remove network of the dead sandbox: %w", err)
	}
	if err := w.dropSandbox(ctx); err != nil {
		return fmt.Errorf("remove the dead sandbox: %w", err)
	}
	config, err := w.sandboxConfig()
	if err != nil {
		return err
	}
	w.box, err = w.s.sandboxes.CreateSandbox(ctx, config)
	if err != nil {
		return fmt.Errorf("create sandbox: %w", err)
	}
	return errors.Join(fault.Point("sandbox.anchor"), w.s.anchor(w.box.Pid()))
}

// sandboxConfig says what namespaces the pod has and what is set in them.
func (w *worker) sandboxConfig() (sandbox.Config, error) {
	spec := &w.pod.Spec
	nodename, err := w.s.nodename(w.pod)
	return sandbox.Config{
		ID: string(w.uid), Name: w.namespace + "/" + w.name,
		Hostname: nodename, Sysctls: sysctls(w.pod),
		HostNetwork: spec.HostNetwork, HostPID: spec.HostPID, HostIPC: spec.HostIPC,
		SharePID: isTrue(spec.ShareProcessNamespace), Resources: podResources(w.pod),
		OwnUsers: !w.s.machine.rootless && spec.HostUsers != nil && !*spec.HostUsers,
	}, err
}

// publish makes the pod known by name, ready or not: the pods of a group look
// for each other while they become ready. It is safe for concurrent use with
// the worker.
func (w *worker) publish(p *corev1.Pod, addrs []netip.Addr) {
	if len(addrs) == 0 {
		return
	}
	w.s.network.Publish(string(w.uid), cni.Names{
		Namespace: w.namespace, Name: w.name, Hostname: hostname(p), Subdomain: p.Spec.Subdomain,
		Addrs: addrs, Host: p.Spec.HostNetwork,
	})
}

// leaveNetwork takes the pod's names and gives its address back. It is
// idempotent.
func (w *worker) leaveNetwork(ctx context.Context) error {
	w.s.network.Withdraw(string(w.uid))
	if w.pod.Spec.HostNetwork {
		return nil
	}
	return w.s.network.Del(ctx, cni.Pod{ID: string(w.uid), Namespace: w.namespace, Name: w.name})
}

// makeAll finds or creates every container that has not completed, in
// parallel. Created ones are held before exec.
func (w *worker) makeAll(ctx context.Context, b builder) ([]*container, error) {
	specs := w.pod.Spec.Containers
	made := make([]*container, len(specs))
	g, ctx := errgroup.WithContext(ctx)
	for i := range specs {
		if w.completed(specs[i].Name) {
			continue
		}
		g.Go(func() (err error) {
			if made[i] = b.find(&specs[i]); made[i] == nil {
				made[i], err = b.create(ctx, &specs[i])
			}
			return err
		})
	}
	return made, g.Wait()
}

// startAll lets containers run. One whose program cannot be run counts as
// ended: what that means is judged like any other end. Those who watch the
// containers that run are heard while postStart hooks take their time.
func (w *worker) startAll(ctx context.Context, made ...*container) error {
	var g errgroup.Group
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hooks := false
	for _, c := range made {
		if c != nil {
			hooks = hooks || c.spec.Lifecycle != nil && c.spec.Lifecycle.PostStart != nil
			g.Go(func() error { return w.startOne(ctx, c) })
		}
	}
	if !hooks {
		return g.Wait()
	}
	done := make(chan error, 1)
	go func() { done <- g.Wait() }()
	for state := w.run.State; ; {
		select {
		case err := <-done:
			return err
		case call := <-w.calls:
			if call(); w.run.State != state {
				cancel() // an eviction waits for no hook
			}
		}
	}
}

// startFailed puts the pod back and says why on the container that is to
// blame. It is tried again after a back-off like the kubelet's.
func (w *worker) startFailed(ctx context.Context, err error) {
	f := &startError{reason: reasonCreating, err: err}
	errors.As(err, &f)
	now := time.Now()
	wait := delay(w.run.Retries + 1)
	if f.reason == reasonUnschedulable {
		wait = min(wait, hostPortRetry)
	}
	w.warnStartFailed(f)
	var stop []*container
	for _, c := range w.containers() {
		if role, n := roleOf(w.pod, c.name); role != Sidecar || n >= w.run.InitDone {
			stop = append(stop, c)
		}
	}
	w.stopAll(ctx, stop, now)
	w.to(ctx, BackOff, func(p *corev1.Pod, r *run) {
		r.Retries++
		r.NotBefore = now.Add(wait)
		if r.Unscheduled = ""; f.reason == reasonUnschedulable {
			r.Unscheduled = unschedulable(f.err)
		}
		// What was made beside the one that failed is made anew next time;
		// sidecars that have started go on.
		for _, c := range stop {
			r.Incarnation[c.name]++
		}
		for _, c := range allContainers(p) {
			s := statusOf(p, c.Name)
			stopped := slices.ContainsFunc(stop, func(o *container) bool { return o.name == c.Name })
			switch {
			case s.State.Running != nil && !stopped:
			case f.container == "" && s.State.Terminated != nil: // it has completed
			case f.reason == reasonUnschedulable:
				s.State.Waiting = nil // for nothing of its own
			case f.container == "" && f.reason == reasonCreating:
				setWaiting(s, firstReason(p), explain(f.err))
			case c.Name == f.container || f.container == "":
				setWaiting(s, f.reason, explain(f.err))
			case s.State.Running != nil:
				setWaiting(s, reasonCreating, "")
			}
		}
	})
	w.removeAll(stop)
}

// needsAddress tells whether a container's environment asks for the pod's IP.
func needsAddress(p *corev1.Pod) bool {
	for _, c := range allContainers(p) {
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil && pod.NeedsIP(e.ValueFrom.FieldRef.FieldPath) {
				return true
			}
		}
	}
	return false
}
