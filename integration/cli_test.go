package integration

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// dockerLogin leaves credentials, user:password, as docker login does.
func (e *env) dockerLogin(registry, credentials string) {
	e.t.Helper()
	dir := filepath.Join(e.home, ".docker")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		e.t.Fatal(err)
	}
	text := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, registry, base64.StdEncoding.EncodeToString([]byte(credentials)))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
		e.t.Fatal(err)
	}
}

func TestExec(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(podYAML("two", "", "one=exec sleep 3600", "other=exec sleep 3600"), "two")
	for _, tt := range []struct {
		name     string
		args     []string
		stdin    string
		code     int
		out, err string // err: in it
	}{
		{"exit 0", []string{"two", "-c", "one", "--", "true"}, "", 0, "", ""},
		{"exit 3", []string{"two", "-c", "one", "--", "sh", "-c", "exit 3"}, "", 3, "", "command terminated with exit code 3"},
		{"not executable", []string{"two", "-c", "one", "--", "/etc/passwd"}, "", 126, "", "permission denied"},
		{"not found", []string{"two", "-c", "one", "--", "nosuch"}, "", 127, "", "nosuch"},
		{"killed", []string{"two", "-c", "one", "--", "sh", "-c", "kill -9 $$"}, "", 137, "", "137"},
		{"both outputs", []string{"two", "-c", "one", "--", "sh", "-c", "echo out; echo err >&2"}, "", 0, "out\n", "err\n"},
		{"input", []string{"-i", "two", "-c", "other", "--", "tr", "a-z", "A-Z"}, "hello", 0, "HELLO", ""},
		{"no input without -i", []string{"two", "-c", "other", "--", "cat"}, "hello", 0, "", ""},
		{"first container", []string{"two", "--", "hostname"}, "", 0, "two\n", ""},
		{"no such container", []string{"two", "-c", "nosuch", "--", "true"}, "", 1, "", "nosuch"},
		{"pod/ prefix", []string{"pod/two", "-c", "one", "--", "echo", "a b", "c"}, "", 0, "a b c\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e.stdin = tt.stdin
			r := e.run(append([]string{"exec"}, tt.args...)...)
			if r.code != tt.code || r.out != tt.out || !strings.Contains(r.err, tt.err) {
				t.Errorf("want exit %d, %q and %q: %v", tt.code, tt.out, tt.err, r)
			}
		})
	}

	t.Run("much output", func(t *testing.T) {
		r := e.run("exec", "two", "-c", "one", "--", "sh", "-c", "yes 0123456789 | head -n 100000")
		if want := strings.Repeat("0123456789\n", 100000); r.out != want {
			t.Errorf("got %d bytes, want %d", len(r.out), len(want))
		}
	})
	t.Run("ends with its client", func(t *testing.T) {
		command := e.command("exec", "two", "-c", "one", "--", "sleep", "1234")
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		e.eventually("exec'ed sleep", func() string {
			if !strings.Contains(e.ok("exec", "two", "-c", "one", "--", "ps"), "sleep 1234") {
				return "not there"
			}
			return ""
		})
		_ = command.Process.Kill()
		_ = command.Wait()
		e.eventually("end of exec'ed sleep", func() string {
			if strings.Contains(e.ok("exec", "two", "-c", "one", "--", "ps"), "sleep 1234") {
				return "there"
			}
			return ""
		})
	})
}

