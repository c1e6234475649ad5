package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// probed is the manifest of a pod "probed"; each container is written as YAML,
// with what is set at its end added.
func probed(spec string, containers ...string) string {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Pod\nmetadata: {name: probed}\nspec:\n  " + spec + "\n  containers:\n")
	for _, c := range containers {
		for i, line := range strings.Split(strings.TrimSpace(c), "\n") {
			indent := "    "
			if i == 0 {
				indent = "  - "
			}
			b.WriteString(indent + line + "\n")
		}
	}
	return b.String()
}

// status is that of a container of a pod.
func status(p *corev1.Pod, name string) corev1.ContainerStatus {
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if s.Name == name {
			return s
		}
	}
	return corev1.ContainerStatus{}
}

func condition(p *corev1.Pod, t corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

// described waits until describe has all of want in it.
func (e *env) described(name string, want ...string) {
	e.t.Helper()
	e.eventually("describe "+name, func() string {
		text := e.ok("describe", "pod", name)
		for _, w := range want {
			if !strings.Contains(text, w) {
				return "without " + w
			}
		}
		return ""
	})
}

// TestProbesSucceed asks real servers by every handler, from outside the
// container, whose image needs no client.
func TestProbesSucceed(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(probed("restartPolicy: Always", `
name: http
image: app
command: [app, http, -port, "8080"]
ports: [{name: web, containerPort: 8080}]
readinessProbe:
  httpGet: {port: web, path: "/status/399?a=b"}
  periodSeconds: 1
  timeoutSeconds: 30
livenessProbe:
  httpGet: {port: 8080, path: /anything, httpHeaders: [{name: Host, value: www.example.org}, {name: User-Agent, value: mine}]}
  periodSeconds: 1
  timeoutSeconds: 30
  failureThreshold: 60
`, `
name: https
image: app
command: [app, http, -tls, -port, "8443"]
readinessProbe: {httpGet: {port: 8443, scheme: HTTPS}, periodSeconds: 1, timeoutSeconds: 30}
`, `
name: redirect
image: app
command: [app, http, -port, "8081"]
readinessProbe: {httpGet: {port: 8081, path: "/redirect/http://elsewhere.invalid/"}, periodSeconds: 1, timeoutSeconds: 30}
`, `
name: tcp
image: app
command: [app, tcp, -port, "8082"]
readinessProbe: {tcpSocket: {port: 8082}, periodSeconds: 1, timeoutSeconds: 30}
`, `
name: grpc
image: app
command: [app, grpc-health, -port, "8083", -service, one]
readinessProbe: {grpc: {port: 8083}, periodSeconds: 1, timeoutSeconds: 30}
startupProbe: {grpc: {port: 8083, service: one}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 60}
`, `
name: exec
image: busybox
command: [sleep, infinity]
env: [{name: WORD, value: of the manifest}]
securityContext: {runAsUser: 1000}
readinessProbe: {exec: {command: [sh, -c, 'test "$WORD $(id -u)" = "of the manifest 1000"']}, periodSeconds: 1, timeoutSeconds: 30}
`), "probed")
	mustContain(t, e.ok("logs", "probed", "-c", "http"), "GET /status/399?a=b from podrun-probe/1.37\n")
	e.eventually("the liveness probe", func() string {
		if strings.Contains(e.ok("logs", "probed", "-c", "http"), "GET /anything from mine\n") {
			return ""
		}
		return "not seen"
	})
	e.described("probed", "ProbeWarning", "Readiness probe warning: Probe terminated redirects, Response body: ")
	p := e.pod("probed")
	if restarts(p) != 0 || condition(p, corev1.PodReady) != corev1.ConditionTrue {
		t.Errorf("got %d restarts, Ready %s: %s", restarts(p), condition(p, corev1.PodReady), row(e.ok("get", "pods"), "probed"))
	}
}

// TestProbesFail: what a probe that fails says is what the kubelet would.
func TestProbesFail(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(probed("restartPolicy: Always", `
name: http
image: app
command: [app, http, -port, "8080"]
readinessProbe: {httpGet: {port: 8080, path: /status/503}, periodSeconds: 1}
`, `
name: slow
image: app
command: [app, http, -port, "8081"]
readinessProbe: {httpGet: {port: 8081, path: /slow/1m}, periodSeconds: 1}
`, `
name: local
image: app
command: [app, http, -address, 127.0.0.1, -port, "8082"]
readinessProbe: {httpGet: {port: 8082}, periodSeconds: 1}
`, `
name: tcp
image: busybox
command: [sleep, infinity]
readinessProbe: {tcpSocket: {port: 8083}, periodSeconds: 1}
`, `
name: grpc
image: app
command: [app, grpc-health, -port, "8084"]
readinessProbe: {grpc: {port: 8084, service: other}, periodSeconds: 1}
`, `
name: exec
image: busybox
command: [sleep, infinity]
readinessProbe: {exec: {command: [sh, -c, "echo not yet; exit 3"]}, periodSeconds: 1}
`, `
name: late
image: busybox
command: [sleep, infinity]
readinessProbe: {exec: {command: [sh, -c, "sleep 1000; true"]}, periodSeconds: 1}
`, `
name: missing
image: busybox
command: [sleep, infinity]
readinessProbe: {exec: {command: [/no/such/program]}, periodSeconds: 1}
`))
	p := e.when("probed", "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	ip := p.Status.PodIP
	e.described("probed",
		"Readiness probe failed: HTTP probe failed with statuscode: 503",
		fmt.Sprintf("Readiness probe failed: Get \"http://%s:8081/slow/1m\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)", ip),
		fmt.Sprintf("Readiness probe failed: Get \"http://%s:8082/\": dial tcp %s:8082: connect: connection refused", ip, ip),
		fmt.Sprintf("Readiness probe failed: dial tcp %s:8083: connect: connection refused", ip),
		"Readiness probe failed: error: health rpc probe failed: rpc error: code = NotFound desc = unknown service",
		"Readiness probe failed: not yet",
		`Readiness probe failed: command "sh -c sleep 1000; true" timed out`,
		"Readiness probe errored and resulted in unknown state: ", "/no/such/program",
	)
	// What was started by a program that took too long is gone with it; the
	// next attempt may be under way.
	if n := strings.Count(e.ok("exec", "probed", "-c", "late", "--", "ps"), "sleep 1000"); n > 2 {
		t.Errorf("got %d processes that probes left behind: %s", n, e.ok("exec", "probed", "-c", "late", "--", "ps"))
	}
	p = e.pod("probed")
	if restarts(p) != 0 || condition(p, corev1.PodReady) != corev1.ConditionFalse || condition(p, corev1.ContainersReady) != corev1.ConditionFalse {
		t.Errorf("got %d restarts and conditions %v", restarts(p), p.Status.Conditions)
	}
	mustContain(t, row(e.ok("get", "pods"), "probed"), "probed 0/8 Running 0")
}

// TestProbeStoppedEarly: a probe's program that is stopped by the container
// before it is executed has taken too long, and nothing is left of it.
func TestProbeStoppedEarly(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(probed("restartPolicy: Always", `
name: app
image: busybox
command: [sh, -c, "while [ ! -e /peace ]; do for p in /proc/[0-9]*; do read c <$p/comm && case \"$c\" in runc:*2:INIT*) kill -STOP ${p#/proc/};; esac; done 2>/dev/null; done; exec sleep 3600"]
readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 1}
lifecycle: {preStop: {exec: {command: ["true"]}}}
`))
	e.described("probed", `Readiness probe failed: command "true" timed out`, "(x2 over")
	// Without exec, which it would stop as well: ours is given up with its caller.
	pid := e.initPID(ids(e.pod("probed"))["app"])
	e.eventually("processes of probes", func() string {
		if n := len(e.children(pid)); n > 2 { // the next attempt may be under way
			return fmt.Sprint(n, " left")
		}
		return ""
	})
	start := time.Now()
	e.ok("delete", "pod", "probed", "--grace-period=1")
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("the deletion took %v", took)
	}
}

// children are the processes in the pid namespace of pid, itself included.
func (e *env) children(pid int) (list []int) {
	e.t.Helper()
	own := e.namespace(pid, "pid")
	for other := range processes() {
		if link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", other)); err == nil && link == own {
			list = append(list, other)
		}
	}
	return list
}

