package store_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"get.podrun.dev/podrun/store"
)

// A process that is killed while it writes loses nothing it acknowledged.
func TestKilledWriterLosesNothing(t *testing.T) {
	if path := os.Getenv("STORE_CRASH_CHILD"); path != "" {
		s, err := store.Open(path, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; ; i++ {
			rev, err := s.Update(func(tx *store.Tx) error { return tx.Put(pod("n"), text(strconv.Itoa(i))) })
			if err != nil {
				t.Fatal(err)
			}
			fmt.Println(rev)
		}
	}
	path := filepath.Join(t.TempDir(), "store.db")
	var acknowledged uint64
	for range 5 {
		before := acknowledged
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriterLosesNothing$")
		cmd.Env = append(os.Environ(), "STORE_CRASH_CHILD="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for first := true; lines.Scan(); first = false {
			if first {
				time.AfterFunc(time.Duration(rand.IntN(150))*time.Millisecond, func() { _ = cmd.Process.Kill() })
			}
			rev, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				break // the last line, cut by the kill
			}
			if rev <= acknowledged {
				t.Fatalf("revision %d was given twice", rev)
			}
			acknowledged = rev
		}
		_ = cmd.Wait()
		if acknowledged == before {
			t.Fatal("the child never wrote: the test shows nothing")
		}
		s := open(t, path, store.Options{})
		o, err := s.Get(pod("n"))
		if err != nil || o.Revision < acknowledged {
			t.Fatalf("acknowledged revision %d, found %d, %v", acknowledged, o.Revision, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
