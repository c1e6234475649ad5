package supervisor

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestConditions(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	started := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := onePod()
	p.Generation = 3
	p.Spec.InitContainers = []corev1.Container{{Name: "side", RestartPolicy: &always}, {Name: "init"}}
	p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}}
	r := newRun(p)
	initStatus(p, "192.0.2.1", started)
	now := started
	check := func(name string, want ...string) {
		t.Helper()
		refresh(p, r, now)
		for i, c := range p.Status.Conditions {
			got := fmt.Sprintf("%s %s %s %s", c.Type, c.Status, c.Reason, c.Message)
			if i < len(want) && got != want[i] {
				t.Errorf("%s: got %q, want %q", name, got, want[i])
			}
			if c.ObservedGeneration != p.Generation {
				t.Errorf("%s: %s is of generation %d", name, c.Type, c.ObservedGeneration)
			}
		}
	}
	const unready = "ContainersNotReady containers with unready status: "
	check("new",
		"PodReadyToStartContainers False  ",
		"Initialized False ContainersNotInitialized containers with incomplete status: [side init]",
		"Ready False "+unready+"[side a b]", "ContainersReady False "+unready+"[side a b]", "PodScheduled True  ")

	p.Status.PodIP, r.InitDone = "10.88.0.2", 1
	statusOf(p, "side").Ready = true
	check("sidecar started", "PodReadyToStartContainers True  ",
		"Initialized False ContainersNotInitialized containers with incomplete status: [init]",
		"Ready False "+unready+"[a b]")

	r.InitDone, r.State = 2, Running
	statusOf(p, "a").Ready, statusOf(p, "b").Ready = true, true
	now = now.Add(time.Minute)
	check("running", "PodReadyToStartContainers True  ", "Initialized True  ",
		`Ready False ReadinessGatesNotReady corresponding condition of pod readiness gate "example.com/gate" does not exist.`, "ContainersReady True  ")
	if c := lookCondition(p, corev1.ContainersReady); !c.LastTransitionTime.Time.Equal(now) {
		t.Errorf("ContainersReady changed at %v, want %v", c.LastTransitionTime, now)
	}
	if c := lookCondition(p, corev1.PodReady); !c.LastTransitionTime.Time.Equal(started) {
		t.Errorf("Ready changed at %v, want %v: its status did not", c.LastTransitionTime, started)
	}

	setCondition(p, condition("example.com/gate", false, "", ""), now)
	check("closed gate", "PodReadyToStartContainers True  ", "Initialized True  ",
		`Ready False ReadinessGatesNotReady the status of pod readiness gate "example.com/gate" is not "True", but False`)
	setCondition(p, condition("example.com/gate", true, "", ""), now)
	check("open gate", "PodReadyToStartContainers True  ", "Initialized True  ", "Ready True  ", "ContainersReady True  ")

	r.State, r.Ended = Finished, &ended{Phase: corev1.PodSucceeded}
	check("succeeded", "PodReadyToStartContainers False  ", "Initialized True PodCompleted ",
		"Ready False PodCompleted ", "ContainersReady False PodCompleted ")
	r.Ended.Phase = corev1.PodFailed
	check("failed", "PodReadyToStartContainers False  ", "Initialized True  ", "Ready False PodFailed ", "ContainersReady False PodFailed ")
}

func TestAllContainersRestarting(t *testing.T) {
	p := onePod()
	r := newRun(p)
	r.State, r.ByRule = Restarting, true
	refresh(p, r, time.Now())
	if c := lookCondition(p, corev1.AllContainersRestarting); c != nil {
		t.Errorf("a pod without such a rule has %+v", c)
	}
	p.Spec.Containers[1].RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers}}
	for _, step := range []struct {
		state State
		rule  bool
		want  corev1.ConditionStatus
	}{{Running, false, "False"}, {Restarting, true, "True"}, {Restarting, false, "False"}, {Starting, false, "False"}} {
		r.State, r.ByRule = step.state, step.rule
		refresh(p, r, time.Now())
		if c := lookCondition(p, corev1.AllContainersRestarting); c == nil || c.Status != step.want {
			t.Errorf("%s, by a rule: %v: got %+v, want %s", step.state, step.rule, c, step.want)
		}
	}
}
