package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestKeptDescriptorsSurviveTheNode(t *testing.T) {
	in := newInstance(t)
	in.launch()
	first := in.facts()
	f, err := os.CreateTemp(t.TempDir(), "kept")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteString("still here"); err != nil {
		t.Fatal(err)
	}
	if err := in.try(new(any), "/keep", []*os.File{f, f}, "key", "pod/x/"); err != nil {
		t.Fatal(err)
	}
	in.kill(first.PID)
	second := in.nextNode(first.PID)
	for range 3 { // a copy each time
		var content string
		in.ask(&content, "/kept", "key", "pod/x/1")
		if content != "still here" {
			t.Errorf("the kept file holds %q", content)
		}
	}
	in.hasFiles(second.Files)
	in.ask(new(any), "/drop", "key", "pod/x/1")
	in.ask(new(any), "/drop", "key", "never kept")
	if err := in.try(new(any), "/kept", nil, "key", "pod/x/1"); err == nil {
		t.Error("a dropped descriptor is still kept")
	}
	in.ask(new(string), "/kept", "key", "pod/x/0")
}

// hasFiles waits until the node has no more files open than that: it closes a
// connection after the client does.
func (in *instance) hasFiles(n int) {
	in.t.Helper()
	in.eventually("the node closes its files", func() error {
		if f := in.facts(); f.Files > n {
			return fmt.Errorf("%d are open, %d were", f.Files, n)
		}
		return nil
	})
}

// The reaper's limit of open files is what bounds the containers of a node.
func TestKeepMany(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max < 4000 {
		t.Fatalf("this test needs 4000 open files, the limit is %d", limit.Max)
	}
	in := newInstance(t)
	in.launch()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	files := make([]*os.File, maxFiles)
	for i := range files {
		files[i] = null
	}
	before := in.facts()
	const rounds = 200
	for i := range rounds {
		var n int
		if err := in.try(&n, "/keep", files, "key", fmt.Sprintf("container-%d/", i)); err != nil || n != maxFiles {
			t.Fatalf("after %d: kept %d, %v", i*maxFiles, n, err)
		}
	}
	// Under the same keys: in place of the old ones.
	for i := range 20 {
		if err := in.try(new(int), "/keep", files, "key", fmt.Sprintf("container-%d/", i)); err != nil {
			t.Fatal(err)
		}
	}
	open, err := os.ReadDir("/proc/" + strconv.Itoa(before.Reaper) + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(open) - rounds*maxFiles; n < 0 || n > 10 {
		t.Errorf("the reaper has %d descriptors open for %d kept", len(open), rounds*maxFiles)
	}
	in.hasFiles(before.Files)
}

func TestReaperStaysQuiet(t *testing.T) {
	in := newInstance(t)
	in.launch()
	f := in.facts()
	switches := func() string {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(f.Reaper) + "/status")
		if err != nil {
			t.Fatal(err)
		}
		_, s, ok := strings.Cut(string(b), "voluntary_ctxt_switches:")
		if !ok {
			t.Fatalf("status of the reaper: %s", b)
		}
		return strings.Fields(s)[0]
	}
	time.Sleep(300 * time.Millisecond) // what the start had left to do is done
	before := switches()
	time.Sleep(1500 * time.Millisecond)
	if after := switches(); after != before {
		t.Errorf("the idle reaper woke up: %s voluntary context switches, had %s", after, before)
	}
}

// The reaper is as small as the parts of the file and of libc that it touches:
// most of that it shares with the node.
func TestReaperIsSmall(t *testing.T) {
	in := newInstance(t)
	in.launch()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(in.facts().Reaper) + "/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]int{}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[2] == "kB" {
			sizes[f[0]], _ = strconv.Atoi(f[1])
		}
	}
	t.Logf("Pss %d kB, of that anonymous %d kB", sizes["Pss:"], sizes["Pss_Anon:"])
	if n := sizes["Pss_Anon:"]; n == 0 || n > 400 {
		t.Errorf("the reaper has %d kB of its own, want at most 400:\n%s", n, b)
	}
}

