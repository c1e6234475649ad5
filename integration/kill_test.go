package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// TestKillReaper kills the node's parent, and by that the node: the next command
// finds all pods as they are, with what they printed meanwhile. It costs what the
// reaper keeps: how a container ended that ended meanwhile, the input and the
// terminal of others (docs/states.md).
func TestKillReaper(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	beside := e.startNeighbour()
	e.start(podYAML("talks", "terminationGracePeriodSeconds: 0", "c=n=0; while :; do echo $n; n=$((n+1)); sleep 0.1; done")+"---\n"+
		podYAML("ends", "terminationGracePeriodSeconds: 0", "c=exec sleep 3600")+"---\n"+
		strings.Replace(podYAML("input", "terminationGracePeriodSeconds: 0", "c=cat; exec sleep 3600"), "image: busybox,", "image: busybox, stdin: true,", 1)+"---\n"+
		strings.Replace(podYAML("terminal", "terminationGracePeriodSeconds: 0", "c=sleep 3600"), "image: busybox,", "image: busybox, tty: true,", 1),
		"talks", "ends", "input", "terminal")
	ends := e.initPID(ids(e.pod("ends"))["c"])
	e.remember()
	reaper := e.reaperPID()
	e.kill9(reaper)
	e.kill9(ends)
	// "get" starts a node; how long that takes is all that a person sees of it.
	began := time.Now()
	e.eventually("a node", func() string {
		if r := e.run("get", "pods"); r.code != 0 {
			return r.String()
		}
		return ""
	})
	t.Logf("the next node answered %v after the kill", time.Since(began))
	beside.check(e)
	p := e.restarted("ends", 1)
	if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 137 {
		t.Errorf("got last state %+v, want exit code 137", last)
	}
	// Nothing that was printed is lost.
	e.eventually("what was printed since", func() string {
		lines := strings.Fields(e.ok("logs", "talks"))
		for i, line := range lines {
			if line != fmt.Sprint(i) {
				t.Fatalf("line %d of the log is %q", i, line)
			}
		}
		if len(lines) < 20 {
			return fmt.Sprint(len(lines), " lines")
		}
		return ""
	})
	if n := restarts(e.pod("talks")) + restarts(e.pod("input")); n != 0 {
		t.Errorf("%d containers were made again that nothing happened to", n)
	}
	// A terminal is gone with whoever holds it, as that of a session by ssh.
	e.restarted("terminal", 1)
	mustContain(t, e.ok("describe", "pod", "terminal"), "TerminalLost")
}

// TestStopAndContinueNode has the node stand still for half a minute: commands
// wait, and when it goes on no probe has failed by that and what ended meanwhile
// is counted once.
func TestStopAndContinueNode(t *testing.T) {
	t.Parallel()
	still := 30 * time.Second
	if testing.Short() {
		still = 5 * time.Second
	}
	e := newEnv(t)
	beside := e.startNeighbour()
	// An attempt is under way at any moment.
	e.start(probed("restartPolicy: Always\n  terminationGracePeriodSeconds: 0", `
name: exec
image: busybox
command: [sleep, infinity]
livenessProbe: {exec: {command: [sleep, "0.7"]}, periodSeconds: 1, timeoutSeconds: 4, failureThreshold: 1}
`, `
name: http
image: app
command: [app, http, -port, "8080"]
startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 60}
livenessProbe: {httpGet: {port: 8080, path: /status/200}, periodSeconds: 1, timeoutSeconds: 4, failureThreshold: 1}
readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 4, failureThreshold: 1}
`)+"---\n"+group("ends"), "probed", "ends")
	one := e.initPID(ids(e.pod("ends"))["one"])
	node := e.nodePID()
	if err := unix.Kill(node, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := func() { _ = unix.Kill(node, unix.SIGCONT) }
	defer goOn()
	began := time.Now()
	e.kill9IfThere(one)
	get := e.begin(t, "get", "pods")
	apply := e.begin(t, "apply", "-f", e.write("late.yml", group("late")))
	time.Sleep(still - time.Since(began))
	for _, s := range []*session{get, apply} {
		select {
		case <-s.ended:
			t.Errorf("podrun %v did not wait: %q %q", s.args, s.output(), s.errors())
		default:
		}
	}
	goOn()
	for _, s := range []*session{get, apply} {
		if code := s.end(); code != 0 {
			t.Errorf("podrun %v: exit %d: %q", s.args, code, s.errors())
		}
	}
	e.restarted("late", 0)
	e.restarted("ends", 1)
	beside.check(e)
	time.Sleep(2 * time.Second) // for attempts of the probes
	if p := e.restarted("probed", 0); !isReady(p) {
		t.Errorf("got %+v, want it ready", p.Status)
	}
	if text := e.ok("describe", "pod", "probed"); strings.Contains(text, "Liveness probe") || strings.Contains(text, "Readiness probe") {
		t.Errorf("a probe failed: %s", text)
	}
	if e.nodePID() != node {
		t.Error("it is another node")
	}
}

// silent is a registry that never answers. It tells when whoever asked it has
// gone.
func silent(t *testing.T) (address string, asked, gone chan struct{}) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	asked, gone = make(chan struct{}, 100), make(chan struct{}, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				_, _ = c.Read(make([]byte, 1))
				asked <- struct{}{}
				_, _ = io.Copy(io.Discard, c)
				gone <- struct{}{}
			}()
		}
	}()
	return l.Addr().String(), asked, gone
}

