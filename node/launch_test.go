package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/internal/linux"
)

// instance is a node with directories of its own.
type instance struct {
	t testing.TB
	p Paths
}

// newInstance makes the directories' names known and, when the test ends,
// ends the node and proves that no process is left that knows them.
func newInstance(t testing.TB) *instance {
	t.Helper()
	dir, err := os.MkdirTemp("", "podrun-")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(stateVariable, filepath.Join(dir, "state"))
	t.Setenv(dataVariable, filepath.Join(dir, "data"))
	p, err := LocatePaths()
	if err != nil {
		t.Fatal(err)
	}
	in := &instance{t, p}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(p.Log)
			t.Logf("node.log:\n%s", log)
		}
		for _, pid := range in.processes() {
			if t.Failed() || isReaper(pid) {
				_ = unix.Kill(pid, unix.SIGTERM)
			}
		}
		in.eventually("no process is left", func() error {
			if left := in.processes(); len(left) > 0 {
				return fmt.Errorf("processes %v", left)
			}
			return nil
		})
		for _, pid := range in.processes() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return in
}

// processes are those that have the state directory in their environment or
// arguments.
func (in *instance) processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		in.t.Fatal(err)
	}
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, _ := os.ReadFile("/proc/" + e.Name() + "/environ")
		args, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if bytes.Contains(append(env, args...), []byte(in.p.State)) {
			found = append(found, pid)
		}
	}
	return found
}

func isReaper(pid int) bool {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return bytes.HasPrefix(b, []byte(reaperName))
}

func (in *instance) launch() {
	in.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := Launch(ctx, in.p); err != nil {
		in.t.Fatalf("Launch: %v; %s", err, hint.Of(err))
	}
}

// ask asks the test node and decodes its answer into v.
func (in *instance) try(v any, path string, files []*os.File, query ...string) error {
	q := url.Values{}
	for i := 0; i < len(query); i += 2 {
		q.Set(query[i], query[i+1])
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			c, err := net.Dial("unix", in.p.Socket)
			if err == nil && len(files) > 0 {
				err = SendFiles(c.(*net.UnixConn), files...)
			}
			return c, err
		},
	}}
	resp, err := client.Get("http://podrun" + path + "?" + q.Encode())
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", path, resp.Status, bytes.TrimSpace(b))
	}
	return json.Unmarshal(b, v)
}

func (in *instance) ask(v any, path string, query ...string) {
	in.t.Helper()
	if err := in.try(v, path, nil, query...); err != nil {
		in.t.Fatal(err)
	}
}

func (in *instance) facts() (f facts) {
	in.t.Helper()
	in.ask(&f, "/facts")
	return f
}

// eventually fails the test when f goes on giving errors.
func (in *instance) eventually(what string, f func() error) {
	in.t.Helper()
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	in.t.Errorf("not so: %s: %v", what, err)
}