// TestReadinessFlips: READY follows the probe both ways, and nothing restarts.
func TestReadinessFlips(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(probed("restartPolicy: Always", `
name: app
image: app
command: [app, http, -port, "8080"]
readinessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1, failureThreshold: 2, successThreshold: 2}
`), "probed")
	for _, want := range []struct{ path, ready string }{{"fail", "0/1"}, {"mend", "1/1"}} {
		e.ok("exec", "probed", "--", "app", "get", "http://127.0.0.1:8080/"+want.path)
		e.eventually("READY after "+want.path, func() string {
			line := row(e.ok("get", "pods"), "probed")
			if strings.HasPrefix(line, "probed "+want.ready+" Running 0 ") {
				return ""
			}
			return line
		})
	}
	if p := e.pod("probed"); condition(p, corev1.PodReady) != corev1.ConditionTrue {
		t.Errorf("got conditions %v, want Ready", p.Status.Conditions)
	}
}

// TestStartupProbeGates: until it succeeds neither of the other probes runs.
func TestStartupProbeGates(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(probed("restartPolicy: Always", `
name: app
image: busybox
command: [sleep, infinity]
startupProbe: {exec: {command: [sh, -c, "echo startup >>/probes; test -f /started"]}, periodSeconds: 1, failureThreshold: 100}
livenessProbe: {exec: {command: [sh, -c, "echo liveness >>/probes; test -f /started"]}, periodSeconds: 1, failureThreshold: 1}
readinessProbe: {exec: {command: [sh, -c, "echo readiness >>/probes; test -f /started"]}, periodSeconds: 1}
`))
	e.described("probed", "Startup probe failed:", "(x3 over")
	p := e.pod("probed")
	if s := status(p, "app"); s.Ready || s.Started == nil || *s.Started || s.State.Running == nil || restarts(p) != 0 {
		t.Errorf("got %+v, want it to run and neither started nor ready", s)
	}
	if got := e.ok("exec", "probed", "--", "cat", "/probes"); strings.Contains(got, "ness") {
		t.Errorf("probes ran before the container had started: %q", got)
	}
	e.ok("exec", "probed", "--", "touch", "/started")
	p = e.ready("probed")
	if s := status(p, "app"); s.Started == nil || !*s.Started || restarts(p) != 0 {
		t.Errorf("got %+v and %d restarts, want it started", s, restarts(p))
	}
	n := strings.Count(e.ok("exec", "probed", "--", "cat", "/probes"), "startup")
	time.Sleep(2500 * time.Millisecond)
	got := e.ok("exec", "probed", "--", "cat", "/probes")
	if strings.Count(got, "startup") != n || strings.Count(got, "liveness") < 2 {
		t.Errorf("got %q, want no further startup probe after %d and liveness probes", got, n)
	}
}

