package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a chaotic soak does when it is part of all tests; "make soak" does it for
// longer.
const (
	chaosFor  = 30 * time.Second
	chaosPods = 20
)

// TestChaos does at random what happens to pods: they are applied, changed and
// deleted, their containers and sandboxes are killed, and the node is, alone and
// in the middle of a command. Every few steps what there is is compared with a
// model of what must be, see chaosModel. The steps follow from a seed, which is
// logged: PODRUN_SOAK_SEED=N makes the same again, as far as the moments of the
// kills allow.
func TestChaos(t *testing.T) {
	t.Parallel()
	length := chaosFor
	if d, err := time.ParseDuration(os.Getenv("PODRUN_SOAK")); err == nil {
		length = d
	}
	seed, err := strconv.ParseUint(os.Getenv("PODRUN_SOAK_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64N(1 << 32)
	}
	t.Logf("PODRUN_SOAK_SEED=%d", seed)
	c := &chaos{e: newEnv(t), random: rand.New(rand.NewPCG(seed, 0)), model: chaosModel{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("PODRUN_SOAK_SEED=%d; the last steps:\n%s", seed, strings.Join(c.steps[max(0, len(c.steps)-40):], "\n"))
		}
	})
	c.fill()
	c.check()
	for end := time.Now().Add(length); time.Now().Before(end); {
		for range 1 + c.random.IntN(6) {
			c.step()
		}
		c.check()
	}
	c.killNode()
	c.check()
	c.checkProcesses()
	t.Logf("%d steps: %v", len(c.steps), c.count)
}

// chaos is a soak that goes on.
type chaos struct {
	e      *env
	random *rand.Rand
	model  chaosModel
	steps  []string // what was done
	count  [7]int   // of each kind of step
	serial int      // of values that pods are labelled with
}

func (c *chaos) did(format string, args ...any) {
	c.steps = append(c.steps, fmt.Sprintf("%d %s", len(c.steps), fmt.Sprintf(format, args...)))
}

// fill applies all pods that are not there, from one manifest.
func (c *chaos) fill() {
	var manifest strings.Builder
	for i := range chaosPods {
		name := fmt.Sprint("p", i)
		if c.model[name] == nil {
			manifest.WriteString("---\n" + c.manifest(name, "0"))
			c.model[name] = &chaosPod{labels: []string{"0"}}
		}
	}
	c.did("apply all")
	c.e.apply(manifest.String())
}

func (c *chaos) manifest(name, label string) string {
	return strings.Replace(podYAML(name, "terminationGracePeriodSeconds: 0", "a=exec sleep 3600", "b=exec sleep 3600"), "app: myapp", "app: myapp, serial: '"+label+"'", 1)
}

// step does one thing that the model allows.
func (c *chaos) step() {
	kind := c.random.IntN(len(c.count))
	name := fmt.Sprint("p", c.random.IntN(chaosPods))
	p := c.model[name]
	switch {
	case p == nil:
		kind = 0
	case p.unsure() || p.killed:
		return // until the next check has looked at it
	case p.fresh && !slices.Contains([]int{0, 1, 5}, kind):
		return // what is to be killed may not have been made
	case p.events >= 2:
		kind = 1 // its back-off grows: a new one takes its place
	}
	c.count[kind]++
	switch kind {
	case 0:
		c.serial++
		c.apply(name, strconv.Itoa(c.serial))
	case 1:
		c.delete(name)
	case 2:
		c.killContainers(name, false, "a")
	case 3:
		c.killContainers(name, false, "a", "b")
	case 4:
		c.killPause(name)
	case 5:
		c.killNode()
	case 6:
		c.killContainers(name, true, "b")
	}
}

// interrupted runs a command; every third time the node is killed under it. It
// tells whether the command was acknowledged.
func (c *chaos) interrupted(stdin string, args ...string) bool {
	if c.random.IntN(3) > 0 {
		c.did("podrun %s", strings.Join(args, " "))
		c.e.stdin = stdin
		c.e.ok(args...)
		return true
	}
	after := time.Duration(c.random.IntN(40)) * time.Millisecond
	c.did("podrun %s, and after %v kill the node", strings.Join(args, " "), after)
	node := c.node(0)
	kill := time.AfterFunc(after, func() { _ = unix.Kill(node, unix.SIGKILL) })
	c.e.stdin = stdin
	r := c.e.run(args...)
	if !kill.Stop() {
		c.node(node)
	}
	if r.code != 0 {
		c.did("it failed: %s", strings.TrimSpace(r.err))
	}
	return r.code == 0
}

