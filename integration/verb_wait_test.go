package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWait(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	// Waits that began before the pod was there, and one that a new node ends.
	create := e.begin(t, "wait", "--for=create", "pod/web", "--timeout=2m")
	e.apply(podYAML("web", "terminationGracePeriodSeconds: 1", "c=exec sleep 3600"))
	if code := create.end(); code != 0 || create.output() != "pod/web condition met\n" {
		t.Errorf("got exit code %d, %q, %q", code, create.output(), create.errors())
	}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"condition", []string{"--for=condition=Ready", "pod/web"}, "pod/web condition met\n"},
		{"condition and value", []string{"--for=condition=ready=True", "pod", "web"}, "pod/web condition met\n"},
		{"jsonpath and value", []string{"--for=jsonpath={.status.phase}=Running", "pods", "-l", "app=myapp"}, "pod/web condition met\n"},
		{"jsonpath with a filter", []string{`--for=jsonpath={.status.conditions[?(@.type=="Ready")].status}='True'`, "pod/web"}, "pod/web condition met\n"},
		{"jsonpath alone", []string{"--for=jsonpath=.status.podIP", "pods", "--all"}, "pod/web condition met\n"},
		{"create when it is there", []string{"--for=create", "pod/web", "--timeout=0"}, "pod/web condition met\n"},
		{"delete when it is not there", []string{"--for=delete", "pod/nosuch"}, ""},
		{"delete when none matches", []string{"--for=delete", "pods", "-l", "app=nosuch"}, ""},
		{"name", []string{"--for=condition=Ready", "pod/web", "-o", "name"}, "pod/web\n"},
		{"another kind", []string{"--for=jsonpath={.status.phase}=Active", "namespace/default"}, "namespace/default condition met\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			same(t, e.ok(append([]string{"wait"}, tt.args...)...), tt.want)
		})
	}
	t.Run("files", func(t *testing.T) {
		e.write("pod.yml", podYAML("web", "", "c=exec sleep 3600"))
		same(t, e.ok("wait", "--for=condition=Ready", "-f", "pod.yml"), "pod/web condition met\n")
	})
	t.Run("across the death of the node", func(t *testing.T) {
		wait := e.begin(t, "wait", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "pod/web", "--timeout=2m")
		gone := e.begin(t, "wait", "--for=delete", "pod/web", "--timeout=2m")
		e.killNode()
		e.ok("stop", "-t", "0", "web/c")
		if code := wait.end(); code != 0 || wait.output() != "pod/web condition met\n" {
			t.Errorf("got exit code %d, %q, %q", code, wait.output(), wait.errors())
		}
		e.ok("delete", "pod", "web", "--now")
		if code := gone.end(); code != 0 || gone.output() != "pod/web condition met\n" {
			t.Errorf("got exit code %d, %q, %q", code, gone.output(), gone.errors())
		}
	})
	t.Run("interrupt", func(t *testing.T) {
		s := e.begin(t, "wait", "--for=create", "pod/never", "--timeout=-1s")
		e.eventually("the question to the node", func() string {
			files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.command.Process.Pid))
			for _, f := range files {
				if to, _ := os.Readlink(f); strings.HasPrefix(to, "socket:") {
					return ""
				}
			}
			return "not asked"
		})
		_ = s.command.Process.Signal(unix.SIGINT)
		if code := s.end(); code != 130 {
			t.Errorf("got exit code %d, %q", code, s.errors())
		}
	})
}

