package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// lifecycleFaultPoints are the steps that only pods with init containers, with
// restarts of single containers or with an end of their own go through.
var lifecycleFaultPoints = []string{
	"alone.count", "alone.counted", "alone.decide", "alone.decided",
	"finish.decide", "finish.decided", "finish.stopped",
	"init.start", "init.started",
}

// TestLifecycleFaults kills the node at each of those steps in the life of a
// Job-like pod with a sidecar, of which one container is made again by a rule.
// The pod completes all the same, with one restart.
func TestLifecycleFaults(t *testing.T) {
	t.Parallel()
	// At init.started the second time, the sidecar runs and the init container too.
	points := append([]string{"init.start:2", "init.started:2"}, lifecycleFaultPoints...)
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			name, n, found := strings.Cut(point, ":")
			if !found {
				n = "1"
			}
			fired := filepath.Join(t.TempDir(), "fired")
			e := newEnv(t, fmt.Sprintf("PODRUN_FAULT=%s:kill:%s:%s", name, n, fired))
			manifest := lifecyclePod("job", "restartPolicy: Never\nterminationGracePeriodSeconds: 5",
				[]string{"side " + sidecar + "=trap 'exit 9' TERM; while :; do sleep 0.1; done", "init=sleep 0.3"},
				[]string{"main restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]=" + untilEnd})
			e.stdin = manifest
			if r := e.run("apply", "-f", "-"); r.code != 0 {
				e.apply(manifest)
			}
			before := ids(e.restarted("job", 0))
			e.end("job", "main", 42)
			after := ids(e.when("job", "made again", func(p *corev1.Pod) bool { return isReady(p) && ids(p)["main"] != before["main"] }))
			if after["side"] != before["side"] {
				t.Errorf("the sidecar was made again")
			}
			e.restarted("job", 1)
			e.end("job", "main", 0)
			p := e.when("job", "succeeded", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
			if restarts(p) != 1 {
				t.Errorf("got %d restarts", restarts(p))
			}
			if s := initStatus(t, p, "side"); s.State.Terminated == nil || s.State.Terminated.ExitCode != 9 {
				t.Errorf("sidecar: %+v", s.State)
			}
			e.eventually("the fault", func() string {
				if _, err := os.Stat(fired); err != nil {
					return "not fired"
				}
				return ""
			})
		})
	}
}
