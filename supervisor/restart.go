package supervisor

import (
	"time"
)

// Limits of the restart back-off, as the kubelet's
// (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy).
const (
	backOffFirst = 10 * time.Second
	backOffMax   = 5 * time.Minute
	// backOffReset is how long a pod must have run for its next end to be
	// treated like its first.
	backOffReset = 10 * time.Minute
)

// Annotations that change how podrun restarts a pod.
const (
	// AnnotationRestartGrace gives the containers that a group restart takes
	// down their stop signal and this long (a Go duration) before SIGKILL.
	AnnotationRestartGrace = "podrun.dev/restart-grace-period"
	// AnnotationRestartScope is "pod" (the default) or "container": with the
	// latter only the container that ended is made again.
	AnnotationRestartScope = "podrun.dev/restart-scope"
)

// History is what back-off depends on.
type History struct {
	// Restarts counts the restarts since the pod last ran for backOffReset,
	// without those that a person asked for.
	Restarts int `json:"restarts,omitempty"`
	// Started is when the containers that ended were last all running; zero
	// when they never were.
	Started time.Time `json:"started,omitzero"`
}

// Next returns how long to wait before the containers are made again, and the
// history after that restart. byPerson tells a restart that somebody asked
// for: it starts at once and leaves the history alone. It is a pure function.
func (h History) Next(now time.Time, byPerson bool) (time.Duration, History) {
	if byPerson {
		return 0, h
	}
	if !h.Started.IsZero() && now.Sub(h.Started) >= backOffReset {
		h.Restarts = 0
	}
	wait := delay(h.Restarts)
	h.Restarts++
	return wait, h
}

// delay is the wait before restart number n, counted from 0: at once, then
// 10 s doubling to 5 min.
func delay(n int) time.Duration {
	if n == 0 {
		return 0
	}
	d := backOffFirst
	for ; n > 1 && d < backOffMax; n-- {
		d *= 2
	}
	return min(d, backOffMax)
}