func TestWaitRefusals(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(podYAML("web", "", "c=exec sleep 3600"), "web")
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no --for", []string{"pod/web"}, "error: unrecognized condition: \"\"\n"},
		{"no such --for", []string{"--for=Ready", "pod/web"}, "error: unrecognized condition: \"Ready\"\n"},
		{"nothing", []string{"--for=delete"}, "error: You must provide one or more resources by argument or filename.\n"},
		{"no name", []string{"--for=delete", "pods"}, "error: resource(s) were provided, but no name was specified\n"},
		{"no such type", []string{"--for=delete", "deployment/web"}, "error: the server doesn't have a resource type \"deployment\"\n"},
		{"no such pod", []string{"--for=condition=Ready", "pod/nosuch"}, "Error from server (NotFound): pods \"nosuch\" not found\n"},
		{"none", []string{"--for=condition=Ready", "pods", "-l", "app=nosuch"}, "error: no matching resources found\n"},
		{"timeout", []string{"--for=condition=Ready=false", "pod/web", "--timeout=100ms"}, "error: timed out waiting for the condition on pods/web\n"},
		{"one look", []string{"--for=condition=Nosuch", "pod/web", "--timeout=0"}, "error: timed out waiting for the condition on pods/web\n"},
		{"not deleted", []string{"--for=delete", "pod/web", "--timeout=100ms"}, "error: timed out waiting for the condition on pods/web\n"},
		{"not created", []string{"--for=create", "pod/nosuch", "--timeout=100ms"}, "error: timed out waiting for the condition on pods/nosuch\n"},
		{"no path", []string{"--for=jsonpath=", "pod/web"}, "error: jsonpath wait format must be --for=jsonpath='{.status.readyReplicas}'=3 or --for=jsonpath='{.status.readyReplicas}'\n"},
		{"no value", []string{"--for=jsonpath={.status.phase}=", "pod/web"}, "error: jsonpath wait has to have a value after equal sign, like --for=jsonpath='{.status.readyReplicas}'=3\n"},
		{"an object", []string{"--for=jsonpath={.status}=x", "pod/web"}, "error: jsonpath leads to a nested object or list which is not supported\n"},
		{"many", []string{"--for=jsonpath={.status.conditions[*].type}=x", "pod/web"}, "error: given jsonpath expression matches more than one value\n"},
		{"all and labels", []string{"--for=delete", "pods", "--all", "-l", "a=b"}, "error: setting 'all' parameter but found a non empty selector. \n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := e.fails(1, append([]string{"wait"}, tt.args...)...); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	// One after the other, one deadline for all.
	r := e.run("wait", "--for=condition=Ready", "pod/web", "pod/nosuch", "pod/web")
	if r.code != 1 || r.out != "pod/web condition met\npod/web condition met\n" || r.err != "Error from server (NotFound): pods \"nosuch\" not found\n" {
		t.Errorf("got %v", r)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := e.run("events")
	if r.code != 0 || r.out != "" || r.err != "No events found in default namespace.\n" {
		t.Errorf("got %v", r)
	}
	r = e.run("events", "-A")
	if r.code != 0 || r.out != "" || r.err != "No events found.\n" {
		t.Errorf("got %v", r)
	}
	watch := e.begin(t, "events", "--for", "pod/web", "--watch")
	e.start(podYAML("web", "", "c=exec sleep 3600")+"---\n"+podYAML("other", "", "c=exec sleep 3600"), "web", "other")
	watch.expect(`(?s)^LAST SEEN +TYPE +REASON +OBJECT +MESSAGE\n.*Normal +Started +Pod/web `)

	e.killNode()
	before := strings.Count(watch.output(), "\n")
	e.ok("stop", "-t", "0", "web/c")
	e.restarted("web", 1)
	watch.expect(`Normal +GroupRestart +Pod/web `)
	if strings.Contains(watch.output(), "Pod/other") {
		t.Errorf("got events of others: %s", watch.output())
	}
	if text := watch.output(); strings.Count(strings.Join(strings.SplitAfter(text, "\n")[before:], ""), " Pulling ") > 1 {
		t.Errorf("events were seen again after the death of the node:\n%s", text)
	}
	_ = watch.command.Process.Signal(unix.SIGINT)
	if code := watch.end(); code != 0 {
		t.Errorf("got exit code %d", code)
	}

	table := e.ok("events", "--for=pods/web")
	mustMatch(t, strings.SplitN(table, "\n", 2)[0], `LAST SEEN +TYPE +REASON +OBJECT +MESSAGE`)
	mustMatch(t, table, `(?s).*\d+s \(x2 over \d+s\) +Normal +Started +Pod/web +.*`)
	if strings.Contains(table, "Pod/other") {
		t.Errorf("got\n%s", table)
	}
	if all := e.ok("events", "-A", "--no-headers"); strings.Contains(all, "LAST SEEN") || !strings.Contains(all, "Pod/other") || !strings.HasPrefix(all, "default ") {
		t.Errorf("got\n%s", all)
	}
	mustContain(t, e.ok("events", "-o", "name", "--for=pod/web"), "event/web.")
	mustContain(t, e.ok("events", "-o", "jsonpath={.items[*].reason}", "--for=pod/web"), "Pulling", "GroupRestart")
	r = e.run("events", "--types=Warning")
	if r.code != 0 || strings.Contains(r.out, "Normal") {
		t.Errorf("got %v", r)
	}
	same(t, e.fails(1, "events", "--types=Bad"), "error: valid --types are Normal or Warning\n")
	same(t, e.fails(1, "events", "--for=web"), "error: --for must be in resource/name form\n")
	same(t, e.fails(1, "events", "--for=deployment/web"), "error: the server doesn't have a resource type \"deployment\"\n")
}
