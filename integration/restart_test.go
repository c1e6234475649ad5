package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// oneGroupRestart starts a pod of two containers, has end end one of them, and
// checks that the whole pod was made again, once.
func oneGroupRestart(t *testing.T, manifest, reason string, end func(e *env, p *corev1.Pod)) {
	t.Helper()
	e := newEnv(t)
	e.start(manifest, "group")
	before := e.pod("group")
	pids := map[string]int{}
	for name, id := range ids(before) {
		pids[name] = e.initPID(id)
	}
	end(e, before)
	after := e.restarted("group", 1)
	if after.Status.PodIP != before.Status.PodIP || after.UID != before.UID {
		t.Errorf("got IP %s and UID %s, were %s and %s", after.Status.PodIP, after.UID, before.Status.PodIP, before.UID)
	}
	for name, old := range ids(before) {
		if id := ids(after)[name]; id == old || id == "" {
			t.Errorf("%s: got id %q, was %q", name, id, old)
		}
		if s, ok := readStat(pids[name]); ok && s.state != "Z" && strings.Contains(s.name, "sh") {
			t.Errorf("%s: the process of its first incarnation still runs: %v", name, s)
		}
		same(t, e.ok("logs", "group", "-c", name, "--previous"), "first of "+name+"\n")
	}
	mustContain(t, e.ok("describe", "pod", "group"), reason)
	// A second count would come late.
	time.Sleep(500 * time.Millisecond)
	e.restarted("group", 1)
}

// waiting are two containers; each ends with what is written into its /end.
func waiting(name, spec string) string {
	script := "=echo first of %s; while [ ! -s /end ]; do sleep 0.1; done; exit $(cat /end)"
	return podYAML(name, spec, "one"+fmt.Sprintf(script, "one"), "two"+fmt.Sprintf(script, "two"))
}

// end has a container of waiting exit with code.
func (e *env) end(pod, container string, code int) {
	e.t.Helper()
	e.ok("exec", pod, "-c", container, "--", "sh", "-c", fmt.Sprintf("echo %d >/end", code))
}

func TestGroupRestart(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		reason string // in describe
		end    func(e *env, p *corev1.Pod)
	}{
		{"exit 0", "one", func(e *env, p *corev1.Pod) { e.end("group", "one", 0) }},
		{"exit 3", "3", func(e *env, p *corev1.Pod) { e.end("group", "two", 3) }},
		{"killed from outside", "137", func(e *env, p *corev1.Pod) { e.kill9(e.initPID(ids(p)["one"])) }},
		{"stopped by name", "one", func(e *env, p *corev1.Pod) { e.ok("stop", "-t", "0", "group/one") }},
		{"both at once", "137", func(e *env, p *corev1.Pod) {
			one, two := e.initPID(ids(p)["one"]), e.initPID(ids(p)["two"])
			e.kill9(one)
			e.kill9IfThere(two)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			oneGroupRestart(t, waiting("group", ""), tt.reason, tt.end)
		})
	}
}

// TestRestartBackOff: the first restart is at once, the second waits, and the
// pod says so.
func TestRestartBackOff(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(waiting("group", ""), "group")
	e.end("group", "one", 1)
	e.restarted("group", 1)
	e.end("group", "one", 1)
	e.when("group", "in back-off", func(p *corev1.Pod) bool {
		return strings.HasPrefix(row(e.ok("get", "pods"), "group"), "group 0/2 CrashLoopBackOff 1 (")
	})
	// As the kubelet has it, both are of the container that ended last.
	last := e.ok("logs", "group", "-c", "one", "--timestamps")
	mustContain(t, last, "first of one\n")
	same(t, e.ok("logs", "group", "-c", "one", "--timestamps", "--previous"), last)
	start := time.Now()
	e.restarted("group", 2)
	if waited := time.Since(start); waited < 5*time.Second || waited > 20*time.Second {
		t.Errorf("waited %v, want about 10 s", waited)
	}
}

// TestStopNeverBacksOff: a person who stops containers is not made to wait.
func TestStopNeverBacksOff(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(waiting("group", ""), "group")
	start := time.Now()
	for n := 1; n <= 3; n++ {
		e.ok("stop", "-t", "0", "group/one")
		e.restarted("group", n)
	}
	if took := time.Since(start); took > 10*time.Second { // the shortest back-off
		t.Errorf("three stops took %v", took)
	}
}

