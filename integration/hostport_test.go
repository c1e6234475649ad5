package integration

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/user"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// freePort is a port that nobody listens on, TCP or UDP, and that no outgoing
// connection gets by chance.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 20000 + rand.IntN(10000)
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		p, err := net.ListenPacket("udp", ":"+strconv.Itoa(port))
		_ = l.Close()
		if err != nil {
			continue
		}
		_ = p.Close()
		return port
	}
	t.Fatal("no free port")
	return 0
}

// peerPod has a server that says who asks, at a port of the host over TCP and
// UDP.
func peerPod(name string, port int, more string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: peer
    image: app
    command: [app, peer, -port, "80"]
    ports: [{name: peer, containerPort: 80, hostPort: %[2]d%[3]s}, {containerPort: 80, hostPort: %[2]d, protocol: UDP%[3]s}]
  - {name: other, image: busybox, command: [sleep, "3600"]}
`, name, port, more)
}

// seenAs asks a peer at an address who we are, and who we think we are.
func seenAs(network, address string) (seen, own string, err error) {
	c, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if strings.HasPrefix(network, "udp") {
		if _, err := c.Write([]byte("hello")); err != nil {
			return "", "", err
		}
	}
	seen, err = bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(seen), c.LocalAddr().String(), err
}

// asked waits until a peer answers at an address.
func (e *env) asked(network, address string) (seen, own string) {
	e.t.Helper()
	e.eventually("answer of "+address, func() string {
		var err error
		if seen, own, err = seenAs(network, address); err != nil {
			return err.Error()
		}
		return ""
	})
	return seen, own
}

// ownAddress is an address of this machine that is not its loopback.
func ownAddress() string {
	addresses, _ := net.InterfaceAddrs()
	for _, a := range addresses {
		if ip := a.(*net.IPNet).IP; ip.To4() != nil && ip.IsGlobalUnicast() {
			return ip.String()
		}
	}
	return ""
}

// TestHostPorts: ports of the host lead into the pod, which sees who comes, and
// go on doing so when the pod is restarted or the node killed.
func TestHostPorts(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	port := freePort(t)
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	e.start(peerPod("web", port, ""), "web")

	t.Run("clients", func(t *testing.T) {
		for _, network := range []string{"tcp4", "udp4"} {
			// The host's loopback would be the pod's own in there.
			seen, own := e.asked(network, at)
			if host, p, _ := net.SplitHostPort(seen); strings.HasPrefix(host, "127.") || !strings.HasSuffix(own, ":"+p) {
				t.Errorf("%s: the pod sees %s, we are %s", network, seen, own)
			}
			if ip := ownAddress(); ip != "" {
				seen, own := e.asked(network, net.JoinHostPort(ip, strconv.Itoa(port)))
				same(t, seen, own)
			}
		}
	})
	t.Run("shown", func(t *testing.T) {
		mustContain(t, e.ok("describe", "pod", "web"), fmt.Sprintf("Host Ports:    %d/TCP, %d/UDP\n", port, port))
		same(t, e.ok("port", "web"), fmt.Sprintf("80/tcp -> 0.0.0.0:%d\n80/tcp -> [::]:%d\n80/udp -> 0.0.0.0:%d\n80/udp -> [::]:%d\n", port, port, port, port))
		same(t, e.ok("port", "web", "80/udp"), fmt.Sprintf("0.0.0.0:%d\n[::]:%d\n", port, port))
		same(t, e.fails(1, "port", "web", "81"), "podrun: no host port leads to port 81/tcp of pod \"web\"; for a while \"podrun port-forward web 81\" does\n")
		same(t, e.fails(1, "port", "web", "81/udp"), "podrun: no host port leads to port 81/udp of pod \"web\"; \"podrun port web\" lists those that there are\n")
		if out := e.fails(2, "port", "web", "80/foo"); !strings.Contains(out, `invalid port "80/foo"`) {
			t.Errorf("got %q", out)
		}
	})
	t.Run("restart of the group", func(t *testing.T) {
		e.ok("stop", "-t", "0", "web/other")
		e.restarted("web", 1)
		e.asked("tcp4", at)
		e.asked("udp4", at)
	})
	t.Run("while there is no node", func(t *testing.T) {
		for range 3 {
			e.kill9(e.nodePID())
			// It waits for the next node instead of being refused.
			if _, _, err := seenAs("tcp4", at); err != nil {
				t.Errorf("a client between two nodes: %v", err)
			}
		}
		e.asked("udp4", at)
		e.restarted("web", 1)
	})
	t.Run("a new sandbox", func(t *testing.T) {
		e.killPause("web")
		e.restarted("web", 2)
		e.asked("tcp4", at)
		e.asked("udp4", at)
	})
	t.Run("the end of the pod", func(t *testing.T) {
		e.ok("delete", "pod", "web", "--now")
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			t.Fatalf("the port was not given back: %v", err)
		}
		_ = l.Close()
	})
}

// killPause kills the first process of the one pod that e has.
func (e *env) killPause(name string) {
	e.t.Helper()
	before := e.pod(name)
	for p := range e.session() {
		if args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid)); strings.HasPrefix(string(args), "podrun-pause") {
			e.kill9(p.pid)
		}
	}
	e.when(name, "made again", func(p *corev1.Pod) bool {
		return isReady(p) && p.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID
	})
}

// TestHostPortTaken: a pod that asks for a port which somebody has waits for it,
// and says for whom.
func TestHostPortTaken(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	waits := func(name, message string) {
		t.Helper()
		p := e.when(name, "waiting", func(p *corev1.Pod) bool {
			c := conditionOf(t, p, corev1.PodScheduled)
			return c.Status == corev1.ConditionFalse && c.Reason == "Unschedulable" && c.Message == "0/1 nodes are available: "+message
		})
		if p.Status.Phase != corev1.PodPending {
			t.Errorf("got phase %s", p.Status.Phase)
		}
		e.eventually("event", func() string {
			if out := e.ok("describe", "pod", name); !strings.Contains(out, "FailedScheduling") || !strings.Contains(out, message) {
				return out
			}
			return ""
		})
		if f := strings.Fields(row(e.ok("get", "pods"), name)); len(f) < 3 || f[2] != "Pending" {
			t.Errorf("got %q, want Pending", f)
		}
	}
	t.Run("by a pod", func(t *testing.T) {
		port := freePort(t)
		e.start(peerPod("first", port, ""), "first")
		e.apply(peerPod("second", port, ", hostIP: 127.0.0.1"))
		message := fmt.Sprintf("host port 127.0.0.1:%d/TCP is held by pod default/first.", port)
		waits("second", message)
		same(t, e.fails(1, "port", "second"), "podrun: pod \"second\" waits for its host ports; \"podrun describe pod second\" says more\n")
		e.killNode()
		waits("second", message)
		e.asked("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		e.ok("delete", "pod", "first", "--now")
		gone := time.Now()
		e.ready("second")
		if took := time.Since(gone); took > 4*time.Second {
			t.Errorf("the second pod took %v", took) // it was told, and did not wait
		}
		e.asked("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		e.ok("delete", "pod", "second", "--now")
	})
	t.Run("by a program", func(t *testing.T) {
		port := freePort(t)
		l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		comm, _ := os.ReadFile("/proc/self/comm")
		holder := fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(comm)), os.Getpid())
		if me, err := user.Current(); os.Getuid() != 0 && err == nil {
			holder = "a program of user " + me.Username // it is outside of the node's user namespace
		}
		e.apply(peerPod("web", port, ""))
		waits("web", fmt.Sprintf("host port %d/TCP is in use by %s; \"ss -lntup\" lists who has which; it is tried again until it is free.", port, holder))
		_ = l.Close()
		e.ready("web")
		e.asked("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		e.ok("delete", "pod", "web", "--now")
	})
	t.Run("by root", func(t *testing.T) {
		first, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
		if err != nil {
			t.Fatal(err)
		}
		port := 0
		for port = 200 + rand.IntN(800); ; port++ {
			if c, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err != nil {
				break
			} else {
				_ = c.Close()
			}
		}
		e.apply(peerPod("low", port, ""))
		if n, _ := strconv.Atoi(strings.TrimSpace(string(first))); os.Getuid() != 0 && port < n {
			waits("low", fmt.Sprintf(`host port %d/TCP: permission denied: ports below %d are root's; "sysctl net.ipv4.ip_unprivileged_port_start=%d", as root, lets everybody have it.`, port, n, port))
		} else {
			e.ready("low")
			e.asked("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		}
		e.ok("delete", "pod", "low", "--now")
	})
}

