package integration

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// fullLoad tells that this is "make load": as part of all tests there is less of
// everything.
func fullLoad() bool { return os.Getenv("PODRUN_LOAD") == "full" }

func loadOf(small, full int) int {
	if fullLoad() {
		return full
	}
	return small
}

// cpu is how much processor time the node, the reaper and what ended below them
// have taken.
func (e *env) cpu() time.Duration {
	e.t.Helper()
	var ticks int64
	for _, pid := range []int{e.nodePID(), e.reaperPID()} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			e.t.Fatal(err)
		}
		var user, system, childUser, childSystem int64
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if _, err := fmt.Sscan(strings.Join(f[11:15], " "), &user, &system, &childUser, &childSystem); err != nil {
			e.t.Fatal(err)
		}
		ticks += user + system + childUser + childSystem
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ
}

// measure begins to measure; the function that it returns logs what was done,
// how long it took and the processor time of podrun's node for it, which it
// returns.
func (e *env) measure(what string) func() time.Duration {
	e.t.Helper()
	e.ok("get", "pods")
	cpu, began := e.cpu(), time.Now()
	return func() time.Duration {
		e.t.Helper()
		took, used := time.Since(began), e.cpu()-cpu
		e.t.Logf("%s: %v, cpu %v", what, took.Round(time.Millisecond), used)
		return used
	}
}

// configMaps is a manifest of ConfigMaps cm0, cm1, ... with size bytes each.
func configMaps(count, size int) string {
	var b strings.Builder
	for i := range count {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm%d}\ndata: {k: %q}\n", i, strings.Repeat("x", size))
	}
	return b.String()
}

// TestLoadObjects: many objects are stored, found, listed and deleted.
func TestLoadObjects(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	count := loadOf(200, 2000)
	done := e.measure(fmt.Sprintf("apply of %d ConfigMaps", count))
	e.apply(configMaps(count, 100))
	applied := done()
	done = e.measure("get all")
	if n := len(strings.Fields(e.ok("get", "configmaps", "-o", "name"))); n != count {
		t.Errorf("got %d of %d", n, count)
	}
	done()
	done = e.measure("get one")
	mustContain(t, e.ok("get", "configmap", fmt.Sprint("cm", count-1), "-o", "yaml"), "k: xxx")
	done()
	done = e.measure("a node that starts with them")
	e.killNode()
	e.ok("get", "pods")
	done()
	e.start(podYAML("beside", "", "c=exec sleep 3600"), "beside")
	done = e.measure("delete all")
	e.ok("delete", "configmaps", "--all")
	if deleted := done(); deleted > 5*applied+500*time.Millisecond {
		t.Errorf("the deletion took %v of processor time, the apply %v: more than in proportion", deleted, applied)
	}
	same(t, e.ok("get", "configmaps", "-o", "name"), "")
}

// TestLoadCalls: many commands at the same time, each with its own answer.
func TestLoadCalls(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	count := loadOf(40, 200)
	e.start(podYAML("a", "", "c=echo printed; exec sleep 3600"), "a")
	done := e.measure(fmt.Sprintf("%d commands at once", count))
	var all sync.WaitGroup
	failed := make([]string, count)
	for i := range count {
		all.Go(func() {
			name := fmt.Sprint("cm", i)
			args, want := []string{"get", "pods"}, "a      1/1     Running   0"
			switch i % 5 {
			case 1:
				args, want = []string{"exec", "a", "--", "echo", name}, name+"\n"
			case 2:
				args, want = []string{"create", "configmap", name, "--from-literal=k=" + name}, "configmap/"+name+" created\n"
			case 3:
				args, want = []string{"logs", "a"}, "printed\n"
			case 4:
				args, want = []string{"get", "pod", "a", "-o", "jsonpath={.metadata.name}"}, "a"
			}
			command := e.command(args...)
			hang := time.AfterFunc(2*patience, func() { _ = command.Process.Kill() })
			defer hang.Stop()
			var errs strings.Builder
			command.Stderr = &errs
			out, err := command.Output()
			if err != nil || !strings.Contains(string(out), want) {
				failed[i] = fmt.Sprintf("podrun %v: %v: %q %s, want %q", args, err, out, errs.String(), want)
			}
		})
	}
	all.Wait()
	done()
	for _, f := range failed {
		if f != "" {
			t.Error(f)
		}
	}
	if n := len(strings.Fields(e.ok("get", "configmaps", "-o", "name"))); n != (count+2)/5 {
		t.Errorf("got %d ConfigMaps, want %d", n, (count+2)/5)
	}
}

