package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/integration/registry"
)

// TestBadManifests: one line for each complaint, with file, line, column and
// field, exit 1, and nothing is made.
func TestBadManifests(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const head = "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec:\n  containers:\n"
	for _, tt := range []struct {
		name, manifest string
		want           []string // in the line
	}{
		{"unknown field", head + "  - name: c\n    imagee: busybox\n", []string{"pod.yml:7:5: spec.containers[0].imagee: unknown field", `did you mean "image"?`}},
		{"unknown kind", "apiVersion: v1\nkind: Podd\nmetadata: {name: bad}\n", []string{"pod.yml:2:7: ", "Podd"}},
		{"unsupported kind", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: bad}\n", []string{"pod.yml:2:7: ", "Deployment"}},
		{"wrong type", head + "  - {name: c, image: busybox, ports: [{containerPort: \"80\"}]}\n", []string{"pod.yml:6:", "spec.containers[0].ports[0].containerPort: ", "integer"}},
		{"bad name", strings.Replace(head, "bad", "Bad_Name", 1) + "  - {name: c, image: busybox}\n", []string{"pod.yml:3:12: metadata.name: ", "Bad_Name"}},
		{"duplicate container", head + "  - {name: c, image: busybox}\n  - {name: c, image: busybox}\n", []string{"pod.yml:7:6: spec.containers[1].name: ", "c"}},
		{"missing image", head + "  - {name: c}\n", []string{"pod.yml:6:5: spec.containers[0].image: "}},
		{"bad quantity", head + "  - {name: c, image: busybox, resources: {limits: {memory: 10 apples}}}\n", []string{"pod.yml:6:", "spec.containers[0].resources.limits", "10 apples"}},
		{"no containers", "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {}\n", []string{"pod.yml:4:", "spec.containers: "}},
		{"not YAML", head + "  - {name: c, image: [busybox}\n", []string{"pod.yml:", "',' or ']'"}},
		{"duplicate key", head + "  - {name: c, image: busybox}\n  containers: []\n", []string{"pod.yml:7:3: ", "containers"}},
		{"wrong apiVersion", strings.Replace(head, "v1", "v2", 1) + "  - {name: c, image: busybox}\n", []string{"pod.yml:1:13: ", "v2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e.write("pod.yml", tt.manifest)
			text := e.fails(1, "apply", "-f", "pod.yml")
			mustContain(t, text, tt.want...)
			if n := strings.Count(text, "\n"); n != 1 {
				t.Errorf("got %d lines, want 1:\n%s", n, text)
			}
			if r := e.run("get", "pods"); r.out != "" {
				t.Errorf("something was made: %v", r)
			}
		})
	}
	t.Run("all complaints at once", func(t *testing.T) {
		e.write("pod.yml", head+"  - name: c\n    imagee: busybox\n    commandd: [sh]\n")
		text := e.fails(1, "apply", "-f", "pod.yml")
		mustContain(t, text, "pod.yml:7:5: ", "pod.yml:8:5: ")
	})
	t.Run("one bad of two makes none", func(t *testing.T) {
		e.write("pod.yml", podYAML("good", "", "c=exec sleep 3600")+"---\n"+head+"  - {name: c}\n")
		e.fails(1, "apply", "-f", "pod.yml")
		if e.exists("good") {
			t.Error("the good one was made")
		}
	})
	t.Run("no such file", func(t *testing.T) {
		same(t, e.fails(1, "apply", "-f", "nowhere.yml"), "error: the path \"nowhere.yml\" does not exist\n")
	})
}

// TestForbiddenChange: what a pod cannot take is refused with field and reason,
// and nothing is changed.
func TestForbiddenChange(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	manifest := podYAML("a", "", "c=exec sleep 3600")
	e.start(manifest, "a")
	before := e.pod("a")
	e.write("pod.yml", strings.Replace(strings.Replace(manifest, "sleep 3600", "sleep 7200", 1), "app: myapp", "app: other", 1))
	text := e.fails(1, "apply", "-f", "pod.yml")
	mustContain(t, text, "spec", "pod updates may not change fields other than")
	after := e.pod("a")
	if after.ResourceVersion != before.ResourceVersion || after.Labels["app"] != "myapp" {
		t.Errorf("the pod was changed: %v, was %v", after.Labels, before.Labels)
	}
}

