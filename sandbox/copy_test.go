package sandbox

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPackDeepTree: a tree deeper than any path that a program can use ends a
// copy before it takes all descriptors.
func TestPackDeepTree(t *testing.T) {
	root := t.TempDir()
	dir, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range unix.PathMax / 2 {
		err := unix.Mkdirat(dir, "d", 0o700)
		var next int
		if err == nil {
			next, err = unix.Openat(dir, "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		_ = unix.Close(dir)
		if err != nil {
			t.Fatal(err)
		}
		dir = next
	}
	_ = unix.Close(dir)
	f, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := packOpen(t.Context(), tar.NewWriter(io.Discard), f, "d"); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("got %v, want %v", err, unix.ENAMETOOLONG)
	}
}
