package integration

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// operation is something that podrun does in several steps. The matrix has each
// of its fault points fail in turn, by an error and by kill -9 of the node,
// beside a pod that goes on; fault_matrix_test.go lists them.
type operation struct {
	name   string
	points []string // POINT, or POINT:N for the Nth time that it is reached
	vars   []string // of the environment
	setUp  func(e *env)
	// make makes what the operation needs, from nothing; it must succeed.
	make func(e *env)
	// do is the operation. What it runs may fail: a fault is armed.
	do func(e *env)
	// after fails the test unless all is as it must be after do, in which
	// point failed.
	after func(e *env, point string)
	// clear takes away what there is, of make or of do.
	clear func(e *env)
	// fromNothing: do begins with nothing, not with what make makes.
	fromNothing bool
}

// TestFaults is the matrix. After each fault the pod that ran before runs on with
// the same processes, what was hit comes to its end with the restarts it should
// have, is deleted and leaves nothing, and the same works again; after a kill,
// the next node answers within a second, of which it computes half at most.
func TestFaults(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var took []answer
	t.Cleanup(func() { // when all of them have ended
		slices.SortFunc(took, func(a, b answer) int { return cmp.Compare(a.after, b.after) })
		t.Logf("the next nodes answered after and with %v", took)
		// Some of them wait for a processor, for all this goes on at once; what
		// podrun itself waited for, most would have waited for. What they compute
		// is the same at any load.
		for i, a := range took {
			if a.used > time.Second/2 || i < len(took)/2 && a.after > time.Second || a.after > patience {
				t.Errorf("node %d of %d answered %v after its start, %v of that on a processor; want a second", i+1, len(took), a.after, a.used)
			}
		}
	})
	for _, action := range []string{"error", "kill"} {
		if testing.Short() && action == "error" {
			continue
		}
		list := operations() // each has a memory of its own
		if action == "error" && os.Geteuid() == 0 {
			list = ofRootOnly() // an error comes back the same way as the user's
		}
		for _, o := range list {
			t.Run(o.name+" "+action, func(t *testing.T) {
				t.Parallel()
				times := o.run(t, action)
				mu.Lock()
				defer mu.Unlock()
				took = append(took, times...)
			})
		}
	}
}

// run returns how long after its start each next node answered.
func (o *operation) run(t *testing.T, action string) (took []answer) {
	plan := filepath.Join(t.TempDir(), "plan")
	e := newEnv(t, append(o.vars, "PODRUN_FAULT=@"+plan)...)
	if o.setUp != nil {
		o.setUp(e)
	}
	beside := e.startNeighbour()
	o.make(e)
	o.clear(e)
	clean := e.belongings()
	if !o.fromNothing {
		o.make(e)
	}
	for _, point := range o.points {
		t.Run(point, func(t *testing.T) {
			e := e.sub(t, "")
			name, n, found := strings.Cut(point, ":")
			if !found {
				n = "1"
			}
			old := 0
			if action == "kill" {
				old = e.nodePID()
			}
			e.arm(plan, name+":"+action+":"+n)
			o.do(e)
			e.eventually("the fault at "+point, func() string {
				if _, err := os.Stat(plan); err == nil {
					return "to come"
				}
				return ""
			})
			if action == "kill" {
				took = append(took, e.answers(old))
			}
			o.after(e, name)
			beside.check(e)
			o.clear(e)
			e.soon("things of what was deleted", func() []string { return without(e.belongings(), clean) })
			o.make(e)
			if o.fromNothing {
				o.clear(e)
			}
		})
		if t.Failed() {
			return took // what follows would only repeat it
		}
	}
	return took
}

// arm makes the next node, and this one, fail as plan says.
func (e *env) arm(file, plan string) {
	e.t.Helper()
	// At once, or half of it is read.
	if err := os.WriteFile(file+".new", []byte(plan), 0o600); err != nil {
		e.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = os.Remove(file) })
}

// answer is what it took a new node to answer.
type answer struct {
	after time.Duration // its start
	used  time.Duration // of processors
}

// answers waits until "get pods" is answered by another node than old, which may
// have a last answer to give, and returns what it took that node.
func (e *env) answers(old int) answer {
	e.t.Helper()
	var at time.Duration
	var node stat
	e.eventually("get answers", func() string {
		r := e.run("get", "pods")
		at = sinceBoot(e.t)
		if r.code != 0 {
			return r.String()
		}
		pid := e.nodePID()
		s, ok := readStat(pid)
		if !ok || pid == old {
			return "the one that is killed has answered"
		}
		node = s
		return ""
	})
	const tick = 10 * time.Millisecond // proc(5): USER_HZ is 100
	ticks, err := strconv.ParseInt(node.start, 10, 64)
	if err != nil {
		e.t.Fatal(err)
	}
	return answer{after: at - time.Duration(ticks)*tick, used: time.Duration(node.ticks) * tick}
}

func sinceBoot(t *testing.T) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

// neighbour is a pod that runs beside what fails.
type neighbour struct {
	pod       *corev1.Pod
	processes map[string]process
}

