package integration

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestDeadline: a pod is active for as long as it may be, whatever it is doing.
func TestDeadline(t *testing.T) {
	t.Parallel()
	// Long enough to start what is to run, and shorter than the first back-off.
	const spec = "activeDeadlineSeconds: 8\nterminationGracePeriodSeconds: 1"
	for _, tt := range []struct{ name, manifest, status string }{
		{"running", lifecyclePod("group", spec, nil, []string{"main=sleep 3600"}), "Error"},
		{"init container", lifecyclePod("group", spec, []string{"side " + sidecar + "=sleep 3600", "init=sleep 3600"}, []string{"main=true"}), "Init:Error"},
		{"back-off", lifecyclePod("group", spec, nil, []string{"main=exit 1"}), "Error"},
		{"postStart of a container made again", lifecyclePod("group", "restartPolicy: Never\n"+spec, nil, []string{
			`main restartPolicy: Always, lifecycle: {postStart: {exec: {command: [sh, -c, "sleep $(cat /shared/n || echo 0)"]}}}=sleep 1; test -f /shared/n && sleep 3600; echo 600 >/shared/n; exit 1`}), "Error"},
		{"no image", strings.Replace(lifecyclePod("group", spec, nil, []string{"main=true"}), "image: busybox", "image: there-is-none", 1), "DeadlineExceeded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			start := time.Now()
			e.apply(tt.manifest)
			p := e.when("group", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
			if took := time.Since(start); took < 7*time.Second {
				t.Errorf("failed after %v", took)
			}
			if p.Status.Reason != "DeadlineExceeded" || p.Status.Message != "Pod was active on the node longer than the specified deadline" {
				t.Errorf("got %q: %q", p.Status.Reason, p.Status.Message)
			}
			if got := row(e.ok("get", "pods"), "group"); !strings.Contains(got, " "+tt.status+" ") {
				t.Errorf("got %q, want status %s", got, tt.status)
			}
		})
	}
}

// TestDeadlineChanged: an update may set the deadline of a pod, and bring it
// forward.
func TestDeadlineChanged(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, script, before, status string }{
		{"running", "sleep 3600", "", "Running"},
		{"running, with one before", "sleep 3600", "activeDeadlineSeconds: 3600", "Running"},
		{"back-off", "exit 1", "", "CrashLoopBackOff"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			manifest := func(deadline string) string {
				return lifecyclePod("group", "terminationGracePeriodSeconds: 1\n"+deadline, nil, []string{"main=" + tt.script})
			}
			e.apply(manifest(tt.before))
			before := e.when("group", tt.status, func(p *corev1.Pod) bool {
				return strings.Contains(row(e.ok("get", "pods"), "group"), " "+tt.status+" ")
			})
			same(t, e.apply(manifest("activeDeadlineSeconds: 1")), "pod/group configured\n")
			p := e.when("group", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
			same(t, p.Status.Reason, "DeadlineExceeded")
			// Not when the back-off was over.
			if restarts(p) != restarts(before) {
				t.Errorf("%d restarts, had %d", restarts(p), restarts(before))
			}
		})
	}
}

// TestStopSignal: the container's own goes before the image's, and the status
// says which one it is.
func TestStopSignal(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	script := "trap 'echo term' TERM; trap 'echo usr1; exit 0' USR1; while :; do sleep 0.1; done"
	manifest := lifecyclePod("group", "os: {name: linux}\nrestartPolicy: Never", nil, []string{"main lifecycle: {stopSignal: SIGUSR1}=" + script, "other=sleep 3600"})
	e.start(manifest, "group")
	for _, s := range e.pod("group").Status.ContainerStatuses {
		want := map[string]corev1.Signal{"main": "SIGUSR1", "other": "SIGTERM"}[s.Name]
		if s.StopSignal == nil || *s.StopSignal != want {
			t.Errorf("%s: got stop signal %v", s.Name, s.StopSignal)
		}
	}
	e.ok("stop", "-t", "20", "group/main")
	e.when("group", "with main stopped", func(p *corev1.Pod) bool {
		return strings.HasPrefix(row(e.ok("get", "pods"), "group"), "group 1/2 NotReady 0 ")
	})
	same(t, e.ok("logs", "group", "-c", "main"), "usr1\n")
}

