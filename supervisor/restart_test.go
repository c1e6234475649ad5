package supervisor_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/supervisor"
)

func TestJudge(t *testing.T) {
	const always, onFailure, never = corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	for _, c := range []struct {
		name       string
		policy     corev1.RestartPolicy
		code       int32
		othersDone bool
		want       supervisor.Verdict
	}{
		{"always restarts a failure", always, 1, false, supervisor.Restart},
		{"always restarts a success", always, 0, false, supervisor.Restart},
		{"always restarts the last one too", always, 0, true, supervisor.Restart},
		{"no policy is Always", "", 0, true, supervisor.Restart},
		{"on failure restarts a failure", onFailure, 137, true, supervisor.Restart},
		{"on failure keeps a success while others run", onFailure, 0, false, supervisor.Keep},
		{"on failure succeeds with the last one", onFailure, 0, true, supervisor.Succeed},
		{"never fails with the first failure", never, 3, false, supervisor.Fail},
		{"never fails with the last failure", never, 3, true, supervisor.Fail},
		{"never keeps a success while others run", never, 0, false, supervisor.Keep},
		{"never succeeds with the last one", never, 0, true, supervisor.Succeed},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := supervisor.Judge(c.policy, c.code, c.othersDone); got != c.want {
				t.Errorf("Judge(%s, %d, %v) = %s, want %s", c.policy, c.code, c.othersDone, got, c.want)
			}
		})
	}
}

func TestBackOff(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var h supervisor.History
	h.Started = now
	want := []time.Duration{0, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 5 * time.Minute, 5 * time.Minute}
	for n, w := range want {
		var wait time.Duration
		wait, h = h.Next(now, false)
		if wait != w {
			t.Errorf("restart %d waits %s, want %s", n, wait, w)
		}
	}

	t.Run("a person's stop waits for nothing and counts for nothing", func(t *testing.T) {
		wait, after := h.Next(now, true)
		if wait != 0 || after != h {
			t.Errorf("Next by a person = %s, %+v; want 0, %+v", wait, after, h)
		}
	})
	t.Run("ten minutes of running forget the past", func(t *testing.T) {
		wait, after := h.Next(now.Add(10*time.Minute), false)
		if wait != 0 || after.Restarts != 1 {
			t.Errorf("Next after 10 min = %s, %d restarts; want 0, 1", wait, after.Restarts)
		}
	})
	t.Run("a second less does not", func(t *testing.T) {
		if wait, _ := h.Next(now.Add(10*time.Minute-time.Second), false); wait != 5*time.Minute {
			t.Errorf("Next after 9 min 59 s = %s, want 5m", wait)
		}
	})
	t.Run("a pod that never ran is not forgiven", func(t *testing.T) {
		never := supervisor.History{Restarts: 3}
		if wait, _ := never.Next(now, false); wait != 40*time.Second {
			t.Errorf("Next = %s, want 40s", wait)
		}
	})
}