func TestOutputs(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(podYAML("b", "", "c=exec sleep 3600")+"---\n"+strings.Replace(podYAML("a", "", "c=exec sleep 3600", "d=exec sleep 3600"), "myapp", "other", 1), "a", "b")

	var list corev1.PodList
	for _, format := range []string{"json", "yaml"} {
		out := e.ok("get", "pods", "-o", format)
		if err := yaml.UnmarshalStrict([]byte(out), &list); err != nil || len(list.Items) != 2 || list.Kind != "List" && list.Kind != "PodList" {
			t.Errorf("-o %s: %v: %d pods, kind %q", format, err, len(list.Items), list.Kind)
		}
		var one corev1.Pod
		out = e.ok("get", "pod", "a", "-o", format)
		if err := yaml.UnmarshalStrict([]byte(out), &one); err != nil || one.Name != "a" || one.Kind != "Pod" || one.APIVersion != "v1" {
			t.Errorf("-o %s: %v: %s", format, err, out)
		}
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"pods", "-o", "name"}, "pod/a\npod/b\n"},
		{[]string{"pods", "-o", "name", "--sort-by=.metadata.name"}, "pod/a\npod/b\n"},
		{[]string{"pods", "-o", "jsonpath={.items[*].metadata.name}"}, "a b"},
		{[]string{"pod", "a", "-o", `jsonpath={range .spec.containers[*]}{.name}{"\n"}{end}`}, "c\nd\n"},
		{[]string{"pods", "-o", "custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[0].image"}, "NAME   IMAGE\na      busybox\nb      busybox\n"},
		{[]string{"pods", "-l", "app=other", "-o", "name"}, "pod/a\n"},
		{[]string{"pods", "-l", "app!=other", "-o", "name"}, "pod/b\n"},
		{[]string{"pods", "-l", "app in (other, more)", "-o", "name"}, "pod/a\n"},
		{[]string{"pods", "-l", "!app", "-o", "name"}, ""},
		{[]string{"po/b", "-o", "name"}, "pod/b\n"},
		{[]string{"pods", "-n", "elsewhere", "-o", "name"}, ""},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) { same(t, e.ok(append([]string{"get"}, tt.args...)...), tt.want) })
	}
	mustMatch(t, e.ok("get", "pods", "-A"), `NAMESPACE +NAME +READY +STATUS +RESTARTS +AGE
default +a +2/2 +Running +0 +\d+s
default +b +1/1 +Running +0 +\d+s
`)
	mustMatch(t, e.ok("get", "pods", "--no-headers"), `a +2/2 +Running +0 +\d+s
b +1/1 +Running +0 +\d+s
`)
}

// TestWatch: get -w prints a line for each change.
func TestWatch(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(waiting("group", ""), "group")
	watch := e.command("get", "pods", "-w", "-o", "name")
	table := e.command("get", "pods", "-w")
	lines := map[string]chan string{}
	for name, command := range map[string]interface {
		StdoutPipe() (io.ReadCloser, error)
		Start() error
	}{"name": watch, "table": table} {
		out, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		c := make(chan string, 1000)
		lines[name] = c
		go func() {
			for s := bufio.NewScanner(out); s.Scan(); {
				c <- s.Text()
			}
			close(c)
		}()
	}
	defer func() {
		for _, command := range []interface{ Wait() error }{watch, table} {
			_ = command.Wait()
		}
	}()
	defer func() { _ = watch.Process.Kill(); _ = table.Process.Kill() }()
	expect := func(from, what string, ok func(line string) bool) {
		t.Helper()
		deadline := time.After(patience)
		for {
			select {
			case line, open := <-lines[from]:
				if !open {
					t.Fatalf("the watch ended before %s", what)
				}
				if ok(line) {
					return
				}
			case <-deadline:
				t.Fatalf("no line for %s", what)
			}
		}
	}
	fields := func(want string) func(string) bool {
		return func(line string) bool { return strings.HasPrefix(strings.Join(strings.Fields(line), " "), want) }
	}
	expect("name", "the pod", fields("pod/group"))
	expect("table", "the headers", fields("NAME READY STATUS RESTARTS AGE"))
	expect("table", "the pod", fields("group 2/2 Running 0"))
	e.end("group", "one", 1)
	expect("table", "the restart", fields("group 2/2 Running 1"))
	e.apply(podYAML("new", "", "c=exec sleep 3600"))
	expect("table", "the new pod", fields("new 1/1 Running 0"))
	expect("name", "the new pod", fields("pod/new"))
	e.ok("delete", "pod", "group", "--now")
	expect("table", "the deletion", fields("group 2/2 Terminating 1"))
}