// What a terminal or a logout sends reaches neither the reaper nor, through
// it, the node; SIGTERM ends both.
func TestReaperSignals(t *testing.T) {
	in := newInstance(t)
	in.launch()
	f := in.facts()
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGPIPE} {
		if err := unix.Kill(f.Reaper, sig); err != nil {
			t.Fatal(err)
		}
	}
	if again := in.facts(); again.PID != f.PID || again.Reaper != f.Reaper {
		t.Errorf("now node %d of reaper %d, was %d of %d", again.PID, again.Reaper, f.PID, f.Reaper)
	}
	if err := unix.Kill(f.Reaper, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	in.eventually("SIGTERM ends reaper and node", func() error {
		if left := in.processes(); len(left) > 0 {
			return fmt.Errorf("processes %v", left)
		}
		return nil
	})
}

// Whatever the node leaves behind is collected, in any number.
func TestReaperCollects(t *testing.T) {
	in := newInstance(t)
	in.launch()
	first := in.facts()
	started := map[int]process{}
	for i := range 20 {
		var p process
		in.ask(&p, "/run", "sh", fmt.Sprintf("(sleep 0.2; exit 1) & sleep 0.1; exit %d", i))
		started[i] = p
	}
	in.kill(first.PID)
	second := in.nextNode(first.PID)
	for i, p := range started {
		if status := in.status(p); status.ExitStatus() != i {
			t.Errorf("status of process %d is %#x, want exit code %d", p.PID, status, i)
		}
	}
	in.eventually("no children but the node", func() error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", first.Reaper))
		if err == nil && strings.TrimSpace(string(b)) != strconv.Itoa(second.PID) {
			err = fmt.Errorf("children: %s", b)
		}
		return err
	})
}

