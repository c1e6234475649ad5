package store_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/store"
)

// powerCommits is how many commits the recorded program makes.
const powerCommits = 20

// commit makes change n of the recorded program, on the store and on a model of
// what is in it: values small and large, new ones, changed ones, removed ones.
func commit(n int, put func(name, value string), remove func(name string)) {
	random := rand.New(rand.NewPCG(1, uint64(n)))
	put("number", fmt.Sprint(n))
	for range 1 + random.IntN(4) {
		name := fmt.Sprint("object", random.IntN(12))
		if random.IntN(4) == 0 {
			remove(name)
			continue
		}
		put(name, strings.Repeat(fmt.Sprintf("%s of %d;", name, n), 1+random.IntN(1<<random.IntN(11))))
	}
}

// TestPowerCut cuts the power before each write and each flush of a program
// that fills a new store. Of what was not flushed nothing is on the disk, or all
// of it, or some sectors. The store opens, has every acknowledged commit and its
// revision, and no part of another.
func TestPowerCut(t *testing.T) {
	if dir := os.Getenv("STORE_POWER_CHILD"); dir != "" {
		powerChild(t, dir)
		return
	}
	t.Parallel()
	dir := t.TempDir()
	command := exec.Command(os.Args[0], "-test.run=^TestPowerCut$")
	command.Env = append(os.Environ(), "STORE_POWER_CHILD="+dir)
	steps := record(t, command, func(step) bool { return false })

	// models[n] is what is in the store after n commits.
	models := []map[string]string{{}}
	for n := range powerCommits {
		next := maps.Clone(models[n])
		commit(n+1, func(name, value string) { next[name] = value }, func(name string) { delete(next, name) })
		models = append(models, next)
	}
	acknowledged, flushed := 0, 0
	var revision uint64
	random := rand.New(rand.NewPCG(2, 2))
	for n := 0; n <= len(steps); n++ {
		for name, kept := range map[string]func() bool{
			"nothing": func() bool { return false },
			"all":     func() bool { return true },
			"some":    func() bool { return random.IntN(2) == 0 },
		} {
			if name == "nothing" && n > 0 && n < len(steps) && !steps[n-1].isFlush() {
				continue // it is the same as before the step
			}
			what := fmt.Sprintf("cut before step %d of %d, %d commits acknowledged, of what was not flushed there is %s", n, len(steps), acknowledged, name)
			after := filepath.Join(dir, "after")
			if err := errors.Join(os.RemoveAll(after), os.Mkdir(after, 0o700)); err != nil {
				t.Fatal(err)
			}
			cut(steps, n, kept).write(t, dir, after)
			checkAfterCut(t, what, filepath.Join(after, "store.db"), models, acknowledged, revision)
		}
		if t.Failed() {
			return
		}
		if n == len(steps) {
			break
		}
		switch s := steps[n]; {
		case filepath.Base(s.path) == "acknowledged" && s.call == unix.SYS_PWRITE64:
			if _, err := fmt.Sscan(string(s.data), &acknowledged, &revision); err != nil {
				t.Fatal(err)
			}
		case s.isFlush():
			flushed++
		}
	}
	if acknowledged != powerCommits || flushed < 2*powerCommits {
		t.Fatalf("%d commits and %d flushes were seen in %d steps: the test shows nothing", acknowledged, flushed, len(steps))
	}
}

// powerChild is the recorded program. It opens the store again halfway.
func powerChild(t *testing.T, dir string) {
	f, err := os.Create(filepath.Join(dir, "acknowledged"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for half := range 2 {
		s := open(t, filepath.Join(dir, "store.db"), store.Options{History: 30})
		for n := half*powerCommits/2 + 1; n <= (half+1)*powerCommits/2; n++ {
			rev, err := s.Update(func(tx *store.Tx) (err error) {
				commit(n, func(name, value string) { err = errors.Join(err, tx.Put(pod(name), text(value))) }, func(name string) {
					if e := tx.Delete(pod(name)); !errors.Is(e, store.ErrNotFound) {
						err = errors.Join(err, e)
					}
				})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(fmt.Appendln(nil, n, rev), 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// checkAfterCut opens what a power cut left and compares it with the models of
// acknowledged commits and of the one after.
func checkAfterCut(t *testing.T, what, path string, models []map[string]string, acknowledged int, revision uint64) {
	t.Helper()
	s, err := store.Open(path, store.Options{History: 30})
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	objects, now, err := s.List("Pod", "")
	if err != nil || now < revision {
		t.Errorf("%s: the store is at revision %d, %v; %d was acknowledged", what, now, err, revision)
	}
	got := map[string]string{}
	for _, o := range objects {
		got[o.Name] = string(o.Value)
	}
	fits := slices.IndexFunc(models[acknowledged:min(acknowledged+2, len(models))], func(m map[string]string) bool { return maps.Equal(m, got) })
	if fits < 0 {
		t.Errorf("%s: the store is at commit %q with %d objects, of none of the models", what, got["number"], len(got))
	}
	if err := s.Close(); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	defer func() { _ = db.Close() }()
	_ = db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("%s: the file is damaged: %v", what, err)
		}
		return nil
	})
}
