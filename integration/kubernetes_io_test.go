package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"get.podrun.dev/podrun/integration/registry"
	"get.podrun.dev/podrun/internal/need"
)

// publishedDir has the examples of kubernetes.io as they are published, and
// what the parser says of each.
var publishedDir = filepath.Join("..", "pod", "testdata", "kubernetes.io")

// published is one of them that holds something to run or to store.
type published struct {
	file string // without .yaml
	text string // the manifest
	// namespace is the manifest's own; "" has the test choose one.
	namespace string
	// before is what the page has the reader make first.
	before string
	// see looks for what the page shows.
	see func(e *env)
}

// TestKubernetesIO: every published example does what its page shows, or is
// refused in one line for each object that is no pod's. All run beside each
// other on one node, each in a namespace of its own.
func TestKubernetesIO(t *testing.T) {
	t.Parallel()
	need.Tun(t)
	e := newEnv(t)
	proxied(e)
	examples := append(publishedPods(), publishedSlow()...)
	known := map[string]bool{}
	for i := range examples {
		known[examples[i].file] = true
		examples[i].text = readPublished(examples[i].file)
	}
	e.runAll(t, examples)
	for _, x := range publishedRefused(t) {
		known[x] = true
		t.Run(x, func(t *testing.T) {
			sub := e.sub(t, "")
			r := sub.run("apply", "-f", filepath.Join(sourceDir(t), publishedDir, x+".yaml"))
			want, err := os.ReadFile(filepath.Join(publishedDir, x+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for line := range strings.Lines(r.err) {
				_, line, _ = strings.Cut(line, x+".yaml:")
				got = append(got, x+".yaml:"+line)
			}
			same(t, strings.Join(got, ""), string(want))
			if r.code != 1 || r.out != "" {
				t.Error(r)
			}
		})
	}
	files, err := filepath.Glob(filepath.Join(publishedDir, "*.yaml"))
	if err != nil || len(files) < 54 {
		t.Fatalf("found %d manifests: %v", len(files), err)
	}
	for _, file := range files {
		if name := strings.TrimSuffix(filepath.Base(file), ".yaml"); !known[name] {
			t.Errorf("%s is not tested", name)
		}
	}
}

// runAll applies all examples, each in a namespace of its own, then looks at one
// after the other.
func (e *env) runAll(t *testing.T, examples []published) {
	t.Helper()
	e.openUp() // for the one with users of its own
	applied := map[string]result{}
	for i := range examples {
		x := &examples[i]
		sub := e.sub(t, x.namespace)
		if x.namespace == "" {
			x.namespace = strings.ReplaceAll(x.file, "__", "-")
			sub.ns = x.namespace
		}
		namespace := "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + x.namespace + "}\n"
		sub.stdin = strings.Join([]string{namespace, x.before, x.text}, "\n---\n")
		applied[x.file] = sub.run("apply", "-f", "-")
	}
	for _, x := range examples {
		t.Run(x.file, func(t *testing.T) {
			r := applied[x.file]
			if r.code != 0 || !strings.Contains(r.out, " created\n") {
				t.Fatal(r)
			}
			sub := e.sub(t, x.namespace)
			x.see(sub)
			if x.namespace != "default" {
				sub.run("delete", "pods", "--all", "--force")
			}
		})
	}
}

// publishedRefused are the manifests that have something else than podrun takes.
func publishedRefused(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(publishedDir, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var refused []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), ": not supported by this version of podrun; podrun takes Pod") {
			refused = append(refused, strings.TrimSuffix(filepath.Base(file), ".txt"))
		}
	}
	return refused
}

// sourceDir is where the test runs: commands run in the user's home.
func sourceDir(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// proxied gives e a busybox that looks for the web at a server of this test:
// one manifest fetches http://info.cern.ch.
func proxied(e *env) {
	e.t.Helper()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "<title>%s</title>\n", r.URL)
	}))
	e.t.Cleanup(web.Close)
	_, port, _ := net.SplitHostPort(web.Listener.Addr().String())
	busybox, err := registry.Part(v1.Config{Cmd: []string{"sh"}, Env: []string{"http_proxy=http://host.podrun.internal:" + port}})
	if err != nil {
		e.t.Fatal(err)
	}
	for _, tag := range []string{"latest", "1.28"} {
		if err := images.Push(context.Background(), "proxied/busybox:"+tag, busybox); err != nil {
			e.t.Fatal(err)
		}
	}
	conf, err := os.ReadFile(images.Conf)
	if err != nil {
		e.t.Fatal(err)
	}
	e.write("registries.conf", string(conf)+fmt.Sprintf(
		"\n[[registry]]\nprefix = \"docker.io/library/busybox\"\nlocation = \"%s/proxied/busybox\"\ninsecure = true\n", images.Address))
	e.vars["PODRUN_REGISTRIES_CONF"] = filepath.Join(e.home, "registries.conf")
}

// output runs a script in a container, which must succeed, and returns what it
// prints.
func (e *env) output(pod, container, script string) string {
	e.t.Helper()
	return e.ok("exec", pod, "-c", container, "--", "sh", "-c", script)
}

// logged waits until a container's log has all of want in it.
func (e *env) logged(pod, container string, want ...string) string {
	e.t.Helper()
	var log string
	e.eventually("log of "+pod+" "+container, func() string {
		r := e.run("logs", pod, "-c", container)
		log = r.out
		for _, w := range want {
			if !strings.Contains(log, w) {
				return fmt.Sprintf("without %q: %s%s", w, log, r.err)
			}
		}
		return ""
	})
	return log
}

// within is how long a command may take at most.
func within(t *testing.T, d time.Duration, r result) {
	t.Helper()
	if r.code != 0 || r.took > d {
		t.Errorf("want success in %v: %v", d, r)
	}
}
