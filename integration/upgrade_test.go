package integration

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	corev1 "k8s.io/api/core/v1"
)

// versions are the two ends' commits.
type versions struct {
	Client struct{ Commit string } `json:"clientVersion"`
	Node   struct{ Commit string } `json:"nodeVersion"`
}

// with runs another podrun than the one under test, which must succeed.
func (e *env) with(program string, args ...string) string {
	e.t.Helper()
	command := e.command(args...)
	command.Path, command.Args[0] = program, program
	command.Stdin = strings.NewReader(e.stdin)
	e.stdin = ""
	var errs bytes.Buffer
	command.Stderr = &errs
	out, err := command.Output()
	if err != nil {
		e.t.Fatalf("%s %v: %v: %s\nnode.log:\n%s", program, args, err, &errs, e.nodeLog())
	}
	return string(out)
}

func (e *env) versions(program string) (v versions) {
	e.t.Helper()
	if err := json.Unmarshal([]byte(e.with(program, "version", "-o", "json")), &v); err != nil {
		e.t.Fatal(err)
	}
	return v
}

// another makes a podrun of another version: a copy with another commit in it.
func (e *env) another(name string) (program, commit string) {
	e.t.Helper()
	text, err := os.ReadFile(podrunBinary)
	if err != nil {
		e.t.Fatal(err)
	}
	own := []byte(e.versions(podrunBinary).Client.Commit)
	other := slices.Clone(own)
	slices.Reverse(other)
	if len(own) < 7 || bytes.Equal(own, other) || !bytes.Contains(text, own) {
		e.t.Fatalf("the commit %q cannot be found in %s", own, podrunBinary)
	}
	program = filepath.Join(e.home, name)
	// Nobody may execute what is open for writing (ETXTBSY). What another test
	// starts has what is open here until it executes (golang.org/issue/22315).
	write := exec.Command("install", "-m", "755", "/dev/stdin", program)
	write.Stdin = bytes.NewReader(bytes.ReplaceAll(text, own, other))
	if out, err := write.CombinedOutput(); err != nil {
		e.t.Fatalf("%v: %s", err, out)
	}
	if got := e.versions(program).Client.Commit; got != string(other) {
		e.t.Fatalf("the copy has commit %q, want %q", got, other)
	}
	return program, string(other)
}

// TestUpgrade: a new binary finds the node and the pods of an old one, works with
// that node, and once it is stopped takes the pods over with their processes.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	old, commit := e.another("old")
	e.stdin = waiting("group", "")
	e.with(old, "apply", "-f", "-")
	before := e.ready("group") // the new command line asks the old node
	pids := e.initPIDs(before)
	if v := e.versions(podrunBinary); v.Node.Commit != commit || v.Client.Commit == commit {
		t.Fatalf("got %+v, want a node of commit %s", v, commit)
	}
	e.ok("exec", "group", "-c", "one", "--", "true")

	mustContain(t, e.ok("system", "stop"), "node stopped; 2 containers go on without it")
	after := e.restarted("group", 0)
	if v := e.versions(old); v.Node.Commit == commit {
		t.Errorf("got %+v, want a node of the other commit", v)
	}
	samePids(t, pids, e.initPIDs(after))
	if before.Status.PodIP != after.Status.PodIP {
		t.Errorf("got IP %s, was %s", after.Status.PodIP, before.Status.PodIP)
	}
	e.end("group", "one", 1)
	e.restarted("group", 1)
	same(t, e.ok("logs", "group", "-c", "one", "--previous"), "first of one\n")
	// And back: an older one may have them as long as the store is of its schema.
	e.ok("system", "stop")
	e.with(old, "get", "pods")
	if v := e.versions(podrunBinary); v.Node.Commit != commit {
		t.Errorf("got %+v, want a node of commit %s", v, commit)
	}
	e.end("group", "two", 1)
	e.when("group", "restarted", func(p *corev1.Pod) bool { return restarts(p) == 2 })
}

// TestReplaceBinary: a node goes on when its file is replaced or removed: exec,
// probes, restarts and new pods, all of which execute it, and a new node after
// kill -9.
func TestReplaceBinary(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		replace func(t *testing.T, program string) error
	}{
		{"replaced", func(t *testing.T, program string) error {
			fresh := program + ".new"
			if err := os.WriteFile(fresh, []byte("#!/bin/sh\nexit 99\n"), 0o755); err != nil {
				return err
			}
			return os.Rename(fresh, program)
		}},
		{"removed", func(t *testing.T, program string) error { return os.Remove(program) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			program, commit := e.another("podrun")
			e.stdin = waiting("group", "")
			e.with(program, "apply", "-f", "-")
			pids := e.initPIDs(e.ready("group"))
			if err := tt.replace(t, program); err != nil {
				t.Fatal(err)
			}

			same(t, e.ok("exec", "group", "-c", "one", "--", "echo", "still here"), "still here\n")
			e.end("group", "one", 1)
			e.restarted("group", 1)
			probed := podYAML("probed", "", "c=exec sleep 3600")
			probed = strings.Replace(probed, "command:", "readinessProbe: {exec: {command: ['true']}, periodSeconds: 1}, command:", 1)
			e.start(probed, "probed")

			e.killNode()
			after := e.restarted("group", 1)
			if v := e.versions(podrunBinary); v.Node.Commit != commit {
				t.Errorf("got %+v: the reaper started another node than its own", v)
			}
			for name, pid := range e.initPIDs(after) {
				if pid == pids[name] {
					t.Errorf("%s: the group was made again, and pid %d is the same", name, pid)
				}
			}
			e.ok("exec", "group", "-c", "two", "--", "true")
			e.end("group", "two", 1)
			e.restarted("group", 2)
			e.start(podYAML("late", "", "c=exec sleep 3600"), "late")
		})
	}
}

// TestNewerStore: a podrun that meets the store of a newer one says so in one
// line, and touches neither the store nor the pods.
func TestNewerStore(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(waiting("group", ""), "group")
	pids := e.initPIDs(e.pod("group"))
	e.ok("system", "stop")
	path := filepath.Join(e.data, "store.db")
	meta := func(change func(b *bbolt.Bucket) error) {
		t.Helper()
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(func(tx *bbolt.Tx) error { return change(tx.Bucket([]byte("meta"))) }); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var schema, writer []byte
	meta(func(b *bbolt.Bucket) error {
		schema, writer = bytes.Clone(b.Get([]byte("schema"))), bytes.Clone(b.Get([]byte("writer")))
		newer := binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(schema)+1)
		if err := b.Put([]byte("schema"), newer); err != nil {
			return err
		}
		return b.Put([]byte("writer"), []byte("v99.0"))
	})
	for _, args := range [][]string{{"get", "pods"}, {"apply", "-f", e.write("pod.yml", waiting("second", ""))}} {
		want := `cannot start the node: cannot open store "` + path + `": podrun v99.0 wrote it, with schema 2; this podrun, `
		got := e.fails(1, args...)
		mustContain(t, got, want, "knows schemas up to 1; use podrun v99.0 or a later one")
		if strings.Count(got, "\n") != 1 {
			t.Errorf("got more than one line: %q", got)
		}
	}
	meta(func(b *bbolt.Bucket) error {
		if got := b.Get([]byte("writer")); string(got) != "v99.0" {
			t.Errorf("the store was written to by %q", got)
		}
		if err := b.Put([]byte("schema"), schema); err != nil {
			return err
		}
		return b.Put([]byte("writer"), writer)
	})
	samePids(t, pids, e.initPIDs(e.restarted("group", 0)))
}
