package supervisor

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/probe"
)

// TestProber runs a prober against a script: one letter for each attempt, "+"
// for success, "w" a warning, "-" a failure, "?" an error. The verdicts it
// gives are written behind the second of the attempt they follow.
func TestProber(t *testing.T) {
	for _, c := range []struct {
		name    string
		spec    corev1.Probe
		script  string
		last    string // a verdict that ends it
		takes   time.Duration
		started time.Duration // before the prober
		want    string
	}{
		{name: "each second", spec: corev1.Probe{PeriodSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3}, script: "-+---+", want: "1+ 4- 5+"},
		{name: "initial delay", spec: corev1.Probe{InitialDelaySeconds: 5, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 1}, script: "+-", want: "5+ 15-"},
		{name: "a delay that is over", spec: corev1.Probe{InitialDelaySeconds: 5, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 1}, script: "+-", started: time.Minute, want: "0+ 10-"},
		{name: "the last verdict", spec: corev1.Probe{PeriodSeconds: 2, SuccessThreshold: 1, FailureThreshold: 2}, script: "--+", last: "-", want: "2-"},
		{name: "a warning is a success", spec: corev1.Probe{PeriodSeconds: 1, SuccessThreshold: 2, FailureThreshold: 1}, script: "ww", want: "1+"},
		{name: "an error is thrown away", spec: corev1.Probe{PeriodSeconds: 1, SuccessThreshold: 1, FailureThreshold: 2}, script: "-?-", want: "2-"},
		{name: "attempts that take longer than the period", spec: corev1.Probe{PeriodSeconds: 1, SuccessThreshold: 1, FailureThreshold: 1}, script: "+++", takes: 3 * time.Second, want: "3+ 6+ 9+"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var got []string
				n := 0
				p := &prober{
					spec: &c.spec, from: begin.Add(-c.started),
					attempt: func(context.Context) probe.Outcome {
						time.Sleep(c.takes)
						if n == len(c.script) {
							cancel()
							return probe.Outcome{}
						}
						n++
						return probe.Outcome{Result: map[byte]probe.Result{'+': probe.Success, 'w': probe.Warning, '-': probe.Failure, '?': probe.Unknown}[c.script[n-1]]}
					},
					report: func(probe.Outcome) {},
					verdict: func(ok bool) bool {
						sign := map[bool]string{true: "+", false: "-"}[ok]
						got = append(got, fmt.Sprintf("%d%s", int(time.Since(begin).Seconds()), sign))
						return sign != c.last
					},
				}
				p.run(ctx)
				if text := strings.Join(got, " "); text != c.want {
					t.Errorf("got %q, want %q", text, c.want)
				}
			})
		})
	}
}

// TestProberStandsStill: an attempt that failed while the node stood still is
// made again, and only then counts.
func TestProberStandsStill(t *testing.T) {
	spec := corev1.Probe{PeriodSeconds: 10, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 1}
	for _, c := range []struct {
		name  string
		takes []time.Duration // attempts: what failed took that long, 0 is a success
		want  string
	}{
		{"a timeout is a failure", []time.Duration{0, time.Second, 0}, "+-+"},
		{"standing still is none", []time.Duration{0, 30 * time.Second, 0, 0}, "+++"},
		{"one that fails again is", []time.Duration{0, 30 * time.Second, time.Second, 0}, "+-+"},
		{"or never ends in time", []time.Duration{0, 30 * time.Second, 30 * time.Second, 0}, "+-+"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				got, reported := "", 0
				p := &prober{
					spec: &spec, from: time.Now(),
					attempt: func(context.Context) probe.Outcome {
						if len(c.takes) == 0 {
							cancel()
							return probe.Outcome{}
						}
						took := c.takes[0]
						c.takes = c.takes[1:]
						if time.Sleep(took); took > 0 {
							return probe.Outcome{Result: probe.Failure, Output: "timed out"}
						}
						return probe.Outcome{Result: probe.Success}
					},
					report: func(o probe.Outcome) {
						if o.Result == probe.Failure {
							reported++
						}
					},
					verdict: func(ok bool) bool {
						got += map[bool]string{true: "+", false: "-"}[ok]
						return true
					},
				}
				p.run(ctx)
				if got != c.want || reported != strings.Count(c.want, "-") {
					t.Errorf("got %q and %d failures told, want %q", got, reported, c.want)
				}
			})
		})
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		period, most time.Duration
		taken        bool
	}{
		{time.Second, 100 * time.Millisecond, false},
		{time.Minute, time.Second, false},
		{time.Minute, time.Minute, true},
	} {
		for range 100 {
			if got := spread(c.period, c.taken); got < 0 || got >= c.most {
				t.Errorf("spread(%v, %v): got %v, want less than %v", c.period, c.taken, got, c.most)
			}
		}
	}
}

func TestBudget(t *testing.T) {
	var b budget
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	count := func(d time.Duration) (n int) {
		for end := now.Add(d); now.Before(end); now = now.Add(time.Second) {
			if b.take(now) {
				n++
			}
		}
		return n
	}
	if got := count(time.Minute); got != 25 {
		t.Errorf("got %d events in the first minute, want 25", got)
	}
	if got := count(time.Hour); got != 12 {
		t.Errorf("got %d events in an hour after it, want 12", got)
	}
	now = now.Add(5 * time.Hour)
	if got := count(time.Minute); got != 25 {
		t.Errorf("got %d events in a minute after a long silence, want 25", got)
	}
}

func TestReadEnd(t *testing.T) {
	for _, c := range []struct{ text, want string }{{"", ""}, {"short", "short"}, {"0123456789", "456789"}} {
		path := t.TempDir() + "/message"
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readEnd(path, 6); got != c.want || err != nil {
			t.Errorf("%q: got %q, %v, want %q", c.text, got, err, c.want)
		}
	}
}