func TestDelete(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	polite := func(name string) string {
		return podYAML(name, "", "c=trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done")
	}
	deaf := func(name string) string { return podYAML(name, "", "c=trap '' TERM; while :; do sleep 0.1; done") }
	took := func(args ...string) (string, time.Duration) {
		start := time.Now()
		return e.ok(args...), time.Since(start)
	}
	e.start(polite("polite")+"---\n"+deaf("deaf")+"---\n"+deaf("now")+"---\n"+deaf("force")+"---\n"+deaf("zero"), "polite", "deaf", "now", "force", "zero")

	out, d := took("delete", "pod", "polite")
	same(t, out, "pod \"polite\" deleted\n")
	if d > 8*time.Second {
		t.Errorf("a polite pod took %v", d)
	}
	out, d = took("delete", "pod", "deaf", "--grace-period=2")
	same(t, out, "pod \"deaf\" deleted\n")
	if d < 2*time.Second || d > 15*time.Second {
		t.Errorf("--grace-period=2 took %v", d)
	}
	out, d = took("delete", "pod/now", "--now")
	same(t, out, "pod \"now\" deleted\n")
	if d < time.Second || d > 12*time.Second {
		t.Errorf("--now took %v, want about 1 s", d)
	}
	r := e.run("delete", "pod", "force", "--force", "--grace-period=0")
	if r.code != 0 || r.out != "pod \"force\" force deleted\n" {
		t.Errorf("%v", r)
	}
	out, d = took("delete", "pod", "zero", "--grace-period=0")
	if d > 8*time.Second {
		t.Errorf("--grace-period=0 took %v: %s", d, out)
	}

	e.start(deaf("one")+"---\n"+deaf("two")+"---\n"+strings.Replace(deaf("three"), "myapp", "other", 1), "one", "two", "three")
	same(t, e.ok("delete", "pods", "-l", "app=other", "--now"), "pod \"three\" deleted\n")
	e.write("two.yml", deaf("two"))
	same(t, e.ok("delete", "-f", "two.yml", "--now"), "pod \"two\" deleted\n")
	same(t, e.ok("delete", "pods", "--all", "--now"), "pod \"one\" deleted\n")
	same(t, e.ok("get", "pods", "-o", "name"), "")

	// It may be made again at once.
	for range 3 {
		e.start(deaf("again"), "again")
		e.ok("delete", "pod", "again", "--grace-period=0", "--force")
	}
	// And deleted while it starts.
	e.apply(deaf("early"))
	e.ok("delete", "pod", "early", "--now")
}

func TestLogs(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(podYAML("a", "", "one=for i in 1 2 3; do echo line $i; done; echo err >&2; exec sleep 3600", "two=echo only; exec sleep 3600"), "a")
	e.eventually("logs", func() string {
		if strings.Count(e.ok("logs", "a", "-c", "one"), "\n") < 4 || e.ok("logs", "a", "-c", "two") == "" {
			return "too few"
		}
		return ""
	})
	same(t, e.ok("logs", "a", "-c", "two"), "only\n")
	// Both streams are there; which of them comes first is nobody's promise.
	mustContain(t, e.ok("logs", "a", "-c", "one"), "line 1\n", "line 2\n", "line 3\n", "err\n")
	if n := strings.Count(e.ok("logs", "a", "-c", "one", "--tail", "2"), "\n"); n != 2 {
		t.Errorf("--tail 2: got %d lines", n)
	}
	same(t, e.ok("logs", "a", "-c", "one", "--tail", "0"), "")
	same(t, e.ok("logs", "a", "-c", "two", "--since", "1h", "--limit-bytes", "3"), "onl")
	mustMatch(t, e.ok("logs", "a", "-c", "two", "--timestamps"), `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z only\n`)
	all := e.ok("logs", "a", "--all-containers", "--prefix")
	mustContain(t, all, "[pod/a/one] line 1\n", "[pod/a/two] only\n")
	if r := e.run("logs", "a", "-c", "one", "--previous"); r.code != 1 || !strings.Contains(r.err, "previous terminated container") {
		t.Errorf("%v", r)
	}

	// -f ends when the container does.
	e.apply(podYAML("short", "restartPolicy: Never", "c=for i in 1 2 3; do echo $i; sleep 0.2; done"))
	e.when("short", "started", func(p *corev1.Pod) bool { return ids(p)["c"] != "" })
	same(t, e.ok("logs", "-f", "short"), "1\n2\n3\n")
}