func TestOnFailure(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(waiting("group", "restartPolicy: OnFailure"), "group")

	// A container that ends with 0 stays completed.
	e.end("group", "one", 0)
	e.when("group", "with one completed", func(p *corev1.Pod) bool {
		return strings.HasPrefix(row(e.ok("get", "pods"), "group"), "group 1/2 NotReady 0 ")
	})
	// Another's failure makes all again, the completed one too.
	e.end("group", "two", 1)
	e.restarted("group", 1)
	// All completed: the pod has succeeded.
	e.end("group", "one", 0)
	e.end("group", "two", 0)
	p := e.when("group", "succeeded", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	if got := row(e.ok("get", "pods"), "group"); !strings.HasPrefix(got, "group 0/2 Completed 1 ") {
		t.Errorf("got %q", got)
	}
	if restarts(p) != 1 {
		t.Errorf("got %d restarts", restarts(p))
	}
	same(t, e.ok("logs", "group", "-c", "two"), "first of two\n")
}

func TestNeverFailed(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(waiting("group", "restartPolicy: Never\nterminationGracePeriodSeconds: 1"), "group")
	e.end("group", "one", 3)
	p := e.when("group", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if restarts(p) != 0 {
		t.Errorf("got %d restarts", restarts(p))
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Terminated == nil {
			t.Errorf("%s has not ended: %+v", s.Name, s.State)
		} else if s.Name == "one" && s.State.Terminated.ExitCode != 3 {
			t.Errorf("got exit code %d", s.State.Terminated.ExitCode)
		}
	}
	if got := row(e.ok("get", "pods"), "group"); !strings.HasPrefix(got, "group 0/2 Error 0 ") {
		t.Errorf("got %q", got)
	}
	same(t, e.ok("logs", "group", "-c", "one"), "first of one\n")
}

func TestNeverSucceeded(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(podYAML("group", "restartPolicy: Never", "one=echo first", "two=sleep 1; echo second"))
	e.when("group", "succeeded", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	if got := row(e.ok("get", "pods"), "group"); !strings.HasPrefix(got, "group 0/2 Completed 0 ") {
		t.Errorf("got %q", got)
	}
}

// TestRestartScopeContainer: the annotation gives the classic restart of one
// container.
func TestRestartScopeContainer(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	manifest := strings.Replace(waiting("group", ""), "metadata:\n",
		"metadata:\n  annotations: {podrun.dev/restart-scope: container}\n", 1)
	e.start(manifest, "group")
	before := e.pod("group")
	e.end("group", "one", 1)
	after := e.restarted("group", 1)
	if ids(after)["two"] != ids(before)["two"] {
		t.Errorf("two was made again")
	}
	if ids(after)["one"] == ids(before)["one"] {
		t.Errorf("one was not made again")
	}
}

// TestRestartGrace: the annotation lets the other containers end in peace.
func TestRestartGrace(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	manifest := strings.Replace(podYAML("group", "",
		"one=while [ ! -s /end ]; do sleep 0.1; done; exit 1",
		"two=trap 'echo in peace; exit 0' TERM; while :; do sleep 0.1; done"),
		"metadata:\n", "metadata:\n  annotations: {podrun.dev/restart-grace-period: 10s}\n", 1)
	e.start(manifest, "group")
	e.end("group", "one", 1)
	e.restarted("group", 1)
	same(t, e.ok("logs", "group", "-c", "two", "--previous"), "in peace\n")
}

// TestInitContainers run one after the other before the others, and again when
// the group is restarted.
func TestInitContainers(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(`
apiVersion: v1
kind: Pod
metadata: {name: group}
spec:
  volumes: [{name: shared, emptyDir: {}}]
  initContainers:
  - {name: first, image: busybox, command: [sh, -c, echo first >>/shared/order], volumeMounts: [{name: shared, mountPath: /shared}]}
  - {name: second, image: busybox, command: [sh, -c, echo second >>/shared/order], volumeMounts: [{name: shared, mountPath: /shared}]}
  containers:
  - {name: one, image: busybox, command: [sh, -c, 'while [ ! -s /end ]; do sleep 0.1; done; exit 1'], volumeMounts: [{name: shared, mountPath: /shared}]}
`, "group")
	same(t, e.ok("exec", "group", "--", "cat", "/shared/order"), "first\nsecond\n")
	e.end("group", "one", 1)
	e.restarted("group", 1)
	// The volume is the pod's and stays; what is in it shows both rounds.
	same(t, e.ok("exec", "group", "--", "cat", "/shared/order"), "first\nsecond\nfirst\nsecond\n")
}
