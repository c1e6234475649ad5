package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// example reads a manifest that the README speaks of.
func example(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// mustMatch fails unless text, with runs of spaces as they are, matches all of
// pattern.
func mustMatch(t *testing.T, text, pattern string) {
	t.Helper()
	if !regexp.MustCompile(`^(?:` + pattern + `)$`).MatchString(text) {
		t.Errorf("got\n%s\nwant a match of\n%s", text, pattern)
	}
}

// TestSession is the session of the README, word for word.
func TestSession(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, name := range []string{"pod.yml", "pod-double.yml"} {
		e.write(name, example(t, name))
	}

	same(t, e.ok("apply", "-f", "pod.yml"), "pod/pod created\n")
	same(t, e.ok("apply", "-f", "pod-double.yml"), "pod/pod-double created\n")
	same(t, e.ok("apply", "-f", "pod.yml"), "pod/pod unchanged\n")
	e.ready("pod")
	e.ready("pod-double")

	mustMatch(t, e.ok("get", "pods"), `NAME         READY   STATUS    RESTARTS   AGE
pod          1/1     Running   0          \d+s
pod-double   2/2     Running   0          \d+s
`)

	ps := e.ok("ps")
	mustMatch(t, strings.SplitN(ps, "\n", 2)[0], `CONTAINER ID +IMAGE +COMMAND +CREATED +STATUS +POD +NAME`)
	var stopped string
	names := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(ps), "\n")[1:] {
		m := regexp.MustCompile(`^([0-9a-f]{12}) +busybox +"sh -c 'echo Hello K…" +(?:Less than a second|\d+ seconds?) ago +Up (?:Less than a second|\d+ seconds?) +(\S+) +(\S+)$`).FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("got line %q of\n%s", line, ps)
		}
		names[m[2]+"/"+m[3]] = true
		if m[3] == "container-1" {
			stopped = m[1]
		}
	}
	if len(names) != 3 || !names["pod/myapp-container"] || !names["pod-double/container-1"] || !names["pod-double/container-2"] {
		t.Fatalf("got %v in\n%s", names, ps)
	}

	before := e.pod("pod-double")
	beforeWide := e.ok("get", "pods", "-o", "wide")
	e.ok("exec", "pod-double", "-c", "container-2", "--", "touch", "/mark")
	same(t, e.ok("stop", "-t", "1", stopped), stopped+"\n")

	after := e.restarted("pod-double", 1)
	mustMatch(t, e.ok("get", "pods"), `NAME         READY   STATUS    RESTARTS +AGE
pod          1/1     Running   0 +\d+s
pod-double   2/2     Running   1 \(\d+s ago\)   \d+s
`)
	for name, old := range ids(before) {
		switch id := ids(after)[name]; {
		case !hexID.MatchString(id):
			t.Errorf("%s has no id: %q", name, id)
		case id == old:
			t.Errorf("%s is still %s", name, old)
		}
		e.eventually("log of "+name, func() string {
			if log := e.ok("logs", "pod-double", "-c", name); log != "Hello Kubernetes!\n" {
				return "only " + log
			}
			return ""
		})
		same(t, e.ok("logs", "pod-double", "-c", name, "--previous"), "Hello Kubernetes!\n")
	}
	if r := e.run("exec", "pod-double", "-c", "container-2", "--", "ls", "/mark"); r.code == 0 {
		t.Errorf("the root filesystem is not fresh: %v", r)
	}
	if after.Status.PodIP != before.Status.PodIP || after.Status.PodIP == "" {
		t.Errorf("got IP %q, was %q", after.Status.PodIP, before.Status.PodIP)
	}

	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{beforeWide, e.ok("get", "pods", "-o", "wide")} {
		mustMatch(t, table, `NAME +READY +STATUS +RESTARTS +AGE +IP +NODE +NOMINATED NODE +READINESS GATES
pod +1/1 +Running +0 +\d+s +\d+\.\d+\.\d+\.\d+ +`+host+` +<none> +<none>
pod-double +2/2 +Running +(0|1 \(\d+s ago\)) +\d+s +\d+\.\d+\.\d+\.\d+ +`+host+` +<none> +<none>
`)
	}
	if a, b := e.pod("pod").Status.PodIP, after.Status.PodIP; a == b {
		t.Errorf("both pods have IP %s", a)
	}

	same(t, e.ok("delete", "-f", "pod.yml", "--grace-period=1"), "pod \"pod\" deleted\n")
	same(t, e.ok("delete", "pod", "pod-double", "--now"), "pod \"pod-double\" deleted\n")
	r := e.run("get", "pods")
	if r.code != 0 || r.out != "" || r.err != "No resources found in default namespace.\n" {
		t.Errorf("got %v", r)
	}
}

// same fails unless got is want.
func same(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
