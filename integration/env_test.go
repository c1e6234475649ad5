package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/need"
)

// patience bounds every wait: on a busy machine all takes long, on a broken one
// for ever. PODRUN_TEST_PATIENCE sets it, for machines that are slow by nature.
var patience = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("PODRUN_TEST_PATIENCE")); err == nil && d > 0 {
		return d
	}
	return 60 * time.Second
}()

// env is one user's podrun with a home, a state and a data directory of its
// own. When its test ends, it proves that nothing is left of it.
type env struct {
	t                      *testing.T
	dir, home, state, data string
	binary                 string            // podrun, see ownBinary
	vars                   map[string]string // of the environment, beyond what run sets
	ns                     string            // that commands are about; "" for podrun's own choice
	stdin                  string            // what the next command reads

	// What was seen and must be gone at the end, see leak_test.go.
	subjects map[process]string
	ids      map[string]bool // of containers
}

// newEnv makes an env. vars, NAME=VALUE, are in the environment of all that it
// runs, the node included.
func newEnv(t *testing.T, vars ...string) *env {
	t.Helper()
	need.UserNS(t)
	need.SubIDs(t)
	need.NetNS(t)
	need.Overlay(t)
	// Not t.TempDir: that is a long path, and a socket's must be short.
	dir, err := os.MkdirTemp("", "pr")
	if err != nil {
		t.Fatal(err)
	}
	e := &env{
		t: t, dir: dir, home: filepath.Join(dir, "home"), state: filepath.Join(dir, "state"), data: filepath.Join(dir, "data"),
		binary: podrunBinary,
		vars:   map[string]string{"PODRUN_REGISTRIES_CONF": images.Conf}, subjects: map[process]string{}, ids: map[string]bool{},
	}
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		e.vars[name] = value
	}
	if err := os.Mkdir(e.home, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.finish)
	return e
}

// sub is e for a subtest that runs while no other does, with the pods of a
// namespace.
func (e *env) sub(t *testing.T, namespace string) *env {
	sub := *e
	sub.t, sub.ns = t, namespace
	return &sub
}

// result is what a command did.
type result struct {
	args     []string
	out, err string
	code     int
	took     time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("podrun %s\nexit %d after %v\nstdout: %s\nstderr: %s", strings.Join(r.args, " "), r.code, r.took, r.out, r.err)
}

func (e *env) environ() []string {
	environ := []string{
		"PATH=" + filepath.Dir(e.binary) + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + e.home, "PODRUN_STATE=" + e.state, "PODRUN_DATA=" + e.data, "LANG=C.UTF-8",
	}
	// How the race detector is to behave, where podrun is built with it.
	if race := os.Getenv("GORACE"); race != "" {
		environ = append(environ, "GORACE="+race)
	}
	for name, value := range e.vars {
		environ = append(environ, name+"="+value)
	}
	return environ
}

// command prepares podrun with args, for what run cannot do.
func (e *env) command(args ...string) *exec.Cmd {
	command := exec.Command(e.binary, args...)
	command.Env = e.environ()
	command.Dir = e.home
	return command
}

// run runs podrun with args to its end, with e.stdin as its input, once.
func (e *env) run(args ...string) result {
	e.t.Helper()
	if e.ns != "" {
		args = append([]string{"--namespace=" + e.ns}, args...)
	}
	command := e.command(args...)
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	if e.stdin != "" {
		command.Stdin = strings.NewReader(e.stdin)
		e.stdin = ""
	}
	// A pipe that somebody inherited must not hang the test.
	command.WaitDelay = 5 * time.Second
	start := time.Now()
	if err := command.Start(); err != nil {
		e.t.Fatal(err)
	}
	hang := time.AfterFunc(2*patience, func() { _ = command.Process.Kill() })
	err := command.Wait()
	inTime := hang.Stop()
	r := result{args: args, out: out.String(), err: errs.String(), code: command.ProcessState.ExitCode(), took: time.Since(start)}
	var exit *exec.ExitError
	e.checkSane("podrun "+strings.Join(args, " "), r.err)
	if r.took > 5*time.Second {
		e.t.Logf("slow: %v", r)
	}
	switch {
	case !inTime:
		e.t.Fatalf("hangs: %v\nnode.log:\n%s", r, e.nodeLog())
	case err != nil && !errors.As(err, &exit):
		e.t.Fatalf("%v: %v", err, r)
	}
	return r
}

// ok runs podrun, which must succeed, and returns its output. What only reads is
// asked again when the node was killed under the question: the tests do that.
func (e *env) ok(args ...string) string {
	e.t.Helper()
	r := e.run(args...)
	reads := args[0] == "get" || args[0] == "describe" || args[0] == "logs"
	for range 10 {
		if r.code == 0 || !reads || !strings.Contains(r.err, "the node ended the connection") {
			break
		}
		time.Sleep(20 * time.Millisecond)
		r = e.run(args...)
	}
	if r.code != 0 {
		e.t.Fatalf("want exit 0: %v\nnode.log:\n%s", r, e.nodeLog())
	}
	return r.out
}

// fails runs podrun, which must end with code and print nothing on its standard
// output, and returns its standard error.
func (e *env) fails(code int, args ...string) string {
	e.t.Helper()
	r := e.run(args...)
	if r.code != code || r.out != "" {
		e.t.Fatalf("want exit %d and no output: %v", code, r)
	}
	return r.err
}

// apply applies a manifest that is given as text.
func (e *env) apply(manifest string) string {
	e.t.Helper()
	e.stdin = manifest
	return e.ok("apply", "-f", "-")
}

// start applies a manifest and waits until its pods, by name, are ready.
func (e *env) start(manifest string, pods ...string) {
	e.t.Helper()
	e.apply(manifest)
	for _, name := range pods {
		e.ready(name)
	}
}

