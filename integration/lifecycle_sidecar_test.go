package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// untilEnd is a shell script that ends with what is written into /end.
const untilEnd = "while [ ! -s /end ]; do sleep 0.1; done; exit $(cat /end)"

// lifecyclePod is the manifest of a pod with init containers: each container
// is NAME=SHELL COMMAND, or NAME FIELDS=SHELL COMMAND with YAML for the
// container, such as "restartPolicy: Always". All of them share /shared.
func lifecyclePod(name, spec string, inits, containers []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  volumes: [{name: shared, emptyDir: {}}]\n", name)
	for line := range strings.Lines(spec) {
		fmt.Fprintf(&b, "  %s\n", strings.TrimRight(line, "\n"))
	}
	list := func(key string, all []string) {
		fmt.Fprintf(&b, "  %s:\n", key)
		for _, c := range all {
			head, script, _ := strings.Cut(c, "=")
			name, fields, _ := strings.Cut(head, " ")
			quoted, _ := json.Marshal(script)
			fmt.Fprintf(&b, "  - {name: %s, image: busybox, command: [sh, -c, %s], volumeMounts: [{name: shared, mountPath: /shared}]", name, quoted)
			if fields != "" {
				b.WriteString(", " + fields)
			}
			b.WriteString("}\n")
		}
	}
	if len(inits) > 0 {
		list("initContainers", inits)
	}
	list("containers", containers)
	return b.String()
}

const sidecar = "restartPolicy: Always"

// initStatus is the status of an init container.
func initStatus(t *testing.T, p *corev1.Pod, name string) corev1.ContainerStatus {
	t.Helper()
	for _, s := range p.Status.InitContainerStatuses {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no status of %s in %+v", name, p.Status.InitContainerStatuses)
	return corev1.ContainerStatus{}
}

// TestSidecarOrder: a sidecar starts in its place among the init containers
// and runs on beside the main ones; READY counts it. When the pod is deleted,
// it is stopped after them, the last one first.
func TestSidecarOrder(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	last := func(name string) string {
		// A tenth of a second late, so that an order by chance would show.
		return fmt.Sprintf("echo %s >>/shared/order; trap 'sleep 0.2; echo end of %s >>/keep/order; exit 0' TERM; while :; do sleep 0.05; done", name, name)
	}
	keep := e.home + "/keep"
	if err := os.Mkdir(keep, 0o700); err != nil {
		t.Fatal(err)
	}
	mount := "volumeMounts: [{name: shared, mountPath: /shared}, {name: keep, mountPath: /keep}]"
	manifest := lifecyclePod("group", "terminationGracePeriodSeconds: 20",
		[]string{"first=echo first >>/shared/order", "one " + sidecar + "=" + last("one"), "second=echo second >>/shared/order", "two " + sidecar + "=" + last("two")},
		[]string{"main=" + last("main")})
	manifest = strings.ReplaceAll(manifest, "volumeMounts: [{name: shared, mountPath: /shared}]", mount)
	manifest = strings.Replace(manifest, "volumes: [", "volumes: [{name: keep, hostPath: {path: "+keep+"}}, ", 1)
	e.start(manifest, "group")
	e.eventually("the main container's line", func() string {
		if got := e.ok("exec", "group", "-c", "main", "--", "cat", "/shared/order"); got != "first\none\nsecond\ntwo\nmain\n" {
			return got
		}
		return ""
	})
	if got := row(e.ok("get", "pods"), "group"); !strings.HasPrefix(got, "group 3/3 Running 0 ") {
		t.Errorf("got %q", got)
	}
	p := e.pod("group")
	if s := initStatus(t, p, "one"); s.State.Running == nil || !s.Ready || s.Started == nil || !*s.Started {
		t.Errorf("sidecar: %+v", s)
	}
	if s := initStatus(t, p, "first"); s.State.Terminated == nil || s.State.Terminated.Reason != "Completed" || !s.Ready {
		t.Errorf("init container: %+v", s)
	}
	e.ok("delete", "pod", "group")
	order, err := os.ReadFile(keep + "/order")
	if err != nil {
		t.Fatal(err)
	}
	same(t, string(order), "end of main\nend of two\nend of one\n")
}

// TestSidecarRestartsWithGroup: beside the main containers a sidecar is one of
// the group.
func TestSidecarRestartsWithGroup(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, ends string }{{"sidecar ends", "side"}, {"main container ends", "main"}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.start(lifecyclePod("group", "", []string{"side " + sidecar + "=echo side >>/shared/order; " + untilEnd, "init=echo init >>/shared/order"},
				[]string{"main=echo main >>/shared/order; " + untilEnd}), "group")
			before := ids(e.pod("group"))
			e.end("group", tt.ends, 3)
			p := e.restarted("group", 1)
			for name, id := range ids(p) {
				if id == before[name] || len(before) != 2 {
					t.Errorf("%s was not made again", name)
				}
			}
			same(t, e.ok("exec", "group", "-c", "main", "--", "cat", "/shared/order"), "side\ninit\nmain\nside\ninit\nmain\n")
			if got := row(e.ok("get", "pods"), "group"); !strings.HasPrefix(got, "group 2/2 Running 1 (") {
				t.Errorf("got %q", got)
			}
			mustContain(t, e.ok("describe", "pod", "group"), "container "+tt.ends+" exited with code 3; all 3 containers are made again")
		})
	}
}

