package supervisor

import (
	"context"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/probe"
)

// prober makes the attempts of one probe at their times and counts them: one
// goroutine and one timer, while the container runs. It decides nothing.
type prober struct {
	spec    *corev1.Probe
	from    time.Time // the container's start
	taken   bool      // the container was there before this node
	attempt func(context.Context) probe.Outcome
	report  func(probe.Outcome)
	verdict func(ok bool) bool // at each that a threshold gives; tells whether to go on
}

// endWait is how long after an attempt that failed the container may turn out
// to have ended, which is then all there is to say.
const endWait = 20 * time.Millisecond

// stoodStill is how much longer than its timeout an attempt takes only if it was
// us who did not go on: the node was stopped, or the machine is too busy. That
// says nothing about the container: the attempt is made once more.
const stoodStill = 500 * time.Millisecond

func (p *prober) timeout() time.Duration { return time.Duration(p.spec.TimeoutSeconds) * time.Second }

// in is run as a function without arguments.
func (p *prober) in(ctx context.Context) func() { return func() { p.run(ctx) } }

// run probes until ctx ends or a verdict is the last.
func (p *prober) run(ctx context.Context) {
	counter := probe.Counter{SuccessThreshold: int(p.spec.SuccessThreshold), FailureThreshold: int(p.spec.FailureThreshold)}
	period := time.Duration(p.spec.PeriodSeconds) * time.Second
	delay := time.Duration(p.spec.InitialDelaySeconds) * time.Second
	timer := time.NewTimer(max(time.Until(p.from.Add(delay)), spread(period, p.taken)))
	defer timer.Stop()
	forgiven := false // the attempt before did not count
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(period) // an attempt that takes longer is followed at once by the next
		began := time.Now()
		outcome := p.attempt(ctx)
		ok := outcome.Result == probe.Success || outcome.Result == probe.Warning
		if forgiven = !ok && !forgiven && time.Since(began) > p.timeout()+stoodStill; forgiven {
			timer.Reset(0)
			continue
		}
		if !ok {
			pause(ctx, endWait)
		}
		if ctx.Err() != nil {
			return
		}
		p.report(outcome)
		if outcome.Result != probe.Unknown && counter.Add(ok) && !p.verdict(ok) {
			return
		}
	}
}

// spread is how long after it could begin a probe does begin, so that those of
// many containers do not go off together: a random tenth of its period, a
// second at the most; a random part of all of it in a node that has just taken
// up all containers, as the kubelet does.
func spread(period time.Duration, taken bool) time.Duration {
	if !taken {
		period = min(period/10, time.Second)
	}
	return rand.N(max(period, 1))
}

// budget limits the events of one probe as the kubelet does: 25 at once, and
// one more every 5 minutes.
type budget struct {
	spent int
	since time.Time // when the first that counts as spent was
}

const (
	eventBurst = 25
	eventEvery = 5 * time.Minute
)

// take tells whether there may be one more at now.
func (b *budget) take(now time.Time) bool {
	for b.spent > 0 && now.Sub(b.since) >= eventEvery {
		b.spent--
		b.since = b.since.Add(eventEvery)
	}
	if b.spent == 0 {
		b.since = now
	}
	if b.spent >= eventBurst {
		return false
	}
	b.spent++
	return true
}
