package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestKillNode: kill -9 of the node stops nothing and adds no restart; the next
// node has the same pods with the same processes.
func TestKillNode(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(waiting("group", ""), "group")
	before := e.pod("group")
	pids := e.initPIDs(before)
	for range 3 {
		e.killNode()
	}
	after := e.restarted("group", 0)
	samePids(t, pids, e.initPIDs(after))
	if after.Status.PodIP != before.Status.PodIP {
		t.Errorf("got IP %s, was %s", after.Status.PodIP, before.Status.PodIP)
	}
	// The node that took over restarts as the first one did.
	e.end("group", "two", 0)
	e.restarted("group", 1)
	same(t, e.ok("logs", "group", "-c", "two", "--previous"), "first of two\n")
}

// initPIDs are the pids, on the host, of a pod's containers.
func (e *env) initPIDs(p *corev1.Pod) map[string]int {
	e.t.Helper()
	m := map[string]int{}
	for name, id := range ids(p) {
		m[name] = e.initPID(id)
	}
	return m
}

func samePids(t *testing.T, want, got map[string]int) {
	t.Helper()
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s: got pid %d, was %d", name, got[name], want[name])
		}
	}
}

// TestKillNodeWhileContainerEnds: a container that ends while there is no node
// is not missed, and its exit code neither.
func TestKillNodeWhileContainerEnds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		end  func(e *env, p *corev1.Pod)
		code int32
	}{
		{"exit 7", func(e *env, p *corev1.Pod) {
			// The file is written now and read once the node is dead.
			e.ok("exec", "group", "-c", "one", "--", "sh", "-c", "(sleep 0.5; echo 7 >/end) </dev/null >/dev/null 2>&1 &")
			e.kill9(e.nodePID())
		}, 7},
		{"killed", func(e *env, p *corev1.Pod) {
			one := e.initPID(ids(p)["one"])
			node := e.nodePID()
			e.kill9IfThere(node)
			e.kill9IfThere(one)
		}, 137},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.start(waiting("group", ""), "group")
			tt.end(e, e.pod("group"))
			e.eventually("a node", func() string {
				if r := e.run("version", "-o", "json"); r.code != 0 || !strings.Contains(r.out, `"pid"`) {
					return "none"
				}
				return ""
			})
			p := e.restarted("group", 1)
			for _, s := range p.Status.ContainerStatuses {
				if last := s.LastTerminationState.Terminated; s.Name == "one" && (last == nil || last.ExitCode != tt.code) {
					t.Errorf("got last state %+v, want exit code %d", s.LastTerminationState, tt.code)
				}
			}
		})
	}
}

// TestKillNodeAtRandom kills the node at random moments around restarts. Each
// end of a container adds one restart, whatever happens to the node.
func TestKillNodeAtRandom(t *testing.T) {
	t.Parallel()
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	e := newEnv(t)
	e.start(waiting("group", ""), "group")
	ip := e.pod("group").Status.PodIP
	for n := 1; n <= rounds; n++ {
		node := e.nodePID()
		// By a person's stop, for that never waits.
		stop := e.command("stop", "-t", "0", "group/one")
		if err := stop.Start(); err != nil {
			t.Fatal(err)
		}
		after := time.Duration(rand.IntN(60)) * time.Millisecond
		time.Sleep(after)
		e.kill9IfThere(node)
		_ = stop.Wait() // its connection may have been cut
		e.eventually("a new node", func() string {
			if pid := e.nodePID(); pid == 0 || pid == node {
				return "none"
			}
			return ""
		})
		// The node may have died before it did what it was asked.
		time.Sleep(300 * time.Millisecond)
		if restarts(e.ready("group")) == n-1 {
			e.ok("stop", "-t", "0", "group/one")
		}
		p := e.restarted("group", n)
		if p.Status.PodIP != ip {
			t.Fatalf("killed after %v: got IP %s, was %s", after, p.Status.PodIP, ip)
		}
	}
}

// TestKillReaperAndNode: with both gone the pods run on, and the next command's
// node takes them up.
func TestKillReaperAndNode(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(waiting("group", ""), "group")
	before := e.pod("group")
	pids := e.initPIDs(before)
	node, reaper := e.nodePID(), e.reaperPID()
	e.kill9IfThere(reaper)
	e.kill9IfThere(node)
	e.eventually("a node", func() string {
		if r := e.run("get", "pods"); r.code != 0 {
			return r.String()
		}
		return ""
	})
	after := e.restarted("group", 0)
	samePids(t, pids, e.initPIDs(after))
	e.ok("exec", "group", "-c", "one", "--", "true")
	e.end("group", "one", 1)
	e.restarted("group", 1)
}

// TestKillPause: the sandbox's first process is gone, and with it the pod's
// network: the pod is made again, in a new one, with its old address.
func TestKillPause(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(waiting("group", ""), "group")
	before := e.pod("group")
	var pause int
	for p := range e.session() {
		if args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid)); strings.HasPrefix(string(args), "podrun-pause") {
			pause = p.pid
		}
	}
	e.kill9(pause)
	after := e.when("group", "made again", func(p *corev1.Pod) bool { return isReady(p) && ids(p)["one"] != ids(before)["one"] })
	if after.Status.PodIP != before.Status.PodIP {
		t.Errorf("got IP %s, was %s", after.Status.PodIP, before.Status.PodIP)
	}
	e.ok("exec", "group", "-c", "one", "--", "wget", "-q", "-O", "/dev/null", "http://host.podrun.internal:"+images.Address[strings.LastIndex(images.Address, ":")+1:]+"/v2/")
}

// TestStopNode: SIGTERM ends the node and leaves the pods; the next command
// finds them.
func TestStopNode(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(waiting("group", ""), "group")
	pids := e.initPIDs(e.pod("group"))
	e.remember()
	e.endNode(e.nodePID())
	e.eventually("end of the node", func() string {
		if e.nodePID() != 0 {
			return "there"
		}
		return ""
	})
	samePids(t, pids, e.initPIDs(e.restarted("group", 0)))
}

// TestNodeLeavesWhenIdle: a node without pods and callers ends by itself.
func TestNodeLeavesWhenIdle(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "PODRUN_NODE_IDLE=300ms")
	e.start(podYAML("a", "", "c=exec sleep 3600"), "a")
	time.Sleep(time.Second)
	node := e.nodePID()
	if node == 0 {
		t.Fatal("the node has left a pod alone")
	}
	e.ok("delete", "pod", "a", "--now")
	// Not by asking it, which would keep it up.
	e.eventually("end of the idle node", func() string {
		if s, ok := readStat(node); ok && s.state != "Z" {
			return "there"
		}
		return ""
	})
}
