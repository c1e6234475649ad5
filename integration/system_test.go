package integration

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// keeper is the main process of podrun.service, with a service manager that only
// listens.
type keeper struct {
	e       *env
	notices *net.UnixConn
	pid     int
	ended   chan int // its exit code
	errs    *strings.Builder
}

// keep starts the keeper as systemd would.
func (e *env) keep() *keeper {
	e.t.Helper()
	path := filepath.Join(e.dir, "notify")
	_ = os.Remove(path) // an earlier keeper's
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		e.t.Fatal(err)
	}
	k := &keeper{e: e, notices: conn, ended: make(chan int, 1), errs: new(strings.Builder)}
	command := e.command("system", "service")
	command.Env = append(command.Env, "NOTIFY_SOCKET="+path)
	command.Stderr = k.errs
	if err := command.Start(); err != nil {
		e.t.Fatal(err)
	}
	k.pid = command.Process.Pid
	go func() {
		_ = command.Wait()
		k.ended <- command.ProcessState.ExitCode()
	}()
	e.t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = conn.Close()
		_ = os.Remove(path)
	})
	return k
}

// hears waits for a message that has want in it.
func (k *keeper) hears(want string) {
	k.e.t.Helper()
	if err := k.notices.SetReadDeadline(time.Now().Add(patience)); err != nil {
		k.e.t.Fatal(err)
	}
	b := make([]byte, 4096)
	for {
		n, err := k.notices.Read(b)
		if err != nil {
			k.e.t.Fatalf("no message with %q: %v", want, err)
		}
		if strings.Contains(string(b[:n]), want) {
			return
		}
	}
}

// ends waits for the keeper's exit, with code.
func (k *keeper) ends(code int) {
	k.e.t.Helper()
	select {
	case got := <-k.ended:
		if got != code {
			k.e.t.Fatalf("keeper: got exit code %d, want %d: %s", got, code, k.errs)
		}
	case <-time.After(patience):
		k.e.t.Fatal("the keeper does not end")
	}
}

// noNode fails unless there is neither a node nor a reaper.
func (e *env) noNode() {
	e.t.Helper()
	if pid := e.nodePID(); pid != 0 {
		e.t.Errorf("node %d is there", pid)
	}
	for p, what := range e.session() {
		if s, ok := readStat(p.pid); ok && s.name == "podrun-reaper" {
			e.t.Errorf("left: %s", what)
		}
	}
}

// TestService: the unit's main process starts a node that stays without pods,
// says when it serves, and ends it when it is told; the pods go on.
func TestService(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "PODRUN_NODE_IDLE=100ms")
	k := e.keep()
	k.hears("READY=1")
	node := e.nodePID()
	time.Sleep(time.Second) // many times as long as it takes a node to leave
	if got := e.nodePID(); got != node || node == 0 {
		t.Errorf("got node %d after a while, was %d", got, node)
	}
	e.start(waiting("group", ""), "group")
	pids := e.initPIDs(e.pod("group"))

	// The reaper starts a killed node again, and the keeper keeps that one.
	e.killNode()
	k.hears("READY=1")

	if err := unix.Kill(k.pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	k.hears("STOPPING=1")
	k.ends(0)
	e.noNode()
	samePids(t, pids, e.initPIDs(e.restarted("group", 0)))

	// Without a keeper the node leaves when it is idle, as ever.
	node = e.nodePID()
	e.ok("delete", "pod", "group", "--now")
	e.eventually("end of the idle node", func() string {
		if s, ok := readStat(node); ok && s.state != "Z" {
			return "there"
		}
		return ""
	})
}

// TestServiceAdopts: the keeper takes the node that a command has started, and
// its pods as they are; its own death ends neither.
func TestServiceAdopts(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(waiting("group", ""), "group")
	pids, node := e.initPIDs(e.pod("group")), e.nodePID()
	first := e.keep()
	first.hears("READY=1")
	e.kill9(first.pid)
	second := e.keep()
	second.hears("READY=1")
	if got := e.nodePID(); got != node {
		t.Errorf("got node %d, was %d", got, node)
	}
	samePids(t, pids, e.initPIDs(e.restarted("group", 0)))

	// A stop by hand is no failure, after which systemd would start it again.
	mustContain(t, e.ok("system", "stop"), "node stopped; 2 containers go on without it")
	second.ends(0)
	e.noNode()
	mustContain(t, e.ok("system", "stop"), "no node is running")
	samePids(t, pids, e.initPIDs(e.restarted("group", 0)))
}

