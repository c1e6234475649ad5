package image_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"get.podrun.dev/podrun/image"
)

// unnamed is what a store without images has on disk.
func unnamed(t *testing.T, dir string) []string {
	t.Helper()
	found := leftovers(t, dir)
	for _, of := range []string{"layers", "blobs/sha256"} {
		entries, err := os.ReadDir(filepath.Join(dir, of))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			found = append(found, of+"/"+e.Name())
		}
	}
	return found
}

// atEnd is a reader that calls end before it says that there is no more.
type atEnd struct {
	io.Reader
	end func()
}

func (r atEnd) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil {
		r.end()
	}
	return n, err
}

// TestImportFails: what is no archive, and what may be half of one since its
// sender has gone, makes no image and leaves nothing.
func TestImportFails(t *testing.T) {
	root := tarOf(t, entry{name: "bin/"}, entry{name: "bin/f", data: strings.Repeat("x", 100_000)})
	for _, tt := range []struct {
		name string
		data []byte
		goes bool
	}{
		{"text", []byte(strings.Repeat("no tar at all, but some text that is longer than a block", 20)), false},
		{"cut", root[:50_000], false},
		{"its sender has gone", root, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, dir)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r := atEnd{bytes.NewReader(tt.data), func() {
				if tt.goes {
					cancel()
				}
			}}
			if img, err := s.Import(ctx, r, image.ImportOptions{}); err == nil {
				t.Errorf("imported as %s", img.ID)
			}
			if left := unnamed(t, dir); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}
