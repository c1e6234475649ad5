package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestSidecarProbes: what follows a sidecar waits for its startup probe, READY
// counts its readiness, and its liveness ends it like any other.
func TestSidecarProbes(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	manifest := probed("terminationGracePeriodSeconds: 1", `
name: main
image: busybox
command: [sleep, infinity]
`)
	e.apply(strings.Replace(manifest, "  containers:", `  initContainers:
  - name: side
    image: app
    restartPolicy: Always
    command: [app, http, -port, "8080"]
    startupProbe: {exec: {command: [test, -f, /started]}, periodSeconds: 1, failureThreshold: 100}
    readinessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1, failureThreshold: 1}
  containers:`, 1))
	e.described("probed", "Startup probe failed:", "(x2 over")
	p := e.pod("probed")
	if s := status(p, "side"); s.State.Running == nil || s.Started == nil || *s.Started {
		t.Errorf("got %+v, want it to run and not to count as started", s)
	}
	if s := status(p, "main"); s.State.Waiting == nil {
		t.Errorf("got %+v, want it to wait for the sidecar", s)
	}
	// A node that comes in the middle goes on asking.
	e.kill9(e.nodePID())
	e.pod("probed") // asked until the next node answers
	e.ok("exec", "probed", "-c", "side", "--", "touch", "/started")
	e.when("probed", "ready", func(p *corev1.Pod) bool { return condition(p, corev1.PodReady) == corev1.ConditionTrue })
	mustContain(t, row(e.ok("get", "pods"), "probed"), "probed 2/2 Running 0")
	e.ok("exec", "probed", "-c", "side", "--", "app", "get", "http://127.0.0.1:8080/fail")
	e.when("probed", "not ready", func(p *corev1.Pod) bool { return condition(p, corev1.PodReady) == corev1.ConditionFalse })
	mustContain(t, row(e.ok("get", "pods"), "probed"), "probed 1/2 Running 0")
}

// TestSidecarLiveness: a sidecar whose own liveness probe fails is made again
// alone while the init containers behind it run, and with the group beside the
// main ones.
func TestSidecarLiveness(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const probe = ", livenessProbe: {exec: {command: [test, '!', -e, /sick]}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 30}"
	e.apply(lifecyclePod("group", "terminationGracePeriodSeconds: 1",
		[]string{"side " + sidecar + probe + "=exec sleep 3600", "init=while [ ! -e /shared/go ]; do sleep 0.1; done"}, []string{"main=exec sleep 3600"}))
	runs := func(n int32) func(p *corev1.Pod) bool {
		return func(p *corev1.Pod) bool {
			return status(p, "side").State.Running != nil && status(p, "side").RestartCount == n && status(p, "init").State.Running != nil
		}
	}
	before := e.when("group", "in its init container", runs(0))
	e.ok("exec", "group", "-c", "side", "--", "touch", "/sick")
	after := e.when("group", "with its sidecar made again", runs(1))
	if status(before, "init").ContainerID != status(after, "init").ContainerID {
		t.Error("the init container was made again")
	}
	if end := status(after, "side").LastTerminationState.Terminated; end == nil || end.ExitCode != 137 {
		t.Errorf("got %+v, want it killed after its grace period", status(after, "side"))
	}
	mustContain(t, e.ok("describe", "pod", "group"), "Liveness probe failed:", "Container side failed liveness probe, will be restarted", "container side was killed by signal 9 (killed), exit code 137; it is made again")

	e.ok("exec", "group", "-c", "side", "--", "touch", "/shared/go")
	before = e.restarted("group", 1)
	e.ok("exec", "group", "-c", "side", "--", "touch", "/sick")
	after = e.restarted("group", 2)
	for name, id := range ids(after) {
		if id == ids(before)[name] {
			t.Errorf("%s was not made again", name)
		}
	}
	if s := status(after, "main"); s.RestartCount != 0 {
		t.Errorf("got %+v, want the restart counted on the sidecar", s)
	}
}

// TestProbeHostNetwork: a pod in the host's network is asked there, and a host
// in a manifest is the host's to reach.
func TestProbeHostNetwork(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(probed("hostNetwork: true", `
name: app
image: app
command: [app, http, -port, "28080", -address, 127.0.0.1]
readinessProbe: {httpGet: {port: 28080, host: 127.0.0.1}, periodSeconds: 1}
livenessProbe: {tcpSocket: {port: 28080, host: localhost}, periodSeconds: 1, failureThreshold: 60}
`), "probed")
	time.Sleep(2 * time.Second)
	e.restarted("probed", 0)
}

// TestManyProbes: probes that go on for a while leave nothing behind, which the
// end of the test looks for, and do not write to the store when nothing changes.
func TestManyProbes(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	var containers []string
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		containers = append(containers, strings.ReplaceAll(`
name: NAME
image: busybox
command: [sleep, infinity]
livenessProbe: {exec: {command: ["true"]}, periodSeconds: 1, timeoutSeconds: 30}
readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1, timeoutSeconds: 30}
`, "NAME", name))
	}
	e.start(probed("restartPolicy: Always", containers...), "probed")
	before := e.pod("probed").ResourceVersion
	open := len(allDescriptors(t, e.nodePID()))
	time.Sleep(6 * time.Second)
	if after := e.pod("probed").ResourceVersion; after != before {
		t.Errorf("got resource version %s, was %s: probes that find nothing new were saved", after, before)
	}
	e.eventually("descriptors of the node", func() string {
		// Some are open for the attempt under way.
		if now := len(allDescriptors(t, e.nodePID())); now > open+24 {
			return "growing"
		}
		return ""
	})
	e.restarted("probed", 0)
}

func allDescriptors(t *testing.T, pid int) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return entries
}
