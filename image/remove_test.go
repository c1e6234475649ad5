package image_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"get.podrun.dev/podrun/image"
)

func TestRemove(t *testing.T) {
	srv := newServer(t)
	base := tarOf(t, entry{name: "base"})
	srv.push(t, "a", imageOf(t, base, tarOf(t, entry{name: "a"})))
	srv.push(t, "b", imageOf(t, base, tarOf(t, entry{name: "b"})))
	dir := t.TempDir()
	s := openStore(t, dir)
	a, err := s.Pull(t.Context(), parse(t, srv.host+"/a"), image.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), parse(t, srv.host+"/b"), image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	busy := func(image.Digest) (string, bool) { return "pod x", true }
	free := func(image.Digest) (string, bool) { return "", false }
	if _, err := s.Remove(t.Context(), srv.host+"/a", busy, false); !errors.Is(err, image.ErrInUse) || !strings.Contains(err.Error(), "pod x") {
		t.Errorf("an image in use: %v", err)
	}
	done, err := s.Remove(t.Context(), srv.host+"/a:latest", free, false)
	if err != nil || len(done) != 2 || !strings.HasPrefix(done[0], "Untagged: ") || done[1] != "Deleted: "+string(a.ID) {
		t.Errorf("Remove = %q, %v", done, err)
	}
	if layers, _ := os.ReadDir(filepath.Join(dir, "layers")); len(layers) != 2 {
		t.Errorf("%d layers, want b's two", len(layers))
	}
	if _, err := s.Remove(t.Context(), "nosuch", free, false); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("an image that is not there: %v", err)
	}
}
