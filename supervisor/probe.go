package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/probe"
	"get.podrun.dev/podrun/sandbox"
)

// probe begins to look after a container that runs. It closes c.up when the
// container counts as started.
//
// before is what the store has of a container that an earlier node probed, else
// nil: it stays so until the first new verdict, and one that had started is not
// asked again whether it has.
func (w *worker) probe(c *container, before *corev1.ContainerStatus) {
	if c.isOver() {
		return
	}
	spec, taken := c.spec, before != nil
	started, ready := spec.StartupProbe == nil, spec.ReadinessProbe == nil
	if taken {
		started = started || before.Started != nil && *before.Started
		ready = ready || before.Ready
	}
	c.ready.Store(ready)
	if started {
		close(c.up)
	}
	if started && spec.LivenessProbe == nil && spec.ReadinessProbe == nil {
		return
	}
	w.s.goroutines.Go(func() {
		ctx, done := c.whileRunning(w.ctx)
		defer done()
		if !started {
			w.prober(c, "Startup", spec.StartupProbe, taken, func(ok bool) bool {
				if !ok {
					w.probeFailed(c, "startup", spec.StartupProbe)
					return false
				}
				close(c.up)
				w.tell(c, func() { w.saveHealth(c) })
				return false
			}).run(ctx)
			if !c.isUp() {
				return
			}
		}
		var both sync.WaitGroup
		defer both.Wait()
		if spec.LivenessProbe != nil {
			both.Go(w.prober(c, "Liveness", spec.LivenessProbe, taken, func(ok bool) bool {
				if !ok {
					w.probeFailed(c, "liveness", spec.LivenessProbe)
				}
				return ok
			}).in(ctx))
		}
		if spec.ReadinessProbe != nil {
			both.Go(w.prober(c, "Readiness", spec.ReadinessProbe, taken, func(ok bool) bool {
				if c.ready.Swap(ok) != ok {
					w.tell(c, func() { w.saveHealth(c) })
				}
				return true
			}).in(ctx))
		}
	})
}

// prober returns the prober of one probe of c; kind is Liveness, Readiness or
// Startup, as in the kubelet's events.
func (w *worker) prober(c *container, kind string, spec *corev1.Probe, taken bool, verdict func(bool) bool) *prober {
	var events budget
	return &prober{
		spec: spec, from: c.started, taken: taken, verdict: verdict,
		attempt: func(ctx context.Context) probe.Outcome { return w.probeOnce(ctx, c, spec) },
		report: func(o probe.Outcome) {
			reason, text := describeOutcome(kind, o)
			if text == "" || !events.take(time.Now()) {
				return
			}
			w.warn(reason, c.field, text)
			w.tell(c, func() { w.save(w.ctx, nil) })
		},
	}
}

// describeOutcome words an attempt for an event, "" when it deserves none.
func describeOutcome(kind string, o probe.Outcome) (reason, text string) {
	switch o.Result {
	case probe.Warning:
		return "ProbeWarning", fmt.Sprintf("%s probe warning: %s", kind, o.Output)
	case probe.Failure:
		return "Unhealthy", fmt.Sprintf("%s probe failed: %s", kind, o.Output)
	case probe.Unknown:
		if o.Output == "" {
			break
		}
		return "Unhealthy", fmt.Sprintf("%s probe errored and resulted in %s state: %s", kind, o.Result, o.Output)
	}
	return "", ""
}

// probeFailed ends a container whose liveness or startup probe failed. One that
// is being stopped already keeps the grace it was given.
func (w *worker) probeFailed(c *container, kind string, spec *corev1.Probe) {
	if c.ending.Load() {
		return
	}
	grace := c.grace
	if g := spec.TerminationGracePeriodSeconds; g != nil {
		grace = time.Duration(*g) * time.Second
	}
	why := fmt.Sprintf("Container %s failed %s probe", c.name, kind)
	if c.restarts {
		why += ", will be restarted"
	}
	w.kill(c, grace, why)
}

// restartsFailed tells whether a container that failed is made again.
func restartsFailed(p *corev1.PodSpec, c *corev1.Container) bool {
	if c.RestartPolicy != nil {
		return *c.RestartPolicy != corev1.ContainerRestartPolicyNever
	}
	return p.RestartPolicy != corev1.RestartPolicyNever
}

// saveHealth saves whether c has started and is ready. For the worker's
// goroutine.
func (w *worker) saveHealth(c *container) {
	s := lookStatus(w.pod, c.name)
	if s == nil || s.State.Running == nil || s.ContainerID != idScheme+c.id {
		return // not yet, or not any more
	}
	w.save(w.ctx, func(p *corev1.Pod, _ *run) {
		up := c.isUp()
		s := statusOf(p, c.name)
		s.Started, s.Ready = &up, up && c.ready.Load()
	})
}

// probeOnce makes one attempt.
func (w *worker) probeOnce(ctx context.Context, c *container, spec *corev1.Probe) probe.Outcome {
	unknown := func(err error) probe.Outcome { return probe.Outcome{Result: probe.Unknown, Output: err.Error()} }
	timeout := time.Duration(spec.TimeoutSeconds) * time.Second
	switch {
	case spec.Exec != nil:
		code, output, err := runIn(ctx, c, spec.Exec.Command, timeout)
		var late *timedOut
		switch {
		case errors.As(err, &late):
			return probe.Outcome{Result: probe.Failure, Output: late.Error()}
		case errors.Is(err, sandbox.ErrGone):
			return probe.Outcome{Result: probe.Unknown} // not worth a word
		case err != nil:
			return unknown(err)
		case code != 0:
			return probe.Outcome{Result: probe.Failure, Output: output}
		}
		return probe.Outcome{Result: probe.Success, Output: output}
	case spec.HTTPGet != nil:
		port, err := probe.Port(spec.HTTPGet.Port, c.spec)
		if err != nil {
			return unknown(err)
		}
		req, err := probe.Request(ctx, spec.HTTPGet, w.podIP(), port, "probe")
		if err != nil {
			return unknown(err)
		}
		return probe.HTTP(w.dial, req, timeout)
	case spec.TCPSocket != nil:
		port, err := probe.Port(spec.TCPSocket.Port, c.spec)
		if err != nil {
			return unknown(err)
		}
		return probe.TCP(ctx, w.dial, net.JoinHostPort(first(spec.TCPSocket.Host, w.podIP()), strconv.Itoa(port)), timeout)
	case spec.GRPC != nil:
		service := ""
		if spec.GRPC.Service != nil {
			service = *spec.GRPC.Service
		}
		return probe.GRPC(ctx, w.dial, net.JoinHostPort(w.podIP(), strconv.Itoa(int(spec.GRPC.Port))), service, timeout)
	}
	return unknown(errors.New("the probe has no handler"))
}
