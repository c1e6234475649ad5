package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// ownRule are the fields of a container whose own policy is Never and which a
// rule restarts.
func ownRule(action, operator string, codes ...int) string {
	return fmt.Sprintf("restartPolicy: Never, restartPolicyRules: [{action: %s, exitCodes: {operator: %s, values: %s}}]",
		action, operator, strings.ReplaceAll(fmt.Sprint(codes), " ", ", "))
}

// TestRestartRules: what is made again after a container that has rules has
// ended.
func TestRestartRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, policy, rule string
		code               int
		again              string // the containers that are made again
	}{
		{"Restart", "Never", ownRule("Restart", "In", 42), 42, "one"},
		{"Restart in a group", "Always", ownRule("Restart", "In", 42), 42, "one"},
		{"NotIn", "Never", ownRule("Restart", "NotIn", 0, 1), 42, "one"},
		{"RestartAllContainers", "Never", ownRule("RestartAllContainers", "In", 42), 42, "one two side"},
		{"own OnFailure", "Never", "restartPolicy: OnFailure", 1, "one"},
		{"own Always in a group", "OnFailure", "restartPolicy: Always", 0, "one two side"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.start(lifecyclePod("group", "restartPolicy: "+tt.policy, []string{"side " + sidecar + "=" + untilEnd, "init=echo init >>/shared/order"},
				[]string{"one " + tt.rule + "=" + untilEnd, "two=" + untilEnd}), "group")
			before := e.pod("group")
			e.end("group", "one", tt.code)
			after := e.restarted("group", 1)
			for name, id := range ids(before) {
				if again := strings.Contains(tt.again, name); again != (ids(after)[name] != id) {
					t.Errorf("%s was made again: %v, want %v", name, !again, again)
				}
			}
			for _, s := range after.Status.ContainerStatuses {
				if last := s.LastTerminationState.Terminated; s.Name == "one" && (last == nil || int(last.ExitCode) != tt.code || s.RestartCount != 1) {
					t.Errorf("got %+v", s)
				}
			}
			if strings.Contains(tt.rule, "RestartAllContainers") {
				if c := conditionOf(t, after, corev1.AllContainersRestarting); c.Status != corev1.ConditionFalse {
					t.Errorf("got %+v", c)
				}
			}
			time.Sleep(500 * time.Millisecond) // a second count would come late
			e.restarted("group", 1)
		})
	}
}

// TestAllContainersRestarting: the condition says so while it lasts.
func TestAllContainersRestarting(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	manifest := lifecyclePod("group", "restartPolicy: Never", nil,
		[]string{"one " + ownRule("RestartAllContainers", "In", 42) + "=" + untilEnd, "two=trap 'sleep 1' TERM; while :; do sleep 0.1; done"})
	// The grace makes the restart last.
	e.start(strings.Replace(manifest, "{name: group}", "{name: group, annotations: {podrun.dev/restart-grace-period: 3s}}", 1), "group")
	e.end("group", "one", 42)
	p := e.when("group", "restarting", func(p *corev1.Pod) bool {
		return conditionOf(t, p, corev1.AllContainersRestarting).Status == corev1.ConditionTrue
	})
	if c := conditionOf(t, p, corev1.AllContainersRestarting); c.Reason != "RestartAllContainersStarted" || c.Message != "container exited with restart policy rule" {
		t.Errorf("got %+v", c)
	}
	e.restarted("group", 1)
}