// TestApplyAgain: unchanged, configured by a label, configured by an image.
func TestApplyAgain(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	manifest := podYAML("a", "", "c=exec sleep 3600", "d=exec sleep 3600")
	same(t, e.apply(manifest), "pod/a created\n")
	same(t, e.apply(manifest), "pod/a unchanged\n")
	before := e.ready("a")
	manifest = strings.Replace(manifest, "app: myapp", "app: other", 1)
	same(t, e.apply(manifest), "pod/a configured\n")
	same(t, e.apply(manifest), "pod/a unchanged\n")
	if after := e.pod("a"); after.Labels["app"] != "other" || ids(after)["c"] != ids(before)["c"] {
		t.Errorf("got labels %v and ids %v, had %v", after.Labels, ids(after), ids(before))
	}

	// A manifest that names another node: there is one, and describe says so.
	manifest = podYAML("b", "nodeName: foo-node", "c=exec sleep 3600")
	same(t, e.apply(manifest), "pod/b created\n")
	same(t, e.apply(manifest), "pod/b unchanged\n")
	e.ready("b")
	mustMatch(t, e.ok("describe", "pod", "b"), `(?s).*No Effect:\n +spec.nodeName: +there is one node\n.*`)
	if out := e.ok("describe", "pod", "a"); strings.Contains(out, "No Effect") {
		t.Errorf("a pod that names no node: %s", out)
	}
	e.write("b.yml", manifest)
	same(t, e.ok("replace", "-f", "b.yml"), "pod/b replaced\n")
	if got, want := e.pod("b").Spec.NodeName, before.Spec.NodeName; got != want {
		t.Errorf("got node %q, want %q", got, want)
	}
}

// waitsFor checks how a pod that cannot start is shown, and that describe and
// delete work on it.
func (e *env) waitsFor(name string, statuses []string, describe ...string) {
	e.t.Helper()
	e.when(name, strings.Join(statuses, " or "), func(p *corev1.Pod) bool {
		line := row(e.ok("get", "pods"), name)
		for _, s := range statuses {
			if strings.HasPrefix(line, name+" 0/1 "+s+" 0 ") {
				return true
			}
		}
		return false
	})
	mustContain(e.t, e.ok("describe", "pod", name), describe...)
	same(e.t, e.ok("delete", "pod", name, "--now"), "pod \""+name+"\" deleted\n")
}

// cannotPull pulls, which must fail with one line, and returns it.
func (e *env) cannotPull(name string) string {
	e.t.Helper()
	r := e.run("pull", name)
	if r.code != 1 || !strings.HasPrefix(r.err, "podrun: cannot pull \""+name+"\": ") || strings.Count(r.err, "\n") != 1 {
		e.t.Fatalf("want exit 1 and a line: %v", r)
	}
	return r.err
}

var imageErrors = []string{"ErrImagePull", "ImagePullBackOff"}

func TestNoSuchImage(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(strings.Replace(podYAML("a", "", "c=true"), "image: busybox", "image: nosuch", 1))
	e.waitsFor("a", imageErrors, "nosuch", "no such image")
	mustContain(t, e.cannotPull("nosuch"), "no such image", images.Address)
	mustContain(t, e.cannotPull("busybox:nosuch"), "no such image")
	e.apply(strings.Replace(podYAML("a", "", "c=true"), "image: busybox", "image: \"busybox:::\"", 1))
	e.waitsFor("a", []string{"InvalidImageName", "ErrImagePull", "ImagePullBackOff"}, "busybox:::")
}

func TestRegistryDown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	own, err := registry.Start(dir, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer own.Stop()
	if err := pushImages(own); err != nil {
		t.Fatal(err)
	}
	e := newEnv(t, "PODRUN_REGISTRIES_CONF="+own.Conf)
	e.start(waiting("group", ""), "group")
	own.Stop()
	// A restart asks, and goes on where nobody answers.
	e.end("group", "one", 1)
	e.restarted("group", 1)
	mustContain(t, e.ok("describe", "pod", "group"), "ImageNotChecked", "the container keeps the one it had", "refused")
	// A new pod with imagePullPolicy Always, the default for :latest, does.
	e.apply(podYAML("new", "", "c=exec sleep 3600"))
	e.waitsFor("new", imageErrors, own.Address, "refused")
	mustContain(t, e.cannotPull("busybox"), own.Address, "refused")
	// With IfNotPresent the image that is there is enough.
	e.start(strings.Replace(podYAML("cached", "", "c=exec sleep 3600"), "image: busybox", "image: busybox, imagePullPolicy: IfNotPresent", 1), "cached")
	// It comes back: so does the pod that waits for it.
	e.apply(podYAML("patient", "", "c=exec sleep 3600"))
	again, err := registry.Start(dir, registry.Options{Address: own.Address})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Stop()
	if err := pushImages(again); err != nil {
		t.Fatal(err)
	}
	e.ready("patient")
}