// TestContainerStatus: the fields that the kubelet fills.
func TestContainerStatus(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(lifecyclePod("group", "securityContext: {runAsUser: 1000, runAsGroup: 3000, supplementalGroups: [4000]}", nil,
		[]string{"main resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {memory: 32Mi}}=sleep 3600"}), "group")
	p := e.pod("group")
	s := p.Status.ContainerStatuses[0]
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	same(t, text(s.User), `{"linux":{"uid":1000,"gid":3000,"supplementalGroups":[3000,4000]}}`)
	same(t, text(s.Resources), `{"limits":{"memory":"32Mi"},"requests":{"cpu":"100m","memory":"16Mi"}}`)
	same(t, text(s.AllocatedResources), `{"cpu":"100m","memory":"16Mi"}`)
	if p.Status.ObservedGeneration != 1 || p.Status.QOSClass != corev1.PodQOSBurstable {
		t.Errorf("got generation %d, class %s", p.Status.ObservedGeneration, p.Status.QOSClass)
	}
	var kinds []string
	for _, c := range p.Status.Conditions {
		if strings.HasPrefix(string(c.Type), "podrun.dev/") {
			continue // of what this machine cannot give
		}
		kinds = append(kinds, string(c.Type))
		if c.Status != corev1.ConditionTrue || c.LastTransitionTime.IsZero() || c.ObservedGeneration != 1 {
			t.Errorf("got %+v", c)
		}
	}
	same(t, strings.Join(kinds, " "), "PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled")
	mustContain(t, e.ok("describe", "pod", "group"), "Successfully assigned default/group to ", "Container created", "Container started")
}

// TestUnreadyConditions: they name the containers.
func TestUnreadyConditions(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(lifecyclePod("group", "restartPolicy: OnFailure", []string{"side " + sidecar + "=sleep 3600"}, []string{"one=" + untilEnd, "two=sleep 3600"}), "group")
	e.end("group", "one", 0)
	p := e.when("group", "not ready", func(p *corev1.Pod) bool { return conditionOf(t, p, corev1.PodReady).Status == corev1.ConditionFalse })
	for _, kind := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady} {
		if c := conditionOf(t, p, kind); c.Reason != "ContainersNotReady" || c.Message != "containers with unready status: [one]" {
			t.Errorf("got %+v", c)
		}
	}
}

// TestReadinessGate: nothing sets the condition, so the pod is not ready and
// says why.
func TestReadinessGate(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(lifecyclePod("group", "readinessGates: [{conditionType: example.com/gate}]", nil, []string{"main=sleep 3600"}), "group")
	p := e.pod("group")
	if c := conditionOf(t, p, corev1.ContainersReady); c.Status != corev1.ConditionTrue {
		t.Errorf("got %+v", c)
	}
	if c := conditionOf(t, p, corev1.PodReady); c.Status != corev1.ConditionFalse || c.Reason != "ReadinessGatesNotReady" ||
		c.Message != `corresponding condition of pod readiness gate "example.com/gate" does not exist.` {
		t.Errorf("got %+v", c)
	}
}

// TestPullBackOff: the words of an image that cannot be had.
func TestPullBackOff(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(strings.Replace(lifecyclePod("group", "", nil, []string{"main=true"}), "image: busybox", "image: there-is-none", 1))
	e.when("group", "in back-off", func(p *corev1.Pod) bool {
		return strings.HasPrefix(row(e.ok("get", "pods"), "group"), "group 0/1 ImagePullBackOff 0 ")
	})
	p := e.pod("group")
	if w := p.Status.ContainerStatuses[0].State.Waiting; !strings.HasPrefix(w.Message, `Back-off pulling image "there-is-none": ErrImagePull: pull image "there-is-none": `) {
		t.Errorf("got %q", w.Message)
	}
	mustContain(t, e.ok("describe", "pod", "group"), `Pulling image "there-is-none"`, `Failed to pull image "there-is-none": `, "Error: ErrImagePull",
		`Back-off pulling image "there-is-none"`, "Error: ImagePullBackOff")
	e.apply(strings.Replace(lifecyclePod("never", "", nil, []string{"main=true"}), "image: busybox", "image: there-is-none, imagePullPolicy: Never", 1))
	e.eventually("the words of Never", func() string {
		if out := e.ok("describe", "pod", "never"); !strings.Contains(out, `Container image "there-is-none" is not present with pull policy of Never`) || !strings.Contains(out, "Error: ErrImageNeverPull") {
			return out
		}
		return ""
	})
}