// TestLivenessRestartsGroup: a container whose liveness probe fails takes the
// pod down and up again, once, and is asked to end before it is killed.
func TestLivenessRestartsGroup(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		fail func(e *env, p *corev1.Pod)
		want []string // in describe
	}{
		{"it answers so", func(e *env, p *corev1.Pod) {
			e.ok("exec", "group", "-c", "one", "--", "app", "get", "http://127.0.0.1:8080/fail")
		}, []string{"Liveness probe failed: HTTP probe failed with statuscode: 500"}},
		{"it is stopped", func(e *env, p *corev1.Pod) {
			if err := unix.Kill(e.initPID(ids(p)["one"]), unix.SIGSTOP); err != nil {
				e.t.Fatal(err)
			}
		}, []string{"Liveness probe failed: Get", "context deadline exceeded"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			oneRestartByProbe(t, tt.fail, tt.want...)
		})
	}
}

func oneRestartByProbe(t *testing.T, fail func(e *env, p *corev1.Pod), want ...string) {
	t.Helper()
	e := newEnv(t)
	manifest := probed("terminationGracePeriodSeconds: 1", `
name: one
image: app
command: [app, http, -port, "8080"]
startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 60}
livenessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 3}
`, `
name: two
image: busybox
command: [sh, -c, "trap 'exit 0' TERM; sleep infinity & wait"]
`)
	e.start(strings.Replace(manifest, "name: probed", "name: group", 1), "group")
	before := e.pod("group")
	fail(e, before)
	after := e.restarted("group", 1)
	for name, old := range ids(before) {
		if id := ids(after)[name]; id == old || id == "" {
			t.Errorf("%s: got id %q, was %q", name, id, old)
		}
	}
	if s := status(after, "one"); s.RestartCount != 1 || s.LastTerminationState.Terminated == nil {
		t.Errorf("got %+v, want the restart counted on it and its last state", s)
	}
	mustContain(t, e.ok("describe", "pod", "group"), append(want, "Unhealthy", "Container one failed liveness probe, will be restarted")...)
	time.Sleep(3 * time.Second)
	e.restarted("group", 1)
}