// TestManifestSources: several files, a directory, a URL, standard input; JSON,
// several documents, kind List, flow style with trailing commas.
func TestManifestSources(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	doc := func(name string) string { return podYAML(name, "", "c=exec sleep 3600") }
	inJSON := func(name string) string {
		b, err := yaml.YAMLToJSON([]byte(doc(name)))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	e.write("1.yml", doc("f1"))
	e.write("2.json", inJSON("f2"))
	same(t, e.ok("apply", "-f", "1.yml", "-f", "2.json"), "pod/f1 created\npod/f2 created\n")
	if err := os.Mkdir(filepath.Join(e.home, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	e.write("d/b.yaml", doc("d2"))
	e.write("d/a.yml", doc("d1"))
	e.write("d/README", "not a manifest")
	same(t, e.ok("apply", "-f", "d"), "pod/d1 created\npod/d2 created\n")
	same(t, e.apply(doc("s1")+"---\n"+doc("s2")), "pod/s1 created\npod/s2 created\n")
	same(t, e.apply(`{"apiVersion": "v1", "kind": "List", "items": [`+inJSON("l1")+","+inJSON("l2")+"]}"), "pod/l1 created\npod/l2 created\n")
	same(t, e.apply("{apiVersion: v1, kind: Pod, metadata: {name: flow,}, spec: {containers: [{name: c, image: busybox, command: [sleep, '3600',],},],},}"), "pod/flow created\n")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, doc("url")) }))
	defer server.Close()
	same(t, e.ok("apply", "-f", server.URL+"/pod.yml"), "pod/url created\n")
	for _, name := range []string{"f1", "f2", "d1", "d2", "s1", "s2", "l1", "l2", "flow", "url"} {
		e.ready(name)
	}
	addresses := map[string]bool{}
	for _, ip := range strings.Fields(e.ok("get", "pods", "-o", "jsonpath={.items[*].status.podIP}")) {
		addresses[ip] = true
	}
	if len(addresses) != 10 {
		t.Errorf("got %d addresses for 10 pods: %v", len(addresses), addresses)
	}
}

func TestImages(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	out := e.ok("pull", "busybox")
	mustContain(t, out, "docker.io/library/busybox:latest")
	table := e.ok("images")
	mustMatch(t, table, `REPOSITORY +TAG +IMAGE ID +CREATED +SIZE
busybox +latest +[0-9a-f]{12} +.*
`)
	e.start(podYAML("user", "", "c=exec sleep 3600"), "user")
	r := e.run("rmi", "busybox")
	if r.code != 1 || !strings.Contains(r.err, "user") {
		t.Errorf("an image in use was removed, or it is not said by whom it is used: %v", r)
	}
	e.ok("delete", "pod", "user", "--now")
	mustContain(t, e.ok("rmi", "busybox"), "Untagged: ", "Deleted: sha256:")
	if left, _ := os.ReadDir(filepath.Join(e.data, "images", "layers")); len(left) > 0 {
		t.Errorf("layers are left: %v", left)
	}
	mustMatch(t, e.ok("images"), `REPOSITORY +TAG +IMAGE ID +CREATED +SIZE\n`)
	if r := e.run("rmi", "-f", "busybox"); r.code != 0 || r.out != "" || !strings.Contains(r.err, `cannot remove image "busybox": no such image`) {
		t.Errorf("rmi -f of what is gone: %v", r)
	}
}

// TestVersion says which node runs, and starts none.
func TestVersion(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.ok("version")
	if e.nodePID() != 0 {
		t.Error("version has started a node")
	}
	var v struct{ ClientVersion struct{ Version string } }
	if err := json.Unmarshal([]byte(e.ok("version", "-o", "json")), &v); err != nil || v.ClientVersion.Version == "" {
		t.Errorf("%v: %+v", err, v)
	}
	mustContain(t, e.ok("completion", "bash"), "podrun")
	e.run("doctor")
}

// TestTwoNodesStart: of several first commands at once one starts the node, and
// all are answered by it.
func TestTwoNodesStart(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	results := make(chan error, 8)
	for range cap(results) {
		command := e.command("get", "pods")
		go func() { results <- command.Run() }()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	nodes := 0
	for p := range e.session() {
		if args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid)); string(args) == "podrun\x00node\x00" {
			nodes++
		}
	}
	if nodes != 1 {
		t.Errorf("got %d nodes", nodes)
	}
}

// TestManyPods: from one manifest, side by side, and gone again.
func TestManyPods(t *testing.T) {
	t.Parallel()
	count := loadOf(20, 300)
	if testing.Short() {
		count = 5
	}
	e := newEnv(t)
	var manifest strings.Builder
	for i := range count {
		manifest.WriteString("---\n" + podYAML(fmt.Sprintf("p%d", i), "terminationGracePeriodSeconds: 0", "c=exec sleep 3600", "d=exec sleep 3600"))
	}
	started := e.measure(fmt.Sprintf("%d pods of 2 containers until all run", count))
	e.apply(manifest.String())
	e.listed(count, " 2/2 ")
	started()
	listed := e.measure("get pods")
	if n := len(strings.Fields(e.ok("get", "pods", "-o", "name"))); n != count {
		t.Errorf("got %d pods", n)
	}
	listed()
	deleted := e.measure("delete all")
	e.ok("delete", "pods", "--all")
	deleted()
}