// A node that dies at once is not started again at once, over and over.
func TestRestartIsDelayed(t *testing.T) {
	in := newInstance(t)
	in.launch()
	f := in.facts()
	if err := os.WriteFile(filepath.Join(in.p.State, failFile), []byte("no disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	in.kill(f.PID)
	attempts := func() int {
		log, err := os.ReadFile(in.p.Log)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(log, []byte("no disk"))
	}
	// After 0.1, 0.3, 0.7 and 1.5 seconds, and later on a machine that is busy.
	time.Sleep(1200 * time.Millisecond)
	if n := attempts(); n > 5 {
		t.Errorf("%d nodes were started in 1.2 s, want 3", n)
	}
	in.eventually("a second attempt", func() error {
		if n := attempts(); n < 2 {
			return fmt.Errorf("%d attempts", n)
		}
		return nil
	})
	// They told why, for the command that waits in vain.
	if err := lastReport(in.p.State); err == nil || err.Error() != "no disk" {
		t.Errorf("the report is %v", err)
	}
	if err := os.Remove(filepath.Join(in.p.State, failFile)); err != nil {
		t.Fatal(err)
	}
	in.launch() // waits for the reaper's next attempt
	if again := in.facts(); again.Reaper != f.Reaper {
		t.Errorf("Launch made reaper %d beside %d", again.Reaper, f.Reaper)
	}
	// It answers before it takes the others' report away.
	in.eventually("no report of a node that failed", func() error { return lastReport(in.p.State) })
}

// A status that cannot be logged is kept, as a zombie, until it can.
func TestLogOfExitsCannotBeWritten(t *testing.T) {
	in := newInstance(t)
	in.launch()
	first := in.facts()
	var p process
	in.ask(&p, "/run", "sh", "sleep 0.3; exit 3")
	// The log is rotated, and the next one cannot be made.
	fill := bytes.Repeat([]byte("1 1 0\n"), 50_000)
	appendTo(t, filepath.Join(in.p.State, "exits"), fill)
	in.kill(first.PID)
	second := in.nextNode(first.PID)
	if status := in.status(p); status.ExitStatus() != 3 {
		t.Errorf("status %#x, want exit code 3", status)
	}
	if _, err := os.Stat(filepath.Join(in.p.State, "exits")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the full log was not put aside: %v", err)
	}
	blocker := filepath.Join(in.p.State, "exits")
	if err := os.Symlink("/dev/null", blocker); err != nil {
		t.Fatal(err)
	}
	in.ask(&p, "/run", "sh", "sleep 0.3; exit 4")
	in.kill(second.PID)
	third := in.nextNode(second.PID)
	if err := in.try(new(any), "/status", nil, "process", fmt.Sprint(p.PID, p.Start)); err == nil {
		t.Error("a status came out of nowhere")
	}
	in.eventually("the process is a zombie", func() error {
		if !zombie(p.PID) {
			return errors.New("it runs")
		}
		return nil
	})
	if err := os.Remove(blocker); err != nil {
		t.Fatal(err)
	}
	if status := in.status(p); status.ExitStatus() != 4 {
		t.Errorf("status %#x, want exit code 4", status)
	}
	if f := in.facts(); f.PID != third.PID {
		t.Errorf("node %d took the place of %d", f.PID, third.PID)
	}
}

func appendTo(t *testing.T, path string, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFindExit(t *testing.T) {
	const log = "12 345 256\n2 345 9\n2 34 0\n77 1 15"
	for _, test := range []struct {
		pid    int
		start  uint64
		status unix.WaitStatus
		ok     bool
	}{
		{12, 345, 256, true},
		{2, 345, 9, true},
		{2, 34, 0, true},
		{2, 3, 0, false},
		{1, 2345, 0, false},
		{77, 1, 0, false}, // not written to its end
	} {
		status, ok := findExit([]byte(log), test.pid, test.start)
		if ok != test.ok || ok && status != test.status {
			t.Errorf("findExit(%d, %d) = %#x, %v; want %#x, %v", test.pid, test.start, status, ok, test.status, test.ok)
		}
	}
}

// The node goes with the reaper, and what it started lives on; the next node
// joins the namespaces where that is.
func TestReaperKilled(t *testing.T) {
	in := newInstance(t)
	in.launch()
	first := in.facts()
	var p process
	in.ask(&p, "/run", "sh", "exec sleep 60")
	in.ask(new(any), "/anchor", "pid", strconv.Itoa(p.PID))
	in.kill(first.Reaper)
	in.eventually("the node goes with its reaper", func() error {
		if err := unix.Kill(first.PID, 0); err == nil && !zombie(first.PID) {
			return errors.New("it is still there")
		}
		return nil
	})
	in.launch()
	second := in.facts()
	if second.User != first.User || second.Mount != first.Mount || second.Namespace != first.Namespace {
		t.Errorf("the second node is in %+v, the first was in %+v", second, first)
	}
	if second.Reaper == first.Reaper {
		t.Error("the second node has the dead reaper")
	}
	if alive := (anchor{p.PID, p.Start}).alive(); !alive {
		t.Error("a process of the first node died with the reaper")
	}
	// Without an anchor there is nothing to join.
	in.kill(second.Reaper)
	in.kill(p.PID)
	in.launch()
	if third := in.facts(); third.Mount == first.Mount && !testing.Short() {
		// A namespace's number may be used again, but not while both exist.
		t.Logf("namespace %s was reused", third.Mount)
	}
}

func TestAnchorsOfAnotherBoot(t *testing.T) {
	dir := t.TempDir()
	p := newPaths(dir, dir)
	if err := renewAnchors(dir, os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if err := RecordAnchor(p, os.Getppid()); err != nil {
		t.Fatal(err)
	}
	appendTo(t, anchorsFile(dir), []byte("1 ")) // cut off by a death
	if got, err := readAnchors(dir); err != nil || len(got) != 2 {
		t.Fatalf("anchors %v, %v; want two", got, err)
	}
	if err := DropAnchor(p, os.Getppid()); err != nil {
		t.Fatal(err)
	}
	got, err := readAnchors(dir)
	if err != nil || len(got) != 1 || got[0].pid != os.Getpid() || !got[0].alive() {
		t.Fatalf("anchors %v, %v; want this process", got, err)
	}
	b, err := os.ReadFile(anchorsFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if err := os.WriteFile(anchorsFile(dir), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := readAnchors(dir); err != nil || len(got) != 0 {
		t.Errorf("anchors %v, %v; want none after a reboot", got, err)
	}
}