// TestLoadLogs: a container that prints without a pause takes no more disk than
// its log may have, and slows its neighbour down no more than any busy program.
func TestLoadLogs(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	megabytes := loadOf(70, 1000)
	e.start(podYAML("quiet", "", "c=exec sleep 3600"), "quiet")
	beside := func() time.Duration {
		began := time.Now()
		same(t, e.ok("exec", "quiet", "--", "echo", "here"), "here\n")
		return time.Since(began)
	}
	var before, during []time.Duration
	for range 5 {
		before = append(before, beside())
	}
	done := e.measure(fmt.Sprintf("%d MB of logs", megabytes))
	e.apply(podYAML("loud", "terminationGracePeriodSeconds: 0", fmt.Sprintf("c=yes %s | head -c %d; echo; echo the end; exec sleep 3600", strings.Repeat("x", 100), megabytes<<20)))
	e.eventually("the end of the log", func() string {
		during = append(during, beside())
		r := e.run("logs", "loud", "--tail=1")
		if r.code == 0 && r.out == "the end\n" {
			return ""
		}
		return "at " + r.out
	})
	done()
	slices.Sort(before)
	slices.Sort(during)
	t.Logf("an exec beside it took %v at most", during[len(during)-1])
	if alone, now := before[len(before)/2], during[len(during)/2]; now > 10*alone+time.Second {
		t.Errorf("an exec beside it took %v, alone %v", now, alone)
	}
	var size int64
	_ = filepath.WalkDir(filepath.Join(e.data, "logs"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil
	})
	if size < 40<<20 || size > 51<<20 {
		t.Errorf("the logs have %d bytes, want at most 5 files of 10 MiB", size)
	}
}

// TestLoadForks: a container that starts processes without end has as many as it
// may, and the node and the neighbour are as before.
func TestLoadForks(t *testing.T) {
	t.Parallel()
	if !fullLoad() {
		return // TestLimits has the limit: 8192 processes are for "make load"
	}
	e := newEnv(t)
	if !e.limitsKept() {
		return
	}
	e.start(podYAML("quiet", "", "c=exec sleep 3600")+"---\n"+podYAML("forks", "terminationGracePeriodSeconds: 0", "c=(while :; do sleep 3600 & done) 2>/dev/null; exec sleep 3600", "d=exec sleep 3600"), "quiet")
	done := e.measure("a container that forks up to its limit")
	e.eventually("the limit", func() string {
		same(t, e.ok("exec", "quiet", "--", "echo", "here"), "here\n")
		// The shell that forks ends when it cannot.
		if n := e.cgroupFile("forks", "pids", "pids.current", "pids.current"); n != "8192" && n != "8191" {
			return n
		}
		return ""
	})
	done()
	e.ok("exec", "forks", "-c", "d", "--", "true") // another container's limit is its own
	done = e.measure("its deletion")
	e.ok("delete", "pod", "forks")
	done()
}

