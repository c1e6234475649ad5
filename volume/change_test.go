package volume

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestChangeFollowsNoLink: a directory of a claim that a container has turned
// into a link, after it was listed, leads to nothing that is changed.
func TestChangeFollowsNoLink(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	file := filepath.Join(outside, "f")
	for _, err := range []error{os.WriteFile(file, nil, 0o600), os.Symlink(outside, filepath.Join(root, "d"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(dir) }()
	own := ownership{group: os.Getgid()}
	for _, path := range []string{"d/f", "d", "gone/f", "."} {
		if err := own.change(dir, path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for path, want := range map[string]os.FileMode{file: 0o600, outside: 0o700 | os.ModeDir} {
		if info, err := os.Stat(path); err != nil || info.Mode()&^0o055 != want {
			t.Errorf("%s: got %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
}