// TestHostPortHostNetwork: in the host's network the host port is the port
// itself, and it is the pod's as well.
func TestHostPortHostNetwork(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	port := freePort(t)
	manifest := func(name, ports string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 0\n"+
			"  containers:\n  - {name: peer, image: app, command: [app, peer, -port, \"%d\"], ports: [%s]}\n", name, port, ports)
	}
	e.stdin = manifest("wrong", fmt.Sprintf("{containerPort: %d, hostPort: 80}", port))
	mustContain(t, e.fails(1, "apply", "-f", "-"), "must match `containerPort` when `hostNetwork` is true")
	e.start(strings.Replace(manifest("web", fmt.Sprintf("{containerPort: %d}", port)), "name: web", "name: web, annotations: {podrun.dev/ips: 10.88.0.9/16}", 1), "web")
	mustContain(t, e.ok("describe", "pod", "web"), "what the pod asks for has no effect: no plugin with the capability ips makes the host's network")
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	seen, own := e.asked("tcp4", at)
	same(t, seen, own)
	e.apply(peerPod("second", port, ""))
	e.when("second", "waiting", func(p *corev1.Pod) bool {
		c := conditionOf(t, p, corev1.PodScheduled)
		return strings.Contains(c.Message, "is held by pod default/web")
	})
	e.ok("delete", "pod", "web", "--now")
	e.ready("second")
	e.asked("tcp4", at)
}

// TestHostPortUserNamespace: a pod with users of its own is reached too.
func TestHostPortUserNamespace(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.openUp()
	port := freePort(t)
	e.start(strings.Replace(peerPod("web", port, ""), "spec:\n", "spec:\n  hostUsers: false\n", 1), "web")
	for _, network := range []string{"tcp4", "udp4"} {
		seen, _ := e.asked(network, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if strings.HasPrefix(seen, "127.") {
			t.Errorf("%s: the pod sees %s", network, seen)
		}
	}
}

func TestHostPortRefusals(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, tt := range []struct{ ports, want string }{
		{"{containerPort: 80, hostPort: 8080, protocol: SCTP}", "spec.containers[0].ports[0].hostPort: Forbidden: podrun forwards TCP and UDP, not SCTP, from the host"},
		{"{containerPort: 80, hostPort: 8080, hostIP: localhost}", "spec.containers[0].ports[0].hostIP: Forbidden: must be an IP address"},
		{"{containerPort: 80, hostPort: 70000}", "must be between 1 and 65535, inclusive"},
		{"{containerPort: 80, hostPort: 8080}, {containerPort: 81, hostPort: 8080}", "Duplicate value"},
	} {
		e.stdin = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: c, image: app, ports: [" + tt.ports + "]}\n"
		mustContain(t, e.fails(1, "apply", "-f", "-"), tt.want)
	}
}
