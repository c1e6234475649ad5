package integration

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// reboot takes from e what a power cut takes: every process, with what lives in
// their namespaces, and the runtime directory. No command has run since.
func (e *env) reboot() {
	e.t.Helper()
	e.remember()
	// The node and its reaper stand still first: they are not to see the others
	// die.
	node, reaper := e.nodePID(), e.reaperPID()
	for _, pid := range []int{reaper, node} {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			e.t.Fatal(err)
		}
	}
	e.eventually("end of all processes", func() string {
		left := e.session()
		for p := range left {
			if p.alive() {
				_ = unix.Kill(p.pid, unix.SIGKILL)
			}
		}
		for _, what := range left {
			return what
		}
		return ""
	})
	e.wipe(e.state)
	e.wipe(e.state + "-rootfs")
	cgroups := e.cgroups()
	slices.Sort(cgroups)
	for _, c := range slices.Backward(cgroups) {
		_ = os.Remove(c)
	}
}

// wipe removes a directory of which some may belong to the user's subordinate
// ids.
func (e *env) wipe(dir string) {
	e.t.Helper()
	if os.RemoveAll(dir) == nil {
		return
	}
	if out, err := exec.Command("unshare", "--map-auto", "--map-root-user", "rm", "-rf", dir).CombinedOutput(); err != nil {
		e.t.Fatalf("remove %s: %v: %s", dir, err, out)
	}
}

// TestReboot: with everything that runs and the state directory gone, as after
// a reboot, the next node makes the pods again and says what became of their
// containers.
func TestReboot(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(lifecyclePod("group", "", []string{"side " + sidecar + "=sleep 3600", "init=echo init >>/shared/order"}, []string{"main=sleep 3600"})+
		"---\n"+lifecyclePod("job", "restartPolicy: Never", nil, []string{"main=sleep 3600"}), "group", "job")
	before := ids(e.pod("group"))
	e.reboot()
	p := e.restarted("group", 1)
	for name, id := range ids(p) {
		if id == before[name] {
			t.Errorf("%s was not made again", name)
		}
	}
	for _, s := range running(p) {
		if last := s.LastTerminationState.Terminated; last == nil || last.Reason != "ContainerStatusUnknown" || last.ExitCode != 137 {
			t.Errorf("%s: got %+v", s.Name, s.LastTerminationState)
		}
	}
	same(t, e.ok("exec", "group", "-c", "main", "--", "cat", "/shared/order"), "init\ninit\n")
	e.when("job", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
}

// TestRebootPolicies: the first command after a reboot starts a node that brings every
// pod back as its restartPolicy says, and counts that once.
func TestRebootPolicies(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const forever = "=echo began; exec sleep 3600"
	const early = "initContainers: [{name: first, image: busybox, command: [sleep, '3600']}]"
	e.start(strings.Join([]string{
		`
apiVersion: v1
kind: Pod
metadata: {name: always}
spec:
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - {name: first, image: busybox, command: [sh, -c, echo once >>/v/log], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - {name: one, image: busybox, command: [sh, -c, echo began; exec sleep 3600], volumeMounts: [{name: v, mountPath: /v}]}
  - {name: two, image: busybox, command: [sleep, "3600"]}
`,
		podYAML("onfailure", "restartPolicy: OnFailure", "one"+forever, "done=exit 0"),
		podYAML("never", "restartPolicy: Never", "one"+forever),
		podYAML("job", "restartPolicy: OnFailure", "one=exit 0"),
		podYAML("lost", "restartPolicy: Never", "one=exit 3"),
		podYAML("early", early, "one"+forever),
		strings.Replace(podYAML("unpulled", "", "one"+forever), "image: busybox", "image: nothing-there", 1),
	}, "---\n"), "always", "never")
	phase := func(name string, phase corev1.PodPhase) *corev1.Pod {
		t.Helper()
		return e.when(name, string(phase), func(p *corev1.Pod) bool { return p.Status.Phase == phase })
	}
	phase("job", corev1.PodSucceeded)
	phase("lost", corev1.PodFailed)
	e.when("onfailure", "done", func(p *corev1.Pod) bool {
		return slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Terminated != nil }) &&
			slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil })
	})
	e.when("early", "initialising", func(p *corev1.Pod) bool { return p.Status.InitContainerStatuses[0].State.Running != nil })
	before := e.pod("always")

	for n := 1; n <= 2; n++ {
		e.reboot()
		p := e.restarted("always", n)
		if p.Status.PodIP != before.Status.PodIP {
			t.Errorf("reboot %d: got IP %s, was %s", n, p.Status.PodIP, before.Status.PodIP)
		}
		if n > 1 {
			break
		}
		// All containers show how their last run ended.
		for _, s := range p.Status.ContainerStatuses {
			if last := s.LastTerminationState.Terminated; last == nil || last.Reason != "ContainerStatusUnknown" || last.ExitCode != 137 {
				t.Errorf("container %s: got last state %+v", s.Name, s.LastTerminationState)
			}
		}
		e.when("onfailure", "restarted", func(p *corev1.Pod) bool {
			return restarts(p) == 1 && slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil })
		})
		failed := phase("never", corev1.PodFailed)
		if restarts(failed) != 0 {
			t.Errorf("never: got %d restarts", restarts(failed))
		}
		for name, want := range map[string]string{"job": "Completed", "lost": "Error"} {
			if got := row(e.ok("get", "pods"), name); !strings.HasPrefix(got, name+" 0/1 "+want+" 0 ") {
				t.Errorf("%s: got %q, want it to be %s still", name, got, want)
			}
		}
		// What was still to begin does.
		e.when("early", "initialising", func(p *corev1.Pod) bool {
			return restarts(p) == 0 && p.Status.InitContainerStatuses[0].State.Running != nil
		})
		e.when("unpulled", "waiting", func(p *corev1.Pod) bool {
			s := p.Status.ContainerStatuses
			return len(s) == 1 && s[0].RestartCount == 0 && s[0].State.Waiting != nil && strings.Contains(s[0].State.Waiting.Reason, "ImagePull")
		})
		mustContain(t, e.ok("describe", "pod", "always"), "SandboxChanged")
		same(t, e.ok("logs", "always", "-c", "one", "--previous"), "began\n")
	}
	// The init container ran before each start, and the volume stayed.
	same(t, e.ok("exec", "always", "-c", "one", "--", "cat", "/v/log"), strings.Repeat("once\n", 3))
}
