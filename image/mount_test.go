package image_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/internal/linux"
)

// A layer that says of its root that it hides all below does so.
func TestOpaqueRoot(t *testing.T) {
	srv := newServer(t)
	srv.push(t, "app", imageOf(t, tarOf(t, entry{name: "old", data: "x"}), tarOf(t, entry{name: ".wh..wh..opq"}, entry{name: "new", data: "y"})))
	s := openStore(t, t.TempDir())
	img, err := s.Pull(t.Context(), parse(t, srv.host+"/app"), image.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	root := mount(t, s, img)
	if _, err := os.Stat(filepath.Join(root, "old")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what an opaque root hides: %v", err)
	}
	if _, err := os.Stat(filepath.Join(root, "new")); err != nil {
		t.Error(err)
	}
}

// An image with more layers than fit into the options of mount(2) is mounted
// all the same, to be written to and not; an older kernel's limit is named.
func TestManyLayers(t *testing.T) {
	t.Parallel()
	const n = 90
	layers := make([][]byte, n)
	for i := range layers {
		layers[i] = tarOf(t, entry{name: "last", data: fmt.Sprint(i)}, entry{name: fmt.Sprint("f", i)})
	}
	srv := newServer(t)
	srv.push(t, "app", imageOf(t, layers...))
	s := openStore(t, t.TempDir())
	img, err := s.Pull(t.Context(), parse(t, srv.host+"/app"), image.PullOptions{})
	if linux.HasManyLayers() != nil {
		if err == nil || !strings.Contains(err.Error(), "the image has 90 layers; podrun takes up to 60, and 500 from Linux 6.8 on") {
			t.Errorf("Pull: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	look := func(root string) {
		t.Helper()
		if entries, err := os.ReadDir(root); err != nil || len(entries) != n+1 {
			t.Errorf("%d files, %v", len(entries), err)
		}
		if data, err := os.ReadFile(filepath.Join(root, "last")); err != nil || string(data) != fmt.Sprint(n-1) {
			t.Errorf("the topmost layer's file is %q, %v", data, err)
		}
	}
	root := mount(t, s, img)
	look(root)
	if err := os.WriteFile(filepath.Join(root, "new"), nil, 0o600); err != nil {
		t.Error(err)
	}
	m, err := s.ReadOnly(img)
	if err != nil {
		t.Fatal(err)
	}
	m.Target = t.TempDir()
	if err := m.Mount(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = linux.Unmount(m.Target, 0) }()
	look(m.Target)
	if err := os.WriteFile(filepath.Join(m.Target, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("a write where nobody may: %v", err)
	}
}