func TestUnauthorized(t *testing.T) {
	t.Parallel()
	own, err := registry.Start(t.TempDir(), registry.Options{User: "ann", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer own.Stop()
	if err := pushImages(own); err != nil {
		t.Fatal(err)
	}
	e := newEnv(t)
	name := own.Address + "/library/busybox"
	mustContain(t, e.cannotPull(name), "401", own.Address, "podrun login "+own.Address)
	e.apply(strings.Replace(podYAML("a", "", "c=true"), "image: busybox", "image: \""+name+"\"", 1))
	e.waitsFor("a", imageErrors, "401")

	// As docker login leaves them.
	e.dockerLogin(own.Address, "ann:wrong")
	mustContain(t, e.cannotPull(name), "401")
	e.dockerLogin(own.Address, "ann:secret")
	e.ok("pull", name)
}

// TestCannotRun: what Kubernetes calls RunContainerError, CreateContainerError
// and CrashLoopBackOff.
func TestCannotRun(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	pod := func(name, container string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec:\n  containers:\n  - {name: c, image: busybox, " + container + "}\n"
	}
	for _, tt := range []struct {
		name, container string
		statuses        []string
		describe        []string
	}{
		{"no-program", "command: [/no/such/program]", []string{"RunContainerError", "CrashLoopBackOff", "CreateContainerError"}, []string{"/no/such/program", "no such file or directory"}},
		{"not-executable", "command: [/etc/passwd]", []string{"RunContainerError", "CrashLoopBackOff", "CreateContainerError"}, []string{"/etc/passwd", "permission denied"}},
		{"no-user", "command: [sleep, \"3600\"], securityContext: {runAsNonRoot: true}", []string{"CreateContainerConfigError", "CreateContainerError"}, []string{"runAsNonRoot"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sub := *e
			sub.t = t
			sub.apply(pod(tt.name, tt.container))
			name := tt.name
			sub.when(name, "shown", func(p *corev1.Pod) bool {
				line := row(sub.ok("get", "pods"), name)
				for _, s := range tt.statuses {
					if strings.Contains(line, " "+s+" ") {
						return true
					}
				}
				return false
			})
			mustContain(t, sub.ok("describe", "pod", name), tt.describe...)
			sub.ok("delete", "pod", name, "--now")
		})
	}
}

// TestWrongUse: exit codes and words of kubectl for its verbs, of docker for its.
func TestWrongUse(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"get", "pod", "nosuch"}, 1, `Error from server (NotFound): pods "nosuch" not found` + "\n"},
		{[]string{"delete", "pod", "nosuch"}, 1, `Error from server (NotFound): pods "nosuch" not found` + "\n"},
		{[]string{"logs", "nosuch"}, 1, `nosuch`},
		{[]string{"exec", "nosuch", "--", "true"}, 1, `nosuch`},
		{[]string{"describe", "pod", "nosuch"}, 1, `nosuch`},
		{[]string{"stop", "nosuch"}, 1, `nosuch`},
		{[]string{"rmi", "nosuch"}, 1, `nosuch`},
		{[]string{"get", "nothings"}, 1, `nothings`},
		{[]string{"get", "pods", "-o", "nosuch"}, 1, `nosuch`},
		{[]string{"nosuch"}, 1, `nosuch`},
		{[]string{"apply"}, 1, `-f`},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			r := e.run(tt.args...)
			if r.code != tt.code && !(tt.code == 1 && r.code == 2) || r.out != "" {
				t.Errorf("want exit %d and no output: %v", tt.code, r)
			}
			mustContain(t, r.err, tt.want)
			if strings.Count(r.err, "\n") > 2 {
				t.Errorf("more than a line: %v", r)
			}
		})
	}
	mustContain(t, e.fails(1, "stop", "nosuch"), "podrun: cannot stop")
	same(t, e.ok("delete", "pod", "nosuch", "--ignore-not-found"), "")
	same(t, e.fails(2, "network", "nosuch"), "podrun: unknown command \"nosuch\"\nSee 'podrun network --help' for usage.\n")
	mustContain(t, e.fails(1, "top", "nosuch"), "error: unknown command \"nosuch\"\n")
	// Of names, an empty list is no news beside what failed.
	same(t, e.fails(1, "get", "pods", "nosuch", "neither"), "Error from server (NotFound): pods \"nosuch\" not found\n"+
		"Error from server (NotFound): pods \"neither\" not found\n")
	if r := e.run("get", "pods", "nosuch", "neither", "--ignore-not-found"); r.code != 0 || r.out != "" || r.err != "" {
		t.Errorf("%v", r)
	}
}

// TestSingleID: without newuidmap one id is enough, and doctor says what is missing.
func TestSingleID(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		return // root needs neither
	}
	e := newEnv(t)
	// A PATH without newuidmap: one id is all there is, and it is enough.
	bin := filepath.Join(e.dir, "home", "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	e.vars["PATH"] = bin
	e.start(podYAML("single", "", "c=id -u; exec sleep 3600"), "single")
	same(t, e.ok("logs", "single"), "0\n")
	same(t, e.ok("exec", "single", "--", "id", "-u"), "0\n")
	mustContain(t, e.run("doctor").out, "newuidmap")
}

// TestPullByDigest pulls by digest, and a pod names its image so.
func TestPullByDigest(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	image, err := registry.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := images.Push(context.Background(), "library/tools:v1", image); err != nil {
		t.Fatal(err)
	}
	e.ok("pull", "tools@"+digest.String())
	e.start(strings.Replace(podYAML("a", "", "c=exec sleep 3600"), "image: busybox", "image: tools@"+digest.String(), 1), "a")
	mustContain(t, e.ok("images"), "REPOSITORY", "IMAGE ID", "tools")
}
