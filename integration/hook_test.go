package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// hooked is the manifest of a pod "probed" whose containers have the user's
// directory "seen", which is made, at /seen.
func (e *env) hooked(spec string, containers ...string) string {
	e.t.Helper()
	seen := filepath.Join(e.home, "seen")
	if err := os.MkdirAll(seen, 0o777); err != nil {
		e.t.Fatal(err)
	}
	for i := range containers {
		containers[i] = strings.TrimSpace(containers[i]) + "\nvolumeMounts: [{name: seen, mountPath: /seen}]"
	}
	return probed(spec+"\n  volumes: [{name: seen, hostPath: {path: "+seen+"}}]", containers...)
}

// seen is what was written into a file of that directory, "" for no file.
func (e *env) seen(name string) string {
	e.t.Helper()
	b, err := os.ReadFile(filepath.Join(e.home, "seen", name))
	if err != nil && !os.IsNotExist(err) {
		e.t.Fatal(err)
	}
	return string(b)
}

func TestPostStart(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(e.hooked("restartPolicy: Always", `
name: exec
image: busybox
command: [sh, -c, "echo main >/main; sleep infinity"]
env: [{name: WORD, value: mine}]
lifecycle: {postStart: {exec: {command: [sh, -c, 'while [ ! -s /seen/go ]; do sleep 0.1; done; echo "$WORD $(id -u) $(cat /main)" >/seen/hook']}}}
`, `
name: http
image: app
command: [app, http, -port, "8080"]
lifecycle: {preStop: {httpGet: {port: 8080, path: /status/500}}}
`, `
name: sleep
image: busybox
command: [sleep, infinity]
lifecycle: {postStart: {sleep: {seconds: 1}}}
`))
	// The program runs beside its hook, and does not count as running before
	// that has ended.
	e.eventually("the program beside its hook", func() string {
		if r := e.run("exec", "probed", "-c", "exec", "--", "cat", "/main"); r.out != "main\n" {
			return r.String()
		}
		return ""
	})
	if s := status(e.pod("probed"), "exec"); s.State.Running != nil || s.Ready {
		t.Errorf("got %+v while the hook runs, want it to wait", s.State)
	}
	if err := os.WriteFile(filepath.Join(e.home, "seen", "go"), []byte("go"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.ready("probed")
	same(t, e.seen("hook"), "mine 0 main\n")
	if n := restarts(e.pod("probed")); n != 0 {
		t.Errorf("got %d restarts", n)
	}
	e.ok("delete", "pod", "probed", "--grace-period=1")
}

// TestHTTPHooks: the node asks, at the pod's address; the server is a sidecar
// here, which is there before and after the container with the hooks.
func TestHTTPHooks(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(`
apiVersion: v1
kind: Pod
metadata: {name: hooked}
spec:
  restartPolicy: Never
  initContainers:
  - name: server
    image: app
    command: [app, http, -port, "8080"]
    ports: [{name: web, containerPort: 8080}]
    restartPolicy: Always
    startupProbe: {tcpSocket: {port: web}, periodSeconds: 1, failureThreshold: 60}
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "trap 'exit 1' TERM; sleep infinity & wait"]
    lifecycle:
      postStart: {httpGet: {port: 8080, path: "/status/204?begun"}}
      preStop: {httpGet: {port: 8080, path: "/status/204?ending"}}
`, "hooked")
	mustContain(t, e.ok("logs", "hooked", "-c", "server"), "GET /status/204?begun from ")
	e.ok("stop", "-t", "20", "hooked/main")
	e.when("hooked", "at its end", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	mustContain(t, e.ok("logs", "hooked", "-c", "server"), "GET /status/204?begun from ", "GET /status/204?ending from ")
}

func TestPostStartFails(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(e.hooked("terminationGracePeriodSeconds: 1", `
name: app
image: busybox
command: [sh, -c, "trap 'exit 0' TERM; sleep infinity & wait"]
lifecycle: {postStart: {exec: {command: [sh, -c, "echo $$ >>/seen/hook; test $(wc -l </seen/hook) -gt 1"]}}}
`))
	p := e.restarted("probed", 1)
	text := e.ok("describe", "pod", "probed")
	mustContain(t, text, "FailedPostStartHook", "PostStartHook failed", "Killing")
	if s := status(p, "app").LastTerminationState.Terminated; s == nil {
		t.Errorf("got no last state: %s", text)
	}
	if n := strings.Count(e.seen("hook"), "\n"); n != 2 {
		t.Errorf("the hook ran %d times, want 2", n)
	}
}

// recorder writes down what happens to it; its preStop hook does, too.
const recorder = `
name: app
image: busybox
command: [sh, -c, "trap 'echo term >>/seen/app; exit 0' TERM; sleep infinity & wait"]
lifecycle: {preStop: {exec: {command: [sh, -c, "echo hook >>/seen/app; sleep 1; echo end >>/seen/app"]}}}
`

// TestPreStop: whoever stops a container, its hook comes first and once.
func TestPreStop(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		stop func(e *env)
	}{
		{"delete", func(e *env) { e.ok("delete", "pod", "probed") }},
		{"stop", func(e *env) { e.ok("stop", ids(e.pod("probed"))["app"][:12]); e.restarted("probed", 1) }},
		{"stop, and its caller goes", func(e *env) {
			stop := e.begin(e.t, "stop", "probed/app")
			e.eventually("the hook", func() string {
				if e.seen("app") == "" {
					return "nothing"
				}
				return ""
			})
			if err := stop.command.Process.Kill(); err != nil {
				e.t.Error(err)
			}
			e.restarted("probed", 1)
		}},
		{"the pod fails", func(e *env) {
			e.ok("exec", "probed", "-c", "other", "--", "touch", "/end")
			e.when("probed", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			policy := "restartPolicy: Always"
			if tt.name == "the pod fails" {
				policy = "restartPolicy: Never"
			}
			e.start(e.hooked(policy, recorder, `
name: other
image: busybox
command: [sh, -c, "trap 'exit 0' TERM; while [ ! -f /end ]; do sleep 0.1; done; exit 1"]
`), "probed")
			tt.stop(e)
			same(t, e.seen("app"), "hook\nend\nterm\n")
		})
	}
}

// TestPreStopTakesTooLong: the hook counts against the grace period, and after
// it the container still gets its signal and two seconds.
func TestPreStopTakesTooLong(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(e.hooked("terminationGracePeriodSeconds: 1", strings.NewReplacer("sleep 1;", "sleep 600;").Replace(recorder)), "probed")
	start := time.Now()
	e.ok("delete", "pod", "probed")
	if took := time.Since(start); took > patience {
		t.Errorf("the hook held the deletion up for %v", took)
	}
	same(t, e.seen("app"), "hook\nterm\n")
}

// TestPreStopSleeps: for that long the container does not know that it is to end.
func TestPreStopSleeps(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(e.hooked("", strings.NewReplacer(
		`exec: {command: [sh, -c, "echo hook >>/seen/app; sleep 1; echo end >>/seen/app"]}`, `sleep: {seconds: 3}`,
		"trap 'echo term", "trap 'cut -d. -f1 /proc/uptime",
	).Replace(recorder)), "probed")
	before := uptime(t)
	e.ok("delete", "pod", "probed")
	if told, err := strconv.Atoi(strings.TrimSpace(e.seen("app"))); err != nil || told < before+3 {
		t.Errorf("got the signal at %d, %v, want %d at the earliest", told, err, before+3)
	}
}

// uptime is the machine's, in seconds.
func uptime(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	whole, _, _ := strings.Cut(string(b), ".")
	seconds, err := strconv.Atoi(whole)
	if err != nil {
		t.Fatal(err)
	}
	return seconds
}

func TestPreStopFails(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(e.hooked("terminationGracePeriodSeconds: 20", strings.Replace(recorder, "sleep 1;", "exit 1;", 1)), "probed")
	e.ok("stop", ids(e.pod("probed"))["app"][:12])
	e.restarted("probed", 1)
	e.described("probed", "FailedPreStopHook", "PreStopHook failed")
	same(t, e.seen("app"), "hook\nterm\n")
}

// TestNoPreStop: a group restart kills at once, unless the pod asks for grace;
// and what has ended by itself is not told to.
func TestNoPreStop(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, annotations, want string }{
		{"at once", "{}", ""},
		{"with grace", "{podrun.dev/restart-grace-period: 30s}", "hook\nend\nterm\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			manifest := e.hooked("terminationGracePeriodSeconds: 1", recorder, `
name: other
image: busybox
command: [sh, -c, "while [ ! -f /end ]; do sleep 0.1; done"]
lifecycle: {preStop: {exec: {command: [sh, -c, "echo hook >/seen/other"]}}}
`)
			e.start(strings.Replace(manifest, "{name: probed}", "{name: probed, annotations: "+tt.annotations+"}", 1), "probed")
			e.ok("exec", "probed", "-c", "other", "--", "touch", "/end")
			e.restarted("probed", 1)
			same(t, e.seen("app"), tt.want)
			same(t, e.seen("other"), "")
		})
	}
}
