package image_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"get.podrun.dev/podrun/image"
)

// blobNames are the digests in the store at dir, of which each is that of its
// file.
func blobNames(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, "blobs", "sha256", e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		if hex.EncodeToString(sum[:]) != e.Name() {
			t.Errorf("blob %s has other content", e.Name())
		}
		names = append(names, "sha256:"+e.Name())
	}
	return names
}

// What comes from a registry is kept byte for byte, once for all who have it,
// and goes with the last of them.
func TestContent(t *testing.T) {
	srv := newServer(t)
	base := tarOf(t, entry{name: "base"})
	a, b := imageOf(t, base, tarOf(t, entry{name: "a"})), imageOf(t, base, tarOf(t, entry{name: "b"}))
	srv.push(t, "a", a)
	srv.push(t, "b", b)
	dir := t.TempDir()
	s := openStore(t, dir)
	for _, name := range []string{"/a", "/b"} {
		if _, err := s.Pull(t.Context(), parse(t, srv.host+name), image.PullOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// Two manifests, two configs, three layers.
	if got := blobNames(t, dir); len(got) != 7 {
		t.Errorf("%d blobs, want 7", len(got))
	}
	manifest, err := b.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), srv.host+"/a", nil, false); err != nil {
		t.Fatal(err)
	}
	if got := blobNames(t, dir); len(got) != 4 || !slices.Contains(got, manifest.String()) {
		t.Errorf("blobs %v, want b's four", got)
	}
	if _, err := s.Remove(t.Context(), srv.host+"/b", nil, false); err != nil {
		t.Fatal(err)
	}
	if got := blobNames(t, dir); len(got) != 0 {
		t.Errorf("blobs %v of no image", got)
	}
}

// A store of an older podrun has layers and no content. Its images are there,
// and run.
func TestStoreWithoutContent(t *testing.T) {
	srv := newServer(t)
	srv.push(t, "a", imageOf(t, tarOf(t, entry{name: "f", data: "x"})))
	dir := t.TempDir()
	s := openStore(t, dir)
	if _, err := s.Pull(t.Context(), parse(t, srv.host+"/a"), image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	forgetContent(t, s, dir)
	s = openStore(t, dir)
	img, err := s.Lookup(parse(t, srv.host+"/a"))
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(mount(t, s, img), "f")); err != nil || string(data) != "x" {
		t.Errorf("file of an old store: %q, %v", data, err)
	}
}

// forgetContent turns a store into one of an older podrun.
func forgetContent(t *testing.T, s *image.Store, dir string) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "blobs")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "images.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]map[string]map[string]any
	var rest map[string]json.RawMessage
	if err := json.Unmarshal(data, &rest); err != nil {
		t.Fatal(err)
	}
	delete(rest, "used")
	data, _ = json.Marshal(rest)
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	for _, img := range file["images"] {
		delete(img, "manifest")
		delete(img, "blobs")
	}
	data, _ = json.Marshal(file)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A layer can be removed while it is still being brought to disk.
func TestRemoveDuringFlush(t *testing.T) {
	srv := newServer(t)
	var entries []entry
	for i := range 200 { // what takes a while to remove
		entries = append(entries, entry{name: fmt.Sprintf("f%d", i)})
	}
	srv.push(t, "a", imageOf(t, tarOf(t, entries...), tarOf(t, entry{name: "b"})))
	dir := t.TempDir()
	s := openStore(t, dir)
	for range 100 {
		if _, err := s.Pull(t.Context(), parse(t, srv.host+"/a"), image.PullOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Remove(t.Context(), srv.host+"/a", nil, false); err != nil {
			t.Fatal(err)
		}
		if left := leftovers(t, dir); len(left) != 0 {
			t.Fatalf("left in tmp: %v", left)
		}
	}
}