func (c *chaos) apply(name, label string) {
	p := c.model[name]
	acknowledged := c.interrupted(c.manifest(name, label), "apply", "-f", "-")
	switch {
	case p == nil:
		c.model[name] = &chaosPod{labels: []string{label}, may: !acknowledged, fresh: true}
	case acknowledged:
		p.labels = []string{label}
	default:
		p.labels = append(p.labels, label)
	}
}

func (c *chaos) delete(name string) {
	if c.interrupted("", "delete", "pod", name, "--now") {
		delete(c.model, name)
	} else {
		c.model[name].may = true
	}
}

// killContainers kills containers of a pod at once: one event. With unseen there
// is no node at the time.
func (c *chaos) killContainers(name string, unseen bool, containers ...string) {
	p := c.e.pod(name)
	var pids []int
	for _, container := range containers {
		pids = append(pids, c.e.initPID(ids(p)[container]))
	}
	c.did("kill %v of %s, the node first: %t", containers, name, unseen)
	if unseen {
		c.e.kill9(c.node(0))
	}
	for i, pid := range pids {
		err := unix.Kill(pid, unix.SIGKILL)
		if err == unix.ESRCH && i > 0 {
			continue // the node has seen the first one's end, and was quicker
		}
		if err != nil {
			c.e.t.Fatalf("kill %v of pod %s: %v", containers, name, err)
		}
	}
	c.model[name].events++
	c.model[name].killed = true
}

// killPause kills the pause process of a pod, which ends its containers too:
// one event.
func (c *chaos) killPause(name string) {
	c.did("kill the sandbox of %s", name)
	for p := range c.e.session() {
		s, ok := readStat(p.pid)
		if args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid)); ok && strings.TrimRight(string(args), "\x00") == "podrun-pause\x00default/"+name {
			c.e.kill9(s.pid)
			c.model[name].events++
			c.model[name].killed = true
			return
		}
	}
	c.e.t.Fatalf("no pause process of pod %s", name)
}

func (c *chaos) killNode() {
	c.did("kill the node")
	old := c.node(0)
	c.e.kill9(old)
	c.node(old)
}

// node is the pid of the node, when there is one and it is not old.
func (c *chaos) node(old int) (pid int) {
	c.e.t.Helper()
	c.e.eventually("a node", func() string {
		if pid = c.e.nodePID(); pid == 0 || pid == old {
			return "none"
		}
		return ""
	})
	return pid
}

// containerDir is a directory of a container, among its mounts.
var containerDir = regexp.MustCompile(`/containers/([0-9a-f]{64})`)

// checkProcesses compares the processes with the model: each container has one
// first process, and each pod's network has the address that the pod shows.
func (c *chaos) checkProcesses() {
	inits := map[string]int{}
	for p := range c.e.session() {
		mounts, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", p.pid))
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); f[0] != "NSpid:" || len(f) < 3 || f[len(f)-1] != "1" {
				continue
			}
			of := map[string]bool{}
			for _, m := range containerDir.FindAllStringSubmatch(string(mounts), -1) {
				of[m[1]] = true
			}
			for id := range of {
				inits[id]++
			}
		}
	}
	for name := range c.model {
		p := c.e.pod(name)
		for container, id := range ids(p) {
			if inits[id] != 1 {
				c.e.t.Errorf("pod %s: container %s has %d first processes", name, container, inits[id])
			}
			delete(inits, id)
		}
		if got := c.e.ok("exec", name, "-c", "a", "--", "ip", "-4", "-o", "addr", "show", "eth0"); !strings.Contains(got, " "+p.Status.PodIP+"/") {
			c.e.t.Errorf("pod %s shows address %s and has %s", name, p.Status.PodIP, got)
		}
	}
	for id, n := range inits {
		c.e.t.Errorf("%d first processes of container %s, which no pod has", n, id)
	}
}