// TestLoadEmptyDir: a container that writes into its emptyDir without end is
// evicted, and its neighbour goes on.
func TestLoadEmptyDir(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(podYAML("quiet", "", "c=exec sleep 3600"), "quiet")
	manifest := podYAML("fills", "terminationGracePeriodSeconds: 0\nvolumes: [{name: v, emptyDir: {sizeLimit: 8Mi}}]", "c=while :; do dd if=/dev/zero bs=1M count=4 2>/dev/null >>/v/f; sleep 0.2; done")
	e.apply(strings.Replace(manifest, "image: busybox,", "image: busybox, volumeMounts: [{name: v, mountPath: /v}],", 1))
	p := e.when("fills", "evicted", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	same(t, p.Status.Reason, "Evicted")
	same(t, e.ok("exec", "quiet", "--", "echo", "here"), "here\n")
	if _, err := os.Stat(filepath.Join(e.data, "volumes", string(p.UID))); err == nil {
		t.Error("what the evicted pod wrote is still on disk")
	}
}

// TestLoadManifest: a manifest of 10 MB is applied; one object of so much, or a
// larger manifest, is refused in a line, and nothing of it is there.
func TestLoadManifest(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	done := e.measure("a manifest of 10 MB")
	e.apply(configMaps(50, 200_000)) // each below what the annotation of an apply may hold
	done()
	if n := len(strings.Fields(e.ok("get", "configmaps", "-o", "name"))); n != 50 {
		t.Errorf("got %d ConfigMaps", n)
	}
	e.ok("delete", "configmaps", "--all")
	type refused struct{ manifest, want string }
	cases := map[string]refused{
		"more than a manifest":     {configMaps(90, 200_000), "larger than 16 MiB"},
		"a name":                   {strings.Replace(podYAML("p", "", "c=true"), "name: p", "name: "+strings.Repeat("x", 10_000_000), 1), "253"},
		"a mapping without an end": {strings.Repeat("a: {", 2_000_000), ""},
	}
	if fullLoad() { // each is seconds of processor time
		cases["a ConfigMap"] = refused{configMaps(1, 10_000_000), "1048576"}
		cases["an annotation"] = refused{strings.Replace(podYAML("p", "", "c=true"), "labels: {app: myapp}", "annotations: {a: "+strings.Repeat("x", 10_000_000)+"}", 1), "262144"}
		cases["a list without an end"] = refused{strings.Repeat("[", 10_000_000), ""}
	}
	for name, c := range cases {
		e.stdin = c.manifest
		r := e.run("apply", "-f", "-")
		if r.code != 1 || r.out != "" || len(r.err) > 2000 || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, c.want) {
			t.Errorf("%s: exit %d, %d bytes of output, %d bytes of error: %.500s; want %q in a line", name, r.code, len(r.out), len(r.err), r.err, c.want)
		}
	}
	same(t, e.ok("get", "pods,configmaps", "-o", "name"), "")
}

// TestLoadUnread: commands whose output nobody reads hold up nobody, and end
// with the pipe.
func TestLoadUnread(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(podYAML("loud", "terminationGracePeriodSeconds: 0", "c=yes "+strings.Repeat("x", 100)), "loud")
	e.start(podYAML("a", "", "c=exec sleep 3600"), "a")
	type unread struct {
		command *exec.Cmd
		out     *os.File
	}
	var all []unread
	for _, args := range [][]string{{"exec", "a", "--", "cat", "/dev/zero"}, {"logs", "-f", "loud"}, {"get", "pods", "-w"}, {"exec", "a", "--", "sh", "-c", "exec cat /dev/zero >&2"}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		command := e.command(args...)
		command.Stdout, command.Stderr = w, w
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		one := make([]byte, 1)
		if _, err := r.Read(one); err != nil { // it has begun
			t.Fatalf("%v: %v", args, err)
		}
		all = append(all, unread{command, r})
	}
	for i := range 20 {
		same(t, e.ok("exec", "a", "--", "echo", fmt.Sprint(i)), fmt.Sprint(i, "\n"))
		e.ok("get", "pods")
		if n := strings.Count(e.ok("logs", "loud", "--tail=3"), "\n"); n != 3 {
			t.Errorf("got %d lines for --tail=3", n)
		}
	}
	e.ok("delete", "pod", "loud") // under its logs -f
	for _, u := range all {
		_ = u.out.Close()
		ended := make(chan error, 1)
		go func() { ended <- u.command.Wait() }()
		if strings.Contains(strings.Join(u.command.Args, " "), " -w") {
			e.apply(podYAML("b", "", "c=exec sleep 3600")) // it writes, and finds that nobody reads
		}
		select {
		case <-ended:
		case <-time.After(patience):
			t.Errorf("%v did not end with the pipe", u.command.Args)
			_ = u.command.Process.Kill()
			<-ended
		}
	}
	e.eventually("the end of the programs", func() string {
		if out := e.ok("exec", "a", "--", "ps"); strings.Contains(out, "cat") {
			return out
		}
		return ""
	})
}