// TestProbeFailureByPolicy: what a failed probe does to containers that do not
// end by themselves under each restartPolicy.
func TestProbeFailureByPolicy(t *testing.T) {
	t.Parallel()
	const failing = `
name: app
image: busybox
command: [sh, -c, "trap 'exit 0' TERM; sleep infinity & wait"]
startupProbe: {exec: {command: ["false"]}, periodSeconds: 1, failureThreshold: 1}
`
	t.Run("Never", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t)
		e.apply(probed("restartPolicy: Never", strings.Replace(failing, "exit 0", "exit 7", 1)))
		p := e.when("probed", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
		if s := status(p, "app").State.Terminated; s == nil || s.ExitCode != 7 {
			t.Errorf("got %+v, want exit code 7", s)
		}
		text := e.ok("describe", "pod", "probed")
		mustContain(t, text, "Container app failed startup probe", "Startup probe failed:")
		if strings.Contains(text, "will be restarted") {
			t.Errorf("says that it is restarted: %s", text)
		}
	})
	t.Run("OnFailure, and it exits with 0", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t)
		e.apply(probed("restartPolicy: OnFailure", failing))
		e.when("probed", "restarted", func(p *corev1.Pod) bool { return restarts(p) >= 1 })
	})
	t.Run("the probe's own grace period", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t)
		deaf := strings.NewReplacer("exit 0", ":", "sleep infinity & wait", "while :; do sleep 1; done", "failureThreshold: 1", "failureThreshold: 1, terminationGracePeriodSeconds: 1").Replace(failing)
		start := time.Now()
		e.apply(probed("terminationGracePeriodSeconds: 600", deaf))
		p := e.when("probed", "restarted", func(p *corev1.Pod) bool { return restarts(p) >= 1 })
		if s := status(p, "app").LastTerminationState.Terminated; s == nil || s.ExitCode != 137 {
			t.Errorf("got %+v after %v, want exit code 137", s, time.Since(start))
		}
		e.ok("delete", "pod", "probed", "--grace-period=0")
	})
}

// TestVerdictOutlivesNode: a container that was asked to end for a failed probe
// is made again though it exits with 0 and the node that asked has died.
func TestVerdictOutlivesNode(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(probed("restartPolicy: OnFailure", `
name: app
image: busybox
command: [sh, -c, "trap 'touch /asked; while [ ! -e /go ]; do sleep 0.1; done; exit 0' TERM; while :; do sleep 0.1; done"]
livenessProbe: {exec: {command: [test, "!", -e, /sick]}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 30}
`), "probed")
	e.ok("exec", "probed", "--", "touch", "/sick")
	e.eventually("stop signal", func() string {
		if e.run("exec", "probed", "--", "test", "-e", "/asked").code != 0 {
			return "missing"
		}
		return ""
	})
	e.ok("exec", "probed", "--", "rm", "/sick") // the next node has no reason of its own
	e.killNode()
	e.run("exec", "probed", "--", "touch", "/go") // it may be killed with the container that it lets go
	p := e.restarted("probed", 1)
	if end := status(p, "app").LastTerminationState.Terminated; end == nil || end.ExitCode != 0 {
		t.Errorf("got %+v", status(p, "app"))
	}
}

// TestProbesOutliveNode: what probes have found stays when the node is killed,
// and the next node goes on from there.
func TestProbesOutliveNode(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(probed("restartPolicy: Always", `
name: app
image: app
command: [app, http, -port, "8080"]
startupProbe: {httpGet: {port: 8080, path: /status/200}, periodSeconds: 1, failureThreshold: 60}
livenessProbe: {httpGet: {port: 8080, path: /live}, periodSeconds: 1, timeoutSeconds: 10}
readinessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1, failureThreshold: 1}
`), "probed")
	count := func(what string) int { return strings.Count(e.ok("logs", "probed"), what) }
	startups := count("/status/200")
	pid := e.initPID(ids(e.pod("probed"))["app"])
	e.kill9(e.nodePID())
	if p := e.pod("probed"); !isReady(p) || !*status(p, "app").Started {
		t.Errorf("not ready after the node was killed: %s", row(e.ok("get", "pods"), "probed"))
	}
	live := count("/live")
	e.eventually("liveness probes", func() string {
		if count("/live") > live {
			return ""
		}
		return "none by the new node"
	})
	if n := count("/status/200"); n != startups {
		t.Errorf("got %d startup probes, were %d: it had started", n, startups)
	}
	e.ok("exec", "probed", "--", "app", "get", "http://127.0.0.1:8080/fail")
	e.when("probed", "not ready", func(p *corev1.Pod) bool { return !status(p, "app").Ready })
	// And what is not ready does not become so by another node.
	e.kill9(e.nodePID())
	if p := e.pod("probed"); status(p, "app").Ready || restarts(p) != 0 {
		t.Errorf("ready after the node was killed: %s", row(e.ok("get", "pods"), "probed"))
	}
	e.ok("exec", "probed", "--", "app", "get", "http://127.0.0.1:8080/mend")
	if got := e.initPID(ids(e.restarted("probed", 0))["app"]); got != pid {
		t.Errorf("got pid %d, was %d", got, pid)
	}
}
