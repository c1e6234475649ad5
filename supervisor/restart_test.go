package supervisor_test

import (
	"testing"
	"time"

	"get.podrun.dev/podrun/supervisor"
)

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
