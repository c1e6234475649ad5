package image

import (
	"os"
	"path/filepath"
	"testing"
)

// A layer may be removed while a flush waits for the disk: no failure to tell
// of. Any other is one.
func TestFlushOfARemovedLayer(t *testing.T) {
	t.Parallel()
	open := func() (string, *os.Root) {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "layer")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		at, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = at.Close() })
		return dir, at
	}
	dir, at := open()
	if err := markFlushed(at, 7); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, sizeFile)); err != nil || string(data) != "7" {
		t.Errorf("the size file holds %q, %v", data, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := markFlushed(at, 7); err != nil {
		t.Errorf("of a layer that is gone: %v", err)
	}
	dir, at = open()
	if err := os.Mkdir(filepath.Join(dir, sizeFile), 0o700); err != nil { // it cannot be replaced by a file
		t.Fatal(err)
	}
	if err := markFlushed(at, 7); err == nil {
		t.Error("a failure is not told")
	}
}