// kill kills a process for good and waits until it is gone.
func (in *instance) kill(pid int) {
	in.t.Helper()
	f, err := linux.PidfdOpen(pid)
	if err != nil {
		in.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := linux.PidfdSignal(f, unix.SIGKILL); err != nil {
		in.t.Fatal(err)
	}
	if err := linux.PidfdWait(f); err != nil {
		in.t.Fatal(err)
	}
}

// nextNode waits for a node other than old.
func (in *instance) nextNode(old int) (f facts) {
	in.t.Helper()
	in.eventually("another node answers", func() error {
		err := in.try(&f, "/facts", nil)
		if err == nil && f.PID == old {
			err = errors.New("it is the old one")
		}
		return err
	})
	return f
}

// zombie says whether pid has exited and waits to be reaped.
func zombie(pid int) bool {
	f, err := linux.PidfdOpen(pid)
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	defer func() { _ = f.Close() }()
	exited, err := linux.PidfdExited(f)
	return err == nil && exited
}

func TestLaunch(t *testing.T) {
	t.Setenv("SECRET", "of the caller's shell")
	t.Setenv("LANG", "C.UTF-8")
	in := newInstance(t)
	in.launch()
	f := in.facts()
	if rootless := os.Geteuid() != 0; f.Namespace.Rootless != rootless || f.Namespace.SingleID {
		t.Errorf("namespace %+v, want rootless %v and many IDs", f.Namespace, rootless)
	}
	if own, _ := os.Readlink("/proc/self/ns/mnt"); own == f.Mount {
		t.Error("the node shares our mount namespace")
	}
	env := strings.Join(f.Env, "\n")
	if strings.Contains(env, "SECRET") || strings.Contains(env, nodeVariable+"=") || !strings.Contains(env, "LANG=C.UTF-8") {
		t.Errorf("the node's environment is\n%s", env)
	}
	if st, err := os.Stat(in.p.Socket); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v (%v), want 0600", st.Mode(), err)
	}
	// A second launch finds the first's node.
	in.launch()
	if again := in.facts(); again.PID != f.PID {
		t.Errorf("a second Launch made node %d beside %d", again.PID, f.PID)
	}
	// A node that has nothing to do takes the reaper and the socket along.
	in.ask(new(any), "/leave")
	in.eventually("the reaper ends with a node that leaves", func() error {
		if left := in.processes(); len(left) > 0 {
			return fmt.Errorf("processes %v", left)
		}
		return nil
	})
	if _, err := os.Stat(in.p.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestLaunchAtOnce(t *testing.T) {
	in := newInstance(t)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = Launch(context.Background(), in.p) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if all := in.processes(); len(all) != 2 {
		t.Errorf("processes %v, want a reaper and a node", all)
	}
}

func TestRestart(t *testing.T) {
	in := newInstance(t)
	in.launch()
	first := in.facts()
	var dead, living process
	in.ask(&dead, "/run", "sh", "exit 7")
	in.ask(&living, "/run", "sh", "sleep 0.5; kill -KILL $$")
	in.kill(first.PID)
	second := in.nextNode(first.PID)
	if second.Reaper != first.Reaper || second.User != first.User || second.Mount != first.Mount {
		t.Errorf("the second node is %+v, the first was %+v", second, first)
	}
	if second.Files > first.Files {
		t.Errorf("the second node has %d files, the first had %d", second.Files, first.Files)
	}
	// One was a zombie of the first node, the other ends as an orphan.
	if status := in.status(dead); status.ExitStatus() != 7 {
		t.Errorf("status of the zombie is %#x, want exit code 7", status)
	}
	if status := in.status(living); status.Signal() != unix.SIGKILL {
		t.Errorf("status of the orphan is %#x, want SIGKILL", status)
	}
	// Another process of the same pid is not meant.
	err := in.try(new(any), "/status", nil, "process", fmt.Sprint(dead.PID, dead.Start+1))
	if err == nil {
		t.Error("a process of another start time has a status")
	}
}

// status waits until q is gone and asks the node once: it must know.
func (in *instance) status(q process) (status unix.WaitStatus) {
	in.t.Helper()
	if f, err := linux.PidfdOpen(q.PID); err == nil {
		defer func() { _ = f.Close() }()
		if err := linux.PidfdWait(f); err != nil {
			in.t.Fatal(err)
		}
	}
	in.ask(&status, "/status", "process", fmt.Sprint(q.PID, q.Start))
	return status
}

// BenchmarkLaunch is what the first command pays above the node's own start:
// namespaces, ID maps, reaper, node executed, socket, report.
func BenchmarkLaunch(b *testing.B) {
	in := newInstance(b)
	for b.Loop() {
		in.launch()
		b.StopTimer()
		in.ask(new(any), "/leave")
		in.eventually("the node ends", func() error {
			if answers(in.p.Socket) || len(in.processes()) > 0 {
				return errors.New("it runs")
			}
			return nil
		})
		b.StartTimer()
	}
}
