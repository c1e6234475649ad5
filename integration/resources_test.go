package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// limitedPod is the manifest of a pod with one container, c, whose resources
// are given.
func limitedPod(name, spec, script, resources string) string {
	return podYAML(name, spec) + fmt.Sprintf("  - {name: c, image: busybox, command: [sh, -c, %q], resources: %s}\n", script, resources)
}

// limitsKept tells whether the node can limit containers, as it says itself.
// Where PODRUN_TEST_DELEGATED says that it must, it is a failure if not.
func (e *env) limitsKept() bool {
	e.t.Helper()
	e.start(limitedPod("asks", "", "exec sleep 3600", "{limits: {memory: 64Mi}}"), "asks")
	defer e.ok("delete", "pod", "asks", "--now")
	for _, c := range e.pod("asks").Status.Conditions {
		if c.Type == "podrun.dev/ResourceLimits" {
			if c.Status != corev1.ConditionTrue && os.Getenv("PODRUN_TEST_DELEGATED") != "" {
				e.t.Fatalf("PODRUN_TEST_DELEGATED is set, and there are no limits: %s", c.Message)
			}
			return c.Status == corev1.ConditionTrue
		}
	}
	e.t.Fatal("no condition podrun.dev/ResourceLimits")
	return false
}

// cgroupFile reads a file of the cgroup of container c of a pod, by its names
// in cgroup v1 and v2.
func (e *env) cgroupFile(pod, controller, v1, v2 string) string {
	e.t.Helper()
	return e.cgroupFileAbove(pod, controller, v1, v2, "")
}

// cgroupFileAbove does it for a cgroup above the container's, such as "..".
func (e *env) cgroupFileAbove(pod, controller, v1, v2, above string) string {
	e.t.Helper()
	pid := e.initPID(ids(e.pod(pod))["c"])
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		e.t.Fatal(err)
	}
	for line := range strings.Lines(string(own)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		file := ""
		if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
			file = filepath.Join("/sys/fs/cgroup", f[2], above, v2)
		} else if strings.Contains(","+f[1]+",", ","+controller+",") {
			file = filepath.Join("/sys/fs/cgroup", controller, f[2], above, v1)
		}
		if file == "" {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			e.t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	e.t.Fatalf("no cgroup of %s in %s", controller, own)
	return ""
}

// TestLimits: requests and limits reach the kernel where they can, and where
// not the pod runs and says so.
func TestLimits(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.write("pod.yml", limitedPod("a", "", "exec sleep 3600", "{requests: {cpu: 100m}, limits: {cpu: 500m, memory: 64Mi}}"))
	r := e.run("apply", "-f", "pod.yml")
	if r.code != 0 {
		t.Fatal(r)
	}
	e.ready("a")
	var condition corev1.PodCondition
	for _, c := range e.pod("a").Status.Conditions {
		if c.Type == "podrun.dev/ResourceLimits" {
			condition = c
		}
	}
	if condition.Status != corev1.ConditionTrue {
		same(t, string(condition.Status)+" "+condition.Reason, "False NotDelegated")
		mustContain(t, condition.Message, "limits of cpu and memory have no effect: ", `; see "podrun doctor"`)
		mustContain(t, r.err, "Warning: ", condition.Message)
		if strings.Count(r.err, "\n") != 1 {
			t.Errorf("more than one warning: %s", r.err)
		}
		if os.Geteuid() == 0 || os.Getenv("PODRUN_TEST_DELEGATED") != "" {
			t.Error("real root, or a user to whom a cgroup is delegated, has no limits")
		}
	} else {
		same(t, r.err, "")
		same(t, e.cgroupFile("a", "memory", "memory.limit_in_bytes", "memory.max"), "67108864")
		same(t, strings.Fields(e.cgroupFile("a", "cpu", "cpu.cfs_quota_us", "cpu.max"))[0], "50000")
		same(t, e.cgroupFile("a", "pids", "pids.max", "pids.max"), "8192")
		if shares := e.cgroupFile("a", "cpu", "cpu.shares", "cpu.weight"); shares != "102" && shares != "17" {
			t.Errorf("100m of cpu are %s", shares)
		}
	}
	// A pod that asks for nothing is told nothing.
	e.start(podYAML("plain", "", "c=exec sleep 3600"), "plain")
	for _, c := range e.pod("plain").Status.Conditions {
		if strings.HasPrefix(string(c.Type), "podrun.dev/") {
			t.Errorf("plain pod: %+v", c)
		}
	}
}