// TestServiceReaperKilled: the death of the reaper, which takes the node along,
// is a failure of the service; the keeper that follows takes the pods up.
func TestServiceReaperKilled(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	first := e.keep()
	first.hears("READY=1")
	e.start(waiting("group", ""), "group")
	pids := e.initPIDs(e.pod("group"))
	e.kill9IfThere(e.reaperPID())
	first.ends(1)
	mustContain(t, first.errs.String(), "podrun: cannot keep a node running: the node and its reaper died; its pods go on")
	second := e.keep()
	second.hears("READY=1")
	samePids(t, pids, e.initPIDs(e.restarted("group", 0)))
	if err := unix.Kill(second.pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	second.ends(0)
}

// TestServiceCannotStart: the service manager gets no READY, and the log the
// node's own words.
func TestServiceCannotStart(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	if err := os.MkdirAll(filepath.Join(e.home, ".config/podrun"), 0o700); err != nil {
		t.Fatal(err)
	}
	settings := e.write(".config/podrun/network.toml", "nonsense = 1\n")
	k := e.keep()
	k.ends(1)
	mustContain(t, k.errs.String(), "podrun: cannot keep a node running: cannot start the node: ", "nonsense")
	if err := os.Remove(filepath.Join(e.home, settings)); err != nil {
		t.Fatal(err)
	}
}

// TestEnable writes the unit and has systemctl, which here only writes down what it
// is told, start it; twice is as good as once. disable leaves nothing.
func TestEnable(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	if os.Geteuid() == 0 {
		// Root's unit would be the machine's, which tests leave alone; the
		// virtual machine's tests enable it.
		mustContain(t, e.fails(1, "system", "enable"), "podrun: cannot enable podrun.service: this machine does not run systemd; without it have")
		return
	}
	mustContain(t, e.fails(1, "system", "enable"), "podrun: cannot enable podrun.service: ")
	unit := filepath.Join(e.home, ".config/systemd/user/podrun.service")
	if _, err := os.Stat(unit); err == nil {
		t.Error("a unit was written without a systemd")
	}

	runtime := filepath.Join(e.dir, "r")
	bin := filepath.Join(e.home, "bin")
	calls := filepath.Join(e.home, "calls")
	script := "#!/bin/sh\necho \"$XDG_RUNTIME_DIR $*\" >>" + calls + "\n[ ! -e " + e.home + "/broken ] || { echo 'Failed to' >&2; echo 'do it.' >&2; exit 1; }\n"
	for _, err := range []error{
		os.MkdirAll(filepath.Join(runtime, "systemd"), 0o700), os.WriteFile(filepath.Join(runtime, "systemd/private"), nil, 0o600),
		os.Mkdir(bin, 0o700), os.WriteFile(filepath.Join(bin, "systemctl"), []byte(script), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	defer os.RemoveAll(runtime)
	e.vars["XDG_RUNTIME_DIR"] = runtime
	e.vars["PATH"] = bin + ":" + filepath.Dir(podrunBinary) + ":/usr/bin:/bin:/usr/sbin:/sbin"
	told := func(want ...string) {
		t.Helper()
		var all string
		for _, w := range want {
			all += runtime + " --user " + w + "\n"
		}
		got, _ := os.ReadFile(calls)
		same(t, string(got), all)
		_ = os.Remove(calls)
	}
	for range 2 {
		r := e.run("system", "enable", "--now")
		if r.code != 0 || r.out != "podrun.service enabled and started ("+unit+")\n" {
			t.Fatalf("got %v", r)
		}
		mustContain(t, r.err, "run: sudo loginctl enable-linger ")
		told("daemon-reload", "enable podrun.service", "start podrun.service")
	}
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, string(text), "\nType=notify\n", "\nDelegate=yes\n", "\nExecStart=\""+podrunBinary+"\" system service\n",
		"\nEnvironment=\"PODRUN_DATA="+e.data+"\"\n", "\nEnvironment=\"PODRUN_STATE="+e.state+"\"\n")
	if st, err := os.Stat(unit); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}

	e.write("broken", "")
	mustContain(t, e.fails(1, "system", "enable"), "podrun: cannot enable podrun.service: systemctl --user daemon-reload: Failed to do it.\n")
	_ = os.Remove(filepath.Join(e.home, "broken"))
	_ = os.Remove(calls)

	mustContain(t, e.ok("system", "disable", "--now"), "podrun.service disabled, "+unit+" removed")
	told("disable --now podrun.service", "daemon-reload")
	if _, err := os.Stat(unit); err == nil {
		t.Error("the unit is still there")
	}
	same(t, e.ok("system", "disable"), "podrun.service is not there\n")
	told()

	// Somebody else's unit stays as it is.
	e.write(".config/systemd/user/podrun.service", "[Service]\n")
	for _, verb := range []string{"enable", "disable"} {
		mustContain(t, e.fails(1, "system", verb), unit+" was not written by podrun; move it away")
	}
	told()
}

// move gives the directories of e, which has run nothing yet, another name.
func (e *env) move(dir string) {
	e.t.Helper()
	if err := os.Rename(e.dir, dir); err != nil {
		e.t.Fatal(err)
	}
	for _, path := range []*string{&e.home, &e.state, &e.data} {
		*path = filepath.Join(dir, filepath.Base(*path))
	}
	e.dir = dir
}

// TestSystemReset removes everything, pods that run included, and only what is
// podrun's; also when the node cannot start for its store.
func TestSystemReset(t *testing.T) {
	t.Parallel()
	for _, broken := range []bool{false, true} {
		t.Run(map[bool]string{false: "whole", true: "broken"}[broken], func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.move(e.dir + "[mine") // which is no pattern
			host := filepath.Join(e.home, "host")
			if err := os.Mkdir(host, 0o755); err != nil {
				t.Fatal(err)
			}
			e.write("host/file", "mine")
			e.start(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  volumes:
  - {name: host, hostPath: {path: "`+host+`"}}
  - {name: claim, persistentVolumeClaim: {claimName: claim}}
  - {name: memory, emptyDir: {medium: Memory}}
  containers:
  - name: c
    image: busybox
    command: [sh, -c, echo data >/claim/file; exec sleep 3600]
    volumeMounts:
    - {name: host, mountPath: /host}
    - {name: host, mountPath: /sub, subPath: .}
    - {name: claim, mountPath: /claim}
    - {name: memory, mountPath: /memory, mountPropagation: HostToContainer}
`, "p")
			for _, name := range []string{"own", "store.db.new-1"} { // the second by a crash
				if err := os.WriteFile(filepath.Join(e.data, name), []byte("mine"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			// Without an answer nothing is done.
			e.stdin = "n\n"
			mustContain(t, e.ok("system", "reset"), "WARNING! This will remove, at once and for good:", "Are you sure you want to continue? [y/N]")
			e.ok("exec", "p", "--", "true")
			if broken {
				e.ok("system", "stop")
				if err := os.WriteFile(filepath.Join(e.data, "store.db"), []byte("no database"), 0o600); err != nil {
					t.Fatal(err)
				}
				mustContain(t, e.fails(1, "get", "pods"), "cannot open store")
			}
			e.remember()
			same(t, e.ok("system", "reset", "--force"), "all that podrun kept is removed\n")
			entries, err := os.ReadDir(e.data)
			if err != nil || len(entries) != 1 || entries[0].Name() != "own" {
				t.Errorf("got %v, %v; want the file alone that is not podrun's", entries, err)
			}
			if text, err := os.ReadFile(filepath.Join(host, "file")); err != nil || string(text) != "mine" {
				t.Errorf("a file of the host: %q, %v", text, err)
			}
			if err := os.Remove(filepath.Join(e.data, "own")); err != nil {
				t.Fatal(err)
			}
			e.checkGone()
			// As before the first use, and as often as one likes.
			e.ok("system", "reset", "-f")
			mustContain(t, e.run("get", "pods").err, "No resources found")
			e.start(podYAML("again", "", "c=exec sleep 3600"), "again")
		})
	}
}

// TestSystemPrune removes what is finished and what nothing uses, as far as it is
// told, and says how much that was.
func TestSystemPrune(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: unused}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: done}
spec:
  restartPolicy: Never
  volumes: [{name: v, persistentVolumeClaim: {claimName: unused}}]
  containers:
  - {name: c, image: busybox, command: [sh, -c, head -c 3000000 /dev/zero >/v/file], volumeMounts: [{name: v, mountPath: /v}]}
---
`+podYAML("runs", "", "c=exec sleep 3600"), "runs")
	e.when("done", "completed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	e.stdin = "no\n"
	mustContain(t, e.ok("system", "prune"), "WARNING! This will remove:\n  - all finished pods\n  - all dangling images\n")
	if !e.exists("done") {
		t.Error("it was removed without a yes")
	}
	e.stdin = "y\n"
	out := e.ok("system", "prune")
	mustContain(t, out, "Deleted Pods:\ndefault/done\n", "Total reclaimed space: ")
	if e.exists("done") || !e.exists("runs") {
		t.Errorf("pods: %s", e.ok("get", "pods"))
	}
	mustContain(t, e.ok("get", "pvc"), "unused")
	mustContain(t, e.ok("system", "prune", "-a", "-f", "--volumes"), "Deleted Volumes:\ndefault/unused\n", "Total reclaimed space: 3MB\n")
	mustContain(t, e.run("get", "pvc").err, "No resources found")
	e.ok("exec", "runs", "--", "true")
	same(t, e.ok("system", "prune", "-f"), "Total reclaimed space: 0B\n")
}

// TestSystemInfo: what it shows is so.
func TestSystemInfo(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(waiting("group", ""), "group")
	text := e.ok("system", "info")
	mustContain(t, text, "\nPods: 1\n", "\n Running: 1\n", "\nContainers: 2\n Running: 2\n", "\nImages: 1\n", "\nStorage Driver: overlay\n",
		"\n Data Dir: "+e.data+"\n", "\nState Dir: "+e.state+"\n", "\nRootless: "+map[bool]string{true: "false", false: "true"}[os.Geteuid() == 0]+"\n")
	var info struct {
		Version struct{ PID int }
		Host    struct{ KernelVersion string }
		Cgroup  struct {
			Version int
			Limits  bool
			Problem string
		}
		Network struct{ Networks []string }
		Counts  struct{ Phases map[string]int }
	}
	if err := json.Unmarshal([]byte(e.ok("system", "info", "-o", "json")), &info); err != nil {
		t.Fatal(err)
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	if info.Version.PID != e.nodePID() || info.Host.KernelVersion+"\n" != string(kernel) || info.Counts.Phases["Running"] != 1 || len(info.Network.Networks) == 0 {
		t.Errorf("got %+v", info)
	}
	if info.Cgroup.Version == 0 || info.Cgroup.Limits == (info.Cgroup.Problem != "") {
		t.Errorf("got %+v", info.Cgroup)
	}
	mustContain(t, e.ok("system", "info", "-o", "yaml"), "\n  stateDir: "+e.state+"\n")
	same(t, e.ok("system", "info", "--format", "{{.host.kernelVersion}}"), string(kernel))

	// df in docker's formats.
	var df struct {
		Images     []struct{ Repository, Containers string }
		Containers []struct{ Pod, Names string }
		Volumes    []any
	}
	if err := json.Unmarshal([]byte(e.ok("system", "df", "-v", "--format", "json")), &df); err != nil {
		t.Fatal(err)
	}
	if len(df.Images) != 1 || df.Images[0].Repository != "busybox" || len(df.Containers) != 2 || df.Containers[0].Pod != "default/group" || df.Volumes == nil {
		t.Errorf("got %+v", df)
	}
	same(t, e.ok("system", "df", "-v", "--format", "{{len .Containers}}"), "2\n")
	mustContain(t, e.ok("system", "df", "-v"), "Images space usage:\n\nREPOSITORY", "\nVOLUME NAME ")
}
