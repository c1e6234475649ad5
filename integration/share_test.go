package integration

import (
	"os"
	"strings"
	"testing"

	"get.podrun.dev/podrun/internal/need"
)

// TestSharedAndSeparate: what the containers of one pod share, and two pods do
// not.
func TestSharedAndSeparate(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	server := "server=mkdir /www; echo hello from $(hostname) >/www/index.html; exec httpd -f -p 127.0.0.1:8080 -h /www"
	e.start(podYAML("a", "", server, "client=exec sleep 3600"), "a")
	e.start(podYAML("b", "", "open=mkdir /www; echo hello from b >/www/index.html; exec httpd -f -p 8080 -h /www", "client=exec sleep 3600"), "b")
	a, b := e.pod("a"), e.pod("b")
	sh := func(pod, container, script string) result {
		t.Helper()
		return e.run("exec", pod, "-c", container, "--", "sh", "-c", script)
	}

	// Hostname and localhost are the pod's.
	same(t, sh("a", "client", "hostname").out, "a\n")
	same(t, sh("a", "server", "hostname").out, "a\n")
	e.eventually("server of a", func() string {
		if r := sh("a", "client", "wget -q -O - http://localhost:8080/"); r.out != "hello from a\n" {
			return r.String()
		}
		return ""
	})
	same(t, sh("b", "client", "wget -q -O - http://localhost:8080/").out, "hello from b\n")

	// Pods reach each other by address, and not each other's localhost.
	same(t, sh("a", "client", "wget -q -O - http://"+b.Status.PodIP+":8080/").out, "hello from b\n")
	if r := sh("b", "client", "timeout 3 wget -q -O - http://"+a.Status.PodIP+":8080/"); r.code == 0 {
		t.Errorf("b reaches the localhost of a: %v", r)
	}

	// IPC: System V memory and /dev/shm.
	for _, kind := range []string{"ipc", "net", "uts"} {
		one := e.namespace(e.initPID(ids(a)["server"]), kind)
		other := e.namespace(e.initPID(ids(a)["client"]), kind)
		elsewhere := e.namespace(e.initPID(ids(b)["client"]), kind)
		if one != other || one == elsewhere {
			t.Errorf("%s: in one pod %s and %s, in the other %s", kind, one, other, elsewhere)
		}
	}
	if r := sh("a", "server", "echo shared >/dev/shm/x"); r.code != 0 {
		t.Error(r)
	}
	same(t, sh("a", "client", "cat /dev/shm/x").out, "shared\n")
	if r := sh("b", "client", "cat /dev/shm/x"); r.code == 0 {
		t.Errorf("b sees the shared memory of a: %v", r)
	}

	// Processes and files are the container's.
	for _, tt := range [][2]string{{"a", "client"}, {"b", "open"}} {
		if r := sh(tt[0], tt[1], "ps"); strings.Contains(r.out, "127.0.0.1:8080") {
			t.Errorf("%v sees processes of others: %v", tt, r)
		}
	}
	if r := sh("a", "client", "ls /www"); r.code == 0 {
		t.Errorf("containers share their files: %v", r)
	}
}

// TestFilesOfKubernetes: /etc/hosts, /etc/hostname and /etc/resolv.conf as
// Kubernetes makes them.
func TestFilesOfKubernetes(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(podYAML("files", "hostAliases: [{ip: 10.1.2.3, hostnames: [foo.local, bar.local]}]", "c=exec sleep 3600"), "files")
	p := e.pod("files")
	hosts := e.ok("exec", "files", "--", "cat", "/etc/hosts")
	mustContain(t, hosts, "127.0.0.1\tlocalhost", p.Status.PodIP+"\tfiles", "10.1.2.3\tfoo.local\tbar.local")
	same(t, e.ok("exec", "files", "--", "cat", "/etc/hostname"), "files\n")
	mustContain(t, e.ok("exec", "files", "--", "cat", "/etc/resolv.conf"), "nameserver ")
	mustContain(t, e.ok("exec", "files", "--", "cat", "/proc/mounts"), "/dev/shm", "/sys", "/dev/pts")
}

// TestContainerIsConfined looks at what the kernel says of a container's
// process.
func TestContainerIsConfined(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(podYAML("confined", "", "c=exec sleep 3600"), "confined")
	status := e.ok("exec", "confined", "--", "cat", "/proc/1/status")
	// Docker's and containerd's 14 capabilities.
	mustContain(t, status, "Seccomp:\t2\n", "CapEff:\t00000000a80425fb\n", "CapBnd:\t00000000a80425fb\n")
	if r := e.run("exec", "confined", "--", "mount", "-t", "tmpfs", "none", "/tmp"); r.code == 0 {
		t.Errorf("a container may mount: %v", r)
	}
	if r := e.run("exec", "confined", "--", "sh", "-c", "echo 1 >/proc/sys/kernel/panic"); r.code == 0 {
		t.Errorf("a container may write /proc/sys: %v", r)
	}
	if out := e.run("exec", "confined", "--", "cat", "/proc/kcore").out; out != "" {
		t.Errorf("/proc/kcore is not masked")
	}
	// Nothing of the node is in the environment or open.
	environ := e.ok("exec", "confined", "--", "env")
	if strings.Contains(environ, "PODRUN") || strings.Contains(environ, e.home) {
		t.Errorf("the node's environment is in the container: %s", environ)
	}
	same(t, e.ok("exec", "confined", "--", "sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '"), "sleep 3600 ")
	if fds := strings.Fields(e.ok("exec", "confined", "--", "ls", "/proc/1/fd")); len(fds) != 3 {
		t.Errorf("got descriptors %v, want 0, 1 and 2", fds)
	}
}

// TestUplink: a pod reaches a server of the host, by its name for pods, and
// resolves names.
func TestUplink(t *testing.T) {
	t.Parallel()
	need.Tun(t)
	e := newEnv(t)
	e.start(podYAML("out", "", "c=exec sleep 3600"), "out")
	_, port, _ := strings.Cut(images.Address, ":")
	r := e.run("exec", "out", "--", "wget", "-q", "-O", "-", "http://host.podrun.internal:"+port+"/v2/")
	if r.code != 0 || r.out != "{}" {
		t.Errorf("%v", r)
	}
	// Nobody listens there: an answer, not a silence.
	r = e.run("exec", "out", "--", "timeout", "20", "wget", "-q", "-O", "-", "http://host.podrun.internal:1/")
	if r.code == 0 || !strings.Contains(r.err, "refused") {
		t.Errorf("%v", r)
	}
}

// TestOrdinaryUser makes sure that the rig runs what it says it does.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(podYAML("who", "", "c=exec sleep 3600"), "who")
	user := e.namespace(e.initPID(ids(e.pod("who"))["c"]), "user")
	own, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	if root := os.Geteuid() == 0; root != (user == own) {
		t.Errorf("as user %d: the container's user namespace is %s, ours %s", os.Geteuid(), user, own)
	}
}
