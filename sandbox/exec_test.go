package sandbox_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/sandbox"
)

// TestExecInEndedLeavesNoDescriptor: an exec can meet a container that has
// ended, and been reaped by somebody else, before Wait has told so.
func TestExecInEndedLeavesNoDescriptor(t *testing.T) {
	s := newSandbox(t, newRuntime(t))
	c := run(t, s, sh("sleep 1000"))
	if err := c.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Wait4(c.Pid(), nil, 0, nil); err != nil {
		t.Fatal(err)
	}
	// A node with little to do collects no garbage.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	before := descriptors(t)
	if _, err := c.Exec(t.Context(), sandbox.ExecConfig{Args: []string{"true"}}); !errors.Is(err, sandbox.ErrGone) {
		t.Fatalf("got %v, want ErrGone", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := descriptors(t)
		if len(left) <= len(before) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got descriptors %v, had %v", left, before)
		}
	}
}

// descriptors are what those of this process refer to.
func descriptors(t *testing.T) (all []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if link, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil {
			all = append(all, link)
		}
	}
	return all
}