// eatMemory has the shell become a program that takes 200 MB in one call.
const eatMemory = "exec dd if=/dev/zero of=/dev/null bs=200000000 count=1"

// TestOOMKilled: a container that takes more than its limit is killed, and the
// reason is kept.
func TestOOMKilled(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	if !e.limitsKept() {
		return // TestLimits has it
	}
	e.apply(limitedPod("own", "restartPolicy: Never", eatMemory, "{limits: {memory: 32Mi}}") + "---\n" +
		limitedPod("pods", "restartPolicy: Never\nresources: {limits: {memory: 32Mi}}", eatMemory, "{}"))
	for _, name := range []string{"own", "pods"} {
		p := e.when(name, "is over", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
		ended := p.Status.ContainerStatuses[0].State.Terminated
		if ended == nil || ended.Reason != "OOMKilled" || ended.ExitCode != 137 {
			t.Errorf("pod %s: %+v", name, ended)
		}
		mustContain(t, row(e.ok("get", "pods"), name), "OOMKilled")
	}
}

// TestOOMKilledBesideMain: so is one that is no main container, and what follows
// is what follows any failure of it.
func TestOOMKilledBesideMain(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	if !e.limitsKept() {
		return // TestLimits has it
	}
	const eat = "if [ -e /shared/eat ]; then rm /shared/eat; " + eatMemory + "; fi; exec sleep 3600"
	const limits = "resources: {limits: {memory: 32Mi}}"
	e.apply(lifecyclePod("init", "restartPolicy: Never", []string{"c " + limits + "=touch /shared/eat; " + eat}, []string{"main=exec sleep 3600"}))
	e.start(lifecyclePod("side", "", []string{"c " + sidecar + ", " + limits + "=while :; do (" + strings.Replace(eat, "exec sleep 3600", "true", 1) + ") || exit; sleep 0.1; done"}, []string{"main=exec sleep 3600"}), "side")

	p := e.when("init", "is over", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if end := status(p, "c").State.Terminated; end == nil || end.Reason != "OOMKilled" || end.ExitCode != 137 {
		t.Errorf("init container: %+v", status(p, "c"))
	}
	mustContain(t, row(e.ok("get", "pods"), "init"), "Init:OOMKilled")

	before := ids(e.pod("side"))
	e.ok("exec", "side", "-c", "main", "--", "touch", "/shared/eat")
	p = e.restarted("side", 1)
	if end := status(p, "c").LastTerminationState.Terminated; end == nil || end.Reason != "OOMKilled" || end.ExitCode != 137 {
		t.Errorf("sidecar: %+v", status(p, "c"))
	}
	if ids(p)["main"] == before["main"] {
		t.Error("the sidecar is one of the group, and the main container was not made again")
	}
	mustContain(t, e.ok("describe", "pod", "side"), "container c ran out of memory and was killed; all 2 containers are made again")
}

// TestResourcesOfPod: the pod's own resources bound its containers together.
func TestResourcesOfPod(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	kept := e.limitsKept()
	e.start(limitedPod("a", "resources: {requests: {cpu: 250m}, limits: {cpu: 500m, memory: 128Mi}}", "exec sleep 3600", "{limits: {memory: 64Mi}}"), "a")
	same(t, string(e.pod("a").Status.QOSClass), "Burstable")
	if !kept {
		return
	}
	same(t, e.cgroupFile("a", "memory", "memory.limit_in_bytes", "memory.max"), "67108864")
	same(t, e.cgroupFileAbove("a", "memory", "memory.limit_in_bytes", "memory.max", ".."), "134217728")
	same(t, strings.Fields(e.cgroupFileAbove("a", "cpu", "cpu.cfs_quota_us", "cpu.max", ".."))[0], "50000")
	// The group restart makes the container's cgroup anew, in the pod's.
	e.ok("exec", "a", "--", "kill", "1")
	e.kill9(e.initPID(ids(e.pod("a"))["c"]))
	e.restarted("a", 1)
	same(t, e.cgroupFileAbove("a", "memory", "memory.limit_in_bytes", "memory.max", ".."), "134217728")
}

// TestCgroupTree: what the kernel is told for pods of each QoS class.
func TestCgroupTree(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	if !e.limitsKept() {
		return // TestLimits has it
	}
	e.start(limitedPod("best", "", "exec sleep 3600", "{}")+"---\n"+
		limitedPod("burst", "", "exec sleep 3600", "{requests: {cpu: 100m, memory: 32Mi}, limits: {memory: 64Mi}}")+"---\n"+
		limitedPod("sure", "", "exec sleep 3600", "{limits: {cpu: '1', memory: 64Mi}}")+"---\n"+
		limitedPod("whole", "resources: {requests: {cpu: '1'}, limits: {cpu: '2', memory: 64Mi}}", "exec sleep 3600", "{}"), "best", "burst", "sure", "whole")
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	unified := err == nil
	const none = "9223372036854771712" // cgroup v1's, with pages of 4 KiB
	for _, tt := range []struct {
		pod, class, above            string
		shares, weight               string // of processor time, by version
		quota, max                   string
		limit, memoryMax, memorySwap string
	}{
		{"best", "BestEffort", "", "2", "1", "-1", "max 100000", none, "max", "max"},
		{"burst", "Burstable", "", "102", "17", "-1", "max 100000", "67108864", "67108864", "0"},
		{"sure", "Guaranteed", "", "1024", "100", "100000", "100000 100000", "67108864", "67108864", "0"},
		{"whole", "Burstable", "..", "1024", "100", "200000", "200000 100000", "67108864", "67108864", "0"},
	} {
		same(t, string(e.pod(tt.pod).Status.QOSClass), tt.class)
		file := func(controller, v1, v2, wantV1, wantV2 string) {
			t.Helper()
			want := wantV1
			if unified {
				want = wantV2
			}
			if got := e.cgroupFileAbove(tt.pod, controller, v1, v2, tt.above); got != want {
				t.Errorf("%s: %s %s is %s, want %s", tt.pod, v1, v2, got, want)
			}
		}
		file("cpu", "cpu.shares", "cpu.weight", tt.shares, tt.weight)
		file("cpu", "cpu.cfs_quota_us", "cpu.max", tt.quota, tt.max)
		file("memory", "memory.limit_in_bytes", "memory.max", tt.limit, tt.memoryMax)
		if unified {
			// As the kubelet has it: no throttling before the limit, and no swap.
			file("memory", "", "memory.high", "", "max")
			file("memory", "", "memory.swap.max", "", tt.memorySwap)
		}
		if unified && tt.above == "" {
			file("memory", "", "memory.oom.group", "", "1")
		}
	}
}

// TestThrottled: a container that wants more processor time than its limit is
// held back.
func TestThrottled(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	if !e.limitsKept() {
		return // TestLimits has it
	}
	e.start(limitedPod("a", "", "while :; do :; done", "{limits: {cpu: 50m}}"), "a")
	e.eventually("the loop is held back", func() string {
		stat := e.cgroupFile("a", "cpu", "cpu.stat", "cpu.stat")
		if row(stat, "nr_throttled") == "nr_throttled 0" {
			return stat
		}
		return ""
	})
}

// TestOOMScore: who is chosen first when the machine has no memory left.
func TestOOMScore(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	e.start(limitedPod("best", "", "exec sleep 3600", "{}")+"---\n"+
		limitedPod("burst", "", "exec sleep 3600", "{requests: {cpu: 100m}}")+"---\n"+
		limitedPod("sure", "", "exec sleep 3600", "{limits: {cpu: 100m, memory: 64Mi}}"), "best", "burst", "sure")
	for name, want := range map[string]string{"best": "1000\n", "burst": "999\n"} {
		same(t, e.in(name, "cat /proc/1/oom_score_adj").out, want)
	}
	// To go lower than the node takes CAP_SYS_RESOURCE.
	if got := e.in("sure", "cat /proc/1/oom_score_adj").out; got != "-997\n" && got != string(own) {
		t.Errorf("Guaranteed: %s, and the node has %s", got, own)
	}
}