// pod is what the node says of a pod.
func (e *env) pod(name string) *corev1.Pod {
	e.t.Helper()
	p := new(corev1.Pod)
	out := e.ok("get", "pod", name, "-o", "json")
	if err := json.Unmarshal([]byte(out), p); err != nil {
		e.t.Fatalf("%v: %s", err, out)
	}
	for _, id := range ids(p) {
		e.ids[id] = true
	}
	return p
}

// exists tells whether there is a pod of that name.
func (e *env) exists(name string) bool {
	e.t.Helper()
	return e.run("get", "pod", name).code == 0
}

// eventually waits until done returns "", which otherwise says what is missing.
func (e *env) eventually(what string, done func() string) {
	e.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		missing := done()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("%s: still %s after %v\n%s\nnode.log:\n%s", what, missing, patience, e.run("describe", "pods", "-A"), e.nodeLog())
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// when waits until ok is true of a pod, and returns it.
func (e *env) when(name, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	e.t.Helper()
	var p *corev1.Pod
	e.eventually("pod "+name+" "+what, func() string {
		p = e.pod(name)
		if ok(p) {
			return ""
		}
		return row(e.ok("get", "pods"), name)
	})
	return p
}

// ready waits until all containers of a pod run.
func (e *env) ready(name string) *corev1.Pod {
	e.t.Helper()
	return e.when(name, "ready", isReady)
}

// listed waits until "get pods" has that many lines with text in them: of
// hundreds of pods the whole JSON is megabytes.
func (e *env) listed(count int, text string) {
	e.t.Helper()
	e.eventually("all pods", func() string {
		if n := strings.Count(e.ok("get", "pods", "--no-headers"), text); n < count {
			return fmt.Sprintf("%d of %d", n, count)
		}
		return ""
	})
}

func isReady(p *corev1.Pod) bool {
	for _, s := range running(p) {
		if !s.Ready || s.State.Running == nil {
			return false
		}
	}
	return p.Status.Phase == corev1.PodRunning && len(p.Status.ContainerStatuses) == len(p.Spec.Containers)
}

// restarted waits until a pod is ready and its restarts are at least n, and
// fails if they are more.
func (e *env) restarted(name string, n int) *corev1.Pod {
	e.t.Helper()
	p := e.when(name, fmt.Sprintf("restarted %d times", n), func(p *corev1.Pod) bool { return restarts(p) >= n && isReady(p) })
	if got := restarts(p); got != n {
		e.t.Fatalf("pod %s: got %d restarts, want %d\n%s", name, got, n, e.ok("describe", "pod", name))
	}
	return p
}

// restarts is kubectl's RESTARTS column.
func restarts(p *corev1.Pod) int {
	n := 0
	for _, s := range running(p) {
		n += int(s.RestartCount)
	}
	return n
}

// running are the statuses of the containers that are meant to keep running:
// sidecars and main ones.
func running(p *corev1.Pod) (list []corev1.ContainerStatus) {
	for _, s := range p.Status.InitContainerStatuses {
		if slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool {
			return c.Name == s.Name && c.RestartPolicy != nil && *c.RestartPolicy == "Always"
		}) {
			list = append(list, s)
		}
	}
	return append(list, p.Status.ContainerStatuses...)
}

// ids are the container ids of a pod by container name.
func ids(p *corev1.Pod) map[string]string {
	m := map[string]string{}
	for _, s := range running(p) {
		_, id, _ := strings.Cut(s.ContainerID, "://")
		m[s.Name] = id
	}
	return m
}

// row is the line of a table whose first column is name, columns joined by one
// space.
func row(table, name string) string {
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == name {
			return strings.Join(f, " ")
		}
	}
	return "no line for " + name
}

// nodeLog is the end of the node's log.
func (e *env) nodeLog() string {
	b, err := os.ReadFile(filepath.Join(e.state, "node.log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// nodePID is the pid of the node, 0 when none runs.
func (e *env) nodePID() int {
	e.t.Helper()
	var v struct {
		NodeVersion struct {
			PID int `json:"pid"`
		} `json:"nodeVersion"`
	}
	r := e.run("version", "-o", "json")
	// One that is being killed may have taken the question with it.
	for deadline := time.Now().Add(10 * time.Second); r.code != 0 && time.Now().Before(deadline); r = e.run("version", "-o", "json") {
		time.Sleep(20 * time.Millisecond)
	}
	if err := json.Unmarshal([]byte(r.out), &v); err != nil || r.code != 0 {
		e.t.Fatalf("%v: %v", err, r)
	}
	return v.NodeVersion.PID
}

// write makes a file in the user's home, and returns its name.
func (e *env) write(name, text string) string {
	e.t.Helper()
	if err := os.WriteFile(filepath.Join(e.home, name), []byte(text), 0o600); err != nil {
		e.t.Fatal(err)
	}
	return name
}

// podYAML is the manifest of a pod; each container is NAME=SHELL COMMAND.
// spec is added to the pod's spec as it is, "" for nothing.
func podYAML(name, spec string, containers ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  labels: {app: myapp}\nspec:\n", name)
	for line := range strings.Lines(spec) {
		fmt.Fprintf(&b, "  %s\n", strings.TrimRight(line, "\n"))
	}
	b.WriteString("  containers:\n")
	for _, c := range containers {
		name, script, _ := strings.Cut(c, "=")
		quoted, _ := json.Marshal(script)
		fmt.Fprintf(&b, "  - {name: %s, image: busybox, command: [sh, -c, %s]}\n", name, quoted)
	}
	return b.String()
}

// mustContain fails unless text has all of want in it.
func mustContain(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("got %q\nwant %q in it", text, w)
		}
	}
}