// TestSidecarRestartsAloneBeforeMain: an init container goes on while a
// sidecar is made again beside it.
func TestSidecarRestartsAloneBeforeMain(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(lifecyclePod("group", "", []string{
		"side " + sidecar + "=echo side >>/shared/order; " + untilEnd,
		"init=echo init >>/shared/order; while [ ! -e /shared/go ]; do sleep 0.1; done"},
		[]string{"main=" + untilEnd}))
	inInit := func(n int32) func(*corev1.Pod) bool {
		return func(p *corev1.Pod) bool {
			var side, init bool
			for _, s := range p.Status.InitContainerStatuses {
				side = side || s.Name == "side" && s.State.Running != nil && s.RestartCount == n
				init = init || s.Name == "init" && s.State.Running != nil
			}
			return side && init
		}
	}
	before := e.when("group", "in its init container", inInit(0))
	if got := row(e.ok("get", "pods"), "group"); !strings.HasPrefix(got, "group 1/2 Init:1/2 0 ") {
		t.Errorf("got %q", got)
	}
	if c := conditionOf(t, before, corev1.PodInitialized); c.Status != "False" || c.Reason != "ContainersNotInitialized" || c.Message != "containers with incomplete status: [init]" {
		t.Errorf("got %+v", c)
	}
	e.end("group", "side", 1)
	after := e.when("group", "with its sidecar made again", inInit(1))
	if was, is := initStatus(t, before, "init"), initStatus(t, after, "init"); was.ContainerID != is.ContainerID {
		t.Errorf("the init container was made again")
	}
	mustContain(t, e.ok("describe", "pod", "group"), "container side exited with code 1; it is made again")
	e.ok("exec", "group", "-c", "side", "--", "touch", "/shared/go")
	p := e.restarted("group", 1)
	same(t, e.ok("exec", "group", "-c", "main", "--", "cat", "/shared/order"), "side\ninit\nside\n")
	if p.Status.Phase != corev1.PodRunning {
		t.Errorf("got phase %s", p.Status.Phase)
	}
}

// TestSidecarHasStarted: the next init container waits for the sidecar's
// postStart hook and startup probe, also across a crash of the node.
func TestSidecarHasStarted(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(lifecyclePod("group", "", []string{
		"side " + sidecar + ", lifecycle: {postStart: {exec: {command: [sh, -c, 'sleep 0.3; echo hook >>/shared/order']}}}," +
			" startupProbe: {exec: {command: [test, -e, /shared/up]}, periodSeconds: 1, failureThreshold: 600}=sleep 3600",
		"init=echo init >>/shared/order"},
		[]string{"main=sleep 3600"}))
	starting := func(p *corev1.Pod) bool {
		for _, s := range p.Status.InitContainerStatuses {
			if s.Name == "side" {
				return s.State.Running != nil && !*s.Started && !s.Ready
			}
		}
		return false
	}
	e.when("group", "with its sidecar starting", starting)
	e.killNode()
	e.when("group", "with its sidecar starting", starting)
	if got := row(e.ok("get", "pods"), "group"); !strings.HasPrefix(got, "group 0/2 Init:0/2 0 ") {
		t.Errorf("got %q", got)
	}
	e.ok("exec", "group", "-c", "side", "--", "sh", "-c", "echo probe >>/shared/order; touch /shared/up")
	e.restarted("group", 0)
	same(t, e.ok("exec", "group", "-c", "main", "--", "cat", "/shared/order"), "hook\nprobe\ninit\n")
}