// TestRuleThatDoesNotMatch leaves the pod to its policy.
func TestRuleThatDoesNotMatch(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(lifecyclePod("group", "restartPolicy: Never\nterminationGracePeriodSeconds: 1", nil,
		[]string{"one " + ownRule("Restart", "In", 42) + "=" + untilEnd, "two=" + untilEnd}), "group")
	e.end("group", "one", 41)
	p := e.when("group", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if restarts(p) != 0 {
		t.Errorf("got %d restarts", restarts(p))
	}
}

// TestOwnNever: a container that may not restart stays as it ended in a pod
// that does, until the group is made again.
func TestOwnNever(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(lifecyclePod("group", "", nil, []string{"one restartPolicy: Never=" + untilEnd, "two=" + untilEnd}), "group")
	e.end("group", "one", 3)
	e.when("group", "with one ended", func(p *corev1.Pod) bool {
		return strings.HasPrefix(row(e.ok("get", "pods"), "group"), "group 1/2 Error 0 ")
	})
	e.end("group", "two", 0)
	e.restarted("group", 1)
}

// TestRestartAloneBackOff: a container that is made again alone has a back-off
// of its own; the others run on, and their ends are seen meanwhile.
func TestRestartAloneBackOff(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	rule := ownRule("Restart", "In", 42)
	e.start(lifecyclePod("group", "restartPolicy: Never", nil, []string{"one " + rule + "=" + untilEnd, "two " + rule + "=" + untilEnd}), "group")
	e.end("group", "one", 42)
	e.restarted("group", 1)
	e.end("group", "one", 42)
	p := e.when("group", "with one in back-off", func(p *corev1.Pod) bool {
		return slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == "one" && s.State.Waiting != nil })
	})
	start := time.Now()
	if got := row(e.ok("get", "pods"), "group"); !strings.HasPrefix(got, "group 1/2 CrashLoopBackOff 1 (") {
		t.Errorf("got %q", got)
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.Name != "one" {
			continue
		}
		if w := s.State.Waiting; w == nil || !strings.HasPrefix(w.Message, "back-off 10s restarting failed container=one pod=group_default(") {
			t.Errorf("got %+v", s.State)
		}
		if last := s.LastTerminationState.Terminated; last == nil || last.ExitCode != 42 {
			t.Errorf("got %+v", s.LastTerminationState)
		}
	}
	// The other's first end is not the second.
	e.end("group", "two", 42)
	e.when("group", "with two made again", func(p *corev1.Pod) bool {
		for _, s := range p.Status.ContainerStatuses {
			if s.Name == "two" {
				return s.RestartCount == 1 && s.State.Running != nil
			}
		}
		return false
	})
	if waited := time.Since(start); waited > 9*time.Second {
		t.Logf("slow machine: two was made again after %v", waited)
	}
	e.killNode()
	e.restarted("group", 3)
	if waited := time.Since(start); waited < 5*time.Second {
		t.Errorf("one waited %v, want about 10 s", waited)
	}
	mustContain(t, e.ok("describe", "pod", "group"), "Back-off restarting failed container one in pod group_default(")
}

// TestInitContainerRules: what is made again after an init container has
// failed. One that is made again alone leaves those before it done.
func TestInitContainerRules(t *testing.T) {
	t.Parallel()
	// It fails the first time.
	const once = "echo second >>/shared/order; [ $(grep -c second /shared/order) = 2 ] || exit 7"
	for _, tt := range []struct{ name, policy, rule, order string }{
		{"own OnFailure", "Never", "restartPolicy: OnFailure", "first\nsecond\nsecond\n"},
		{"Restart", "Always", ownRule("Restart", "In", 7), "first\nsecond\nsecond\n"},
		{"RestartAllContainers", "Never", ownRule("RestartAllContainers", "In", 7), "first\nsecond\nfirst\nsecond\n"},
		{"the pod's policy", "OnFailure", "tty: false", "first\nsecond\nfirst\nsecond\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.start(lifecyclePod("group", "restartPolicy: "+tt.policy, []string{"first=echo first >>/shared/order", "second " + tt.rule + "=" + once}, []string{"main=sleep 3600"}), "group")
			same(t, e.ok("exec", "group", "-c", "main", "--", "cat", "/shared/order"), tt.order)
			if s := initStatus(t, e.pod("group"), "second"); s.RestartCount != 1 || s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 7 {
				t.Errorf("got %+v", s)
			}
		})
	}
}

// TestInitContainerBacksOff: kubectl says Init:CrashLoopBackOff.
func TestInitContainerBacksOff(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(lifecyclePod("group", "", []string{"first=true", "init=exit 5"}, []string{"main=" + untilEnd}))
	e.when("group", "in back-off", func(p *corev1.Pod) bool {
		return strings.HasPrefix(row(e.ok("get", "pods"), "group"), "group 0/1 Init:CrashLoopBackOff 1 (")
	})
	p := e.pod("group")
	if s := initStatus(t, p, "first"); s.State.Terminated == nil {
		t.Errorf("got %+v", s.State)
	}
	if s := initStatus(t, p, "init"); s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 5 {
		t.Errorf("got %+v", s)
	}
	if p.Status.Phase != corev1.PodPending {
		t.Errorf("got phase %s", p.Status.Phase)
	}
}

// TestInitContainerFails: under Never that is the end of the pod.
func TestInitContainerFails(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(lifecyclePod("group", "restartPolicy: Never", []string{"side " + sidecar + "=trap 'exit 0' TERM; while :; do sleep 0.1; done", "init=exit 5"}, []string{"main=" + untilEnd}))
	p := e.when("group", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if got := row(e.ok("get", "pods"), "group"); !strings.HasPrefix(got, "group 0/2 Init:Error 0 ") {
		t.Errorf("got %q", got)
	}
	if s := initStatus(t, p, "side"); s.State.Terminated == nil || s.State.Terminated.ExitCode != 0 {
		t.Errorf("got %+v", s.State)
	}
}