func await(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("%s: not after %v", what, patience)
	}
}

// TestKillCommands kills the command line in the middle of each verb: the node
// and the pods take no notice, and nothing half made is left. cp, port-forward and
// system reset have such tests of their own; verbs that are not here ask the node
// once.
func TestKillCommands(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	beside := e.startNeighbour()
	e.start(strings.Replace(podYAML("target", "terminationGracePeriodSeconds: 0", "c=echo tick; exec cat"), "image: busybox,", "image: busybox, stdin: true,", 1), "target")
	e.ok("pull", "-q", "app")
	e.ok("save", "-o", "app.tar", "app")
	archive, err := os.ReadFile(filepath.Join(e.home, "app.tar"))
	if err != nil {
		t.Fatal(err)
	}
	node, clean := e.nodePID(), e.belongings()
	for _, tt := range []struct {
		name string
		run  func(t *testing.T, e *env)
	}{
		{"apply, before all was read", func(t *testing.T, e *env) {
			s := e.begin(t, "apply", "-f", "-")
			s.enter(group("half") + "---\n")
			s.kill()
			if e.exists("half") {
				t.Error("half a manifest was applied")
			}
		}},
		{"apply, in the middle", func(t *testing.T, e *env) {
			var b strings.Builder
			for i := range 200 {
				fmt.Fprintf(&b, "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: map-%d}, data: {a: b}}\n", i)
			}
			s := e.begin(t, "apply", "-f", e.write("maps.yml", b.String()))
			s.expect("configmap/map-")
			s.kill()
			out := e.ok("get", "cm", "-o", "jsonpath={range .items[*]}{.metadata.name}={.data.a} {end}")
			for _, f := range strings.Fields(out) {
				if !strings.HasSuffix(f, "=b") {
					t.Errorf("half a ConfigMap: %s", f)
				}
			}
			e.ok("apply", "-f", "maps.yml")
			e.ok("delete", "cm", "--all")
		}},
		{"delete", func(t *testing.T, e *env) {
			e.start(podYAML("slow", "terminationGracePeriodSeconds: 600", "c=trap '' TERM; while :; do sleep 1; done"), "slow")
			s := e.begin(t, "delete", "pod", "slow")
			e.when("slow", "being deleted", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
			s.kill()
			// It was asked for and goes on.
			if p := e.pod("slow"); p.DeletionTimestamp == nil {
				t.Error("it is not being deleted any more")
			}
			e.ok("delete", "pod", "slow", "--now")
		}},
		{"stop", func(t *testing.T, e *env) {
			e.start(podYAML("slow", "terminationGracePeriodSeconds: 0", "c=trap 'echo asked' TERM; echo ready; while :; do sleep 0.1; done"), "slow")
			said := func(what string) {
				e.eventually(what, func() string {
					if out := e.ok("logs", "slow"); !strings.Contains(out, what) {
						return out
					}
					return ""
				})
			}
			said("ready")
			s := e.begin(t, "stop", "-t", "5", "slow/c")
			said("asked")
			s.kill()
			// The stop goes on to its end, which is counted.
			e.restarted("slow", 1)
			e.ok("delete", "pod", "slow", "--now")
		}},
		{"replace --force", func(t *testing.T, e *env) {
			manifest := e.write("slow.yml", podYAML("slow", "terminationGracePeriodSeconds: 600", "c=trap '' TERM; while :; do sleep 1; done"))
			e.ok("apply", "-f", manifest)
			before := e.ready("slow")
			s := e.begin(t, "replace", "--force", "-f", manifest)
			e.when("slow", "being deleted", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
			s.kill()
			e.ok("replace", "--force", "--grace-period=0", "-f", manifest)
			if after := e.ready("slow"); after.UID == before.UID {
				t.Error("it is the old pod")
			}
			e.ok("delete", "pod", "slow", "--now")
		}},
		{"exec", func(t *testing.T, e *env) {
			s := e.begin(t, "exec", "-i", "target", "--", "sh", "-c", "echo here; cat")
			s.expect("here")
			s.kill()
			_ = s.stdin.Close() // the program reads from there itself
		}},
		{"logs", func(t *testing.T, e *env) {
			s := e.begin(t, "logs", "-f", "target")
			s.expect("tick\n")
			s.kill()
		}},
		{"attach", func(t *testing.T, e *env) {
			s := e.begin(t, "attach", "-i", "target")
			s.enter("more\n")
			s.expect("more\n")
			s.kill()
		}},
		{"get -w", func(t *testing.T, e *env) {
			s := e.begin(t, "get", "pods", "-w")
			s.expect("target")
			s.kill()
		}},
		{"events -w", func(t *testing.T, e *env) {
			s := e.begin(t, "events", "-w")
			s.expect("target")
			s.kill()
		}},
		{"wait", func(t *testing.T, e *env) {
			s := e.begin(t, "wait", "--for=delete", "pod/target")
			time.Sleep(200 * time.Millisecond)
			s.kill()
		}},
		{"run", func(t *testing.T, e *env) {
			s := e.begin(t, "run", "mine", "--image=busybox", "--restart=Never", "-i", "--", "sh", "-c", "echo here; cat")
			s.expect("here")
			s.kill()
			// Its input ends with it, and so does the program.
			e.when("mine", "over", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
			e.ok("delete", "pod", "mine")
		}},
		{"pull", func(t *testing.T, e *env) {
			address, asked, gone := silent(t)
			s := e.begin(t, "pull", address+"/none:v1")
			await(t, "a request", asked)
			s.kill()
			await(t, "its end", gone)
		}},
		{"push", func(t *testing.T, e *env) {
			address, asked, gone := silent(t)
			e.ok("tag", "app", address+"/app:v1")
			s := e.begin(t, "push", address+"/app:v1")
			await(t, "a request", asked)
			s.kill()
			await(t, "its end", gone)
			e.ok("rmi", address+"/app:v1")
		}},
		{"load", func(t *testing.T, e *env) {
			s := e.begin(t, "load")
			if _, err := io.Copy(s.stdin, bytes.NewReader(archive[:len(archive)/2])); err != nil {
				t.Fatal(err)
			}
			s.kill()
		}},
		{"image import", func(t *testing.T, e *env) {
			s := e.begin(t, "image", "import", "-", "half")
			if _, err := io.Copy(s.stdin, bytes.NewReader(archive[:len(archive)/2])); err != nil {
				t.Fatal(err)
			}
			s.kill()
		}},
		{"save", func(t *testing.T, e *env) {
			fifo := filepath.Join(e.home, "fifo")
			if err := unix.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			s := e.begin(t, "save", "-o", "fifo", "app", "busybox")
			f, err := os.Open(fifo)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			if _, err := io.ReadFull(f, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			s.kill() // it waits for a reader
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := e.sub(t, "")
			tt.run(t, e)
			e.soon("things of a command that was killed", func() []string { return without(e.belongings(), clean) })
		})
	}
	beside.check(e)
	e.restarted("target", 0)
	if got := e.nodePID(); got != node {
		t.Errorf("the node is %d, was %d", got, node)
	}
}

// TestKillReset kills "system reset" at random moments: the next one comes to its
// end and leaves nothing, whatever the first has begun.
func TestKillReset(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for range 4 {
		e.start(group("a")+"---\n"+group("b"), "a", "b")
		e.remember()
		s := e.begin(t, "system", "reset", "--force")
		after := time.Duration(rand.IntN(300)) * time.Millisecond
		time.Sleep(after)
		s.kill()
		same(t, e.ok("system", "reset", "--force"), "all that podrun kept is removed\n")
		if e.checkGone(); t.Failed() {
			t.Fatalf("killed after %v", after)
		}
		entries, err := os.ReadDir(e.data)
		if err != nil && !errors.Is(err, fs.ErrNotExist) || len(entries) > 0 {
			t.Fatalf("killed after %v: left in %s: %v, %v", after, e.data, entries, err)
		}
	}
}