// TestSidecarEndsWithoutNode: an end that no node saw is judged by the next.
func TestSidecarEndsWithoutNode(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(lifecyclePod("group", "restartPolicy: Never", []string{"side " + sidecar + "=sleep 3600", "init=while [ ! -e /shared/go ]; do sleep 0.1; done"},
		[]string{"main=sleep 3600"}))
	runs := func(name string, p *corev1.Pod) bool {
		return slices.ContainsFunc(p.Status.InitContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == name && s.State.Running != nil })
	}
	p := e.when("group", "in its init container", func(p *corev1.Pod) bool { return runs("init", p) })
	side := e.initPID(ids(p)["side"])
	e.kill9(e.nodePID())
	e.kill9IfThere(side)
	p = e.when("group", "with its sidecar made again", func(p *corev1.Pod) bool { return runs("side", p) && initStatus(t, p, "side").RestartCount > 0 })
	if s := initStatus(t, p, "side"); s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 137 || s.RestartCount != 1 {
		t.Errorf("got %+v", s)
	}
	e.ok("exec", "group", "-c", "side", "--", "touch", "/shared/go")
	e.restarted("group", 1)
}

// TestSidecarImage: another image for a sidecar makes the group again.
func TestSidecarImage(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	manifest := lifecyclePod("group", "", []string{"side " + sidecar + "=sleep 3600"}, []string{"main=sleep 3600"})
	e.start(manifest, "group")
	e.apply(strings.Replace(manifest, "name: side, image: busybox", "name: side, image: app", 1))
	p := e.restarted("group", 1)
	if s := initStatus(t, p, "side"); s.Image != "app" || s.RestartCount != 1 {
		t.Errorf("got %+v", s)
	}
	mustContain(t, e.ok("describe", "pod", "group"), "the image of container side was changed")
}

// TestSidecarDoesNotKeepJob: a pod whose main containers are done is done, and
// how its sidecars end does not matter.
func TestSidecarDoesNotKeepJob(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"Never", "OnFailure"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.apply(lifecyclePod("job", "restartPolicy: "+policy+"\nterminationGracePeriodSeconds: 10",
				[]string{"side " + sidecar + "=trap 'exit 9' TERM; while :; do sleep 0.1; done"}, []string{"main=sleep 1; echo done"}))
			p := e.when("job", "succeeded", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
			if s := initStatus(t, p, "side"); s.State.Terminated == nil || s.State.Terminated.ExitCode != 9 || s.RestartCount != 0 {
				t.Errorf("got %+v", s)
			}
			if got := row(e.ok("get", "pods"), "job"); !strings.HasPrefix(got, "job 0/2 Completed 0 ") {
				t.Errorf("got %q", got)
			}
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && (c.Status != "False" || c.Reason != "PodCompleted") {
					t.Errorf("got %+v", c)
				}
			}
			same(t, e.ok("logs", "job", "-c", "main"), "done\n")
		})
	}
}

// TestSidecarInPodThatIsNeverRestarted: the pod's policy holds for the main
// containers, the sidecar's for the sidecar.
func TestSidecarInPodThatIsNeverRestarted(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(lifecyclePod("group", "restartPolicy: Never", []string{"side " + sidecar + "=" + untilEnd}, []string{"main=" + untilEnd}), "group")
	before := ids(e.pod("group"))
	e.end("group", "side", 0)
	after := ids(e.restarted("group", 1))
	if after["main"] != before["main"] || after["side"] == before["side"] {
		t.Errorf("got %v, was %v", after, before)
	}
}

// TestSidecarGraceIsThePods: sidecars get what the main containers leave of the
// grace period.
func TestSidecarGraceIsThePods(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(lifecyclePod("group", "terminationGracePeriodSeconds: 2", []string{"side " + sidecar + "=trap '' TERM; while :; do sleep 0.1; done"},
		[]string{"main=trap '' TERM; while :; do sleep 0.1; done"}), "group")
	start := time.Now()
	e.ok("delete", "pod", "group")
	if took := time.Since(start); took < 2*time.Second || took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

func conditionOf(t *testing.T, p *corev1.Pod, kind corev1.PodConditionType) corev1.PodCondition {
	t.Helper()
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	t.Fatalf("no condition %s in %+v", kind, p.Status.Conditions)
	return corev1.PodCondition{}
}
