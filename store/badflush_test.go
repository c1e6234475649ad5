package store_test

import (
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/store"
)

// TestFlushFails has flushes fail now and then, of a program that fills a store:
// of the pages of a commit, or of the one that makes them count. A commit that
// errs is not there, and one that does not is; watchers are told of these alone.
func TestFlushFails(t *testing.T) {
	if dir := os.Getenv("STORE_FLUSH_CHILD"); dir != "" {
		flushChild(t, dir)
		return
	}
	t.Parallel()
	dir := t.TempDir()
	command := exec.Command(os.Args[0], "-test.run=^TestFlushFails$", "-test.v")
	command.Env = append(os.Environ(), "STORE_FLUSH_CHILD="+dir)
	command.Stdout = t.Output()
	random := rand.New(rand.NewPCG(3, 3))
	opened, failed, since := false, 0, 0
	record(t, command, func(s step) bool {
		if filepath.Base(s.path) == "opened" {
			opened = true
		}
		if !opened || !s.isFlush() {
			return false
		}
		// A commit that one flush of has failed has the next few.
		if since++; since < 4 || random.IntN(3) > 0 {
			return false
		}
		failed, since = failed+1, 0
		return true
	})
	if failed < 10 {
		t.Errorf("%d flushes have failed: the test shows nothing", failed)
	}
}

// flushChild is the program.
func flushChild(t *testing.T, dir string) {
	s := open(t, filepath.Join(dir, "store.db"), store.Options{})
	w, err := s.Watch(t.Context(), "Pod", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "opened"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("yes"), 0); err != nil {
		t.Fatal(err)
	}
	model, seen := map[string]string{}, map[string]string{}
	refused, revision := 0, uint64(0)
	for n := range 120 {
		next := maps.Clone(model)
		rev, err := s.Update(func(tx *store.Tx) (err error) {
			commit(n, func(name, value string) {
				next[name] = value
				err = errors.Join(err, tx.Put(pod(name), text(value)))
			}, func(name string) {
				delete(next, name)
				if e := tx.Delete(pod(name)); !errors.Is(e, store.ErrNotFound) {
					err = errors.Join(err, e)
				}
			})
			return err
		})
		switch {
		case err == nil:
			model, revision = next, rev
		case strings.Contains(err.Error(), unix.EIO.Error()): // bbolt does not wrap it all
			refused++
		default:
			t.Fatal(err)
		}
		objects, now, listErr := s.List("Pod", "")
		if listErr != nil || now != revision {
			t.Fatalf("commit %d: %v; the store is at revision %d, %v, want %d", n, err, now, listErr, revision)
		}
		got := map[string]string{}
		for _, o := range objects {
			got[o.Name] = string(o.Value)
		}
		if !maps.Equal(got, model) {
			t.Fatalf("commit %d: %v; the store is another's", n, err)
		}
	}
	if refused == 0 {
		t.Error("no commit was refused")
	}
	for put(t, s, pod("end"), ""); seen["end"] != "seen"; {
		e := <-w.Events()
		if e.Type == store.Deleted {
			delete(seen, e.Object.Name)
		} else {
			seen[e.Object.Name] = string(e.Object.Value)
		}
		if e.Object.Name == "end" {
			seen["end"], model["end"] = "seen", "seen"
		}
	}
	if !maps.Equal(seen, model) {
		t.Error("a watcher was told of another store")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