func (e *env) startNeighbour() neighbour {
	e.t.Helper()
	e.start(podYAML("neighbour", "terminationGracePeriodSeconds: 0", "one=exec sleep 3600", "two=exec sleep 3600"), "neighbour")
	n := neighbour{e.pod("neighbour"), map[string]process{}}
	for name, pid := range e.initPIDs(n.pod) {
		s, ok := readStat(pid)
		if !ok {
			e.t.Fatalf("container %s of the neighbour has gone", name)
		}
		n.processes[name] = s.process
	}
	return n
}

// check fails the test unless nothing happened to the neighbour.
func (n neighbour) check(e *env) {
	e.t.Helper()
	for name, p := range n.processes {
		if !p.alive() {
			e.t.Errorf("container %s of the pod beside has ended", name)
		}
	}
	p := e.pod("neighbour")
	if !isReady(p) || restarts(p) != 0 || p.Status.PodIP != n.pod.Status.PodIP || !maps.Equal(ids(p), ids(n.pod)) {
		e.t.Errorf("the pod beside has changed: got %+v\nwas %+v", p.Status, n.pod.Status)
	}
}

// belongings are all that e has on the machine just now: programs, mounts,
// descriptors, links, files, cgroups and images.
func (e *env) belongings() []string {
	e.t.Helper()
	e.remember()
	node := e.nodePID()
	var all []string
	for p := range e.session() {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
		if len(args) == 0 {
			continue // it is ending
		}
		all = append(all, "process "+strings.ReplaceAll(strings.TrimRight(string(args), "\x00"), "\x00", " "))
	}
	for _, m := range mounts(strconv.Itoa(node), e.dir) {
		all = append(all, "mount "+m)
	}
	for _, d := range e.descriptors(node) {
		all = append(all, "descriptor "+d)
	}
	for _, l := range e.links(node) {
		all = append(all, "link "+strings.Fields(l)[1])
	}
	for _, f := range e.files() {
		all = append(all, "file "+f)
	}
	for _, c := range e.cgroups() {
		all = append(all, "cgroup "+c)
	}
	for _, i := range e.kept() {
		all = append(all, "image "+i)
	}
	return all
}

// without returns what is in list more often than in base.
func without(list, base []string) (more []string) {
	n := map[string]int{}
	for _, s := range base {
		n[s]++
	}
	for _, s := range list {
		if n[s]--; n[s] < 0 {
			more = append(more, s)
		}
	}
	return more
}

// afterFault waits until a pod is done with a fault: ok is true of it, or it
// waits for its next attempt to start and says what failed. It has had n restarts
// either way, and never more.
func (e *env) afterFault(name, point string, n int, ok func(*corev1.Pod) bool) *corev1.Pod {
	e.t.Helper()
	return e.when(name, fmt.Sprintf("over the fault, with %d restarts", n), func(p *corev1.Pod) bool {
		if got := restarts(p); got > n {
			e.t.Fatalf("pod %s: got %d restarts, want %d\n%s", name, got, n, e.ok("describe", "pod", name))
		}
		return restarts(p) == n && (ok(p) || saysFault(p, point))
	})
}

// saysFault tells whether a container of p waits because point failed.
func saysFault(p *corev1.Pod, point string) bool {
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if s.State.Waiting != nil && strings.Contains(s.State.Waiting.Message, "fault injected at "+point) {
			return true
		}
	}
	return false
}

// tryApply applies a manifest, and again if that failed. What was acknowledged
// the first time is there.
func (e *env) tryApply(manifest string, pods ...string) {
	e.t.Helper()
	e.stdin = manifest
	r := e.run("apply", "-f", "-")
	if r.code != 0 {
		e.apply(manifest)
		return
	}
	for _, name := range pods {
		e.pod(name)
	}
}

// tryDelete deletes a pod, again if need be, and waits until it is gone.
func (e *env) tryDelete(name string) {
	e.t.Helper()
	e.eventually("end of pod "+name, func() string {
		r := e.run("delete", "pod", name, "--now", "--ignore-not-found")
		if r.code != 0 {
			return r.String()
		}
		out := e.ok("get", "pods", "-o", "json")
		var list corev1.PodList
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			e.t.Fatal(err)
		}
		if slices.ContainsFunc(list.Items, func(p corev1.Pod) bool { return p.Name == name }) {
			return "there"
		}
		return ""
	})
}

// TestFaultPointsAreAll compares the matrix with the sources.
func TestFaultPointsAreAll(t *testing.T) {
	t.Parallel()
	call := regexp.MustCompile(`\bfault(?:\.Point)?\("([^"]+)"\)`)
	var found []string
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range call.FindAllStringSubmatch(string(b), -1) {
			found = append(found, m[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// The bridge is made once: package cni's TestEveryStepFails has it fail.
	want := []string{"network.bridge"}
	for _, o := range append(operations(), ofRootOnly()...) {
		for _, p := range o.points {
			name, _, _ := strings.Cut(p, ":")
			want = append(want, name)
		}
	}
	slices.Sort(found)
	slices.Sort(want)
	found, want = slices.Compact(found), slices.Compact(want)
	if missing := without(found, want); len(missing) > 0 {
		t.Errorf("points that no operation of the matrix has: %q", missing)
	}
	if gone := without(want, found); len(gone) > 0 {
		t.Errorf("points of the matrix that are nowhere in the sources: %q", gone)
	}
}
