package integration

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
