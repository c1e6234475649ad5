package image_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"get.podrun.dev/podrun/image"
)

// pullChildVariable makes TestPullChild pull: STORE REFERENCE.
const pullChildVariable = "IMAGE_TEST_PULL"

// TestPullChild is what TestKillAtEachStep runs in a process of its own.
func TestPullChild(t *testing.T) {
	dir, ref, ok := strings.Cut(os.Getenv(pullChildVariable), " ")
	if !ok {
		return
	}
	s := openStore(t, dir)
	if _, err := s.Pull(t.Context(), parse(t, ref), image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
}

// A pull that is killed at any step leaves an image that is whole, or none, and
// nothing beside it; the next pull of it works.
func TestKillAtEachStep(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	var entries []entry
	for i := range 20 {
		entries = append(entries, entry{name: fmt.Sprint("file", i), data: strings.Repeat(fmt.Sprintln("line", i), 1000)})
	}
	srv.push(t, "app", imageOf(t, tarOf(t, entries...), tarOf(t, entry{name: "top", data: "x"})))
	ref := srv.host + "/app"
	for _, fault := range []string{
		"pull.entry:kill:1", "pull.entry:kill:12", "pull.unpacked:kill", "pull.unpacked:kill:2", "pull.placed:kill", "pull.placed:kill:2",
		"pull.add:kill", "pull.added:kill", "pull.flushed:kill", "none",
	} {
		t.Run(fault, func(t *testing.T) {
			dir := t.TempDir()
			child := exec.Command("/proc/self/exe", "-test.run=^TestPullChild$")
			child.Env = append(os.Environ(), "PODRUN_FAULT="+fault, pullChildVariable+"="+dir+" "+ref)
			out, err := child.CombinedOutput()
			if killed := strings.Contains(fmt.Sprint(err), "killed"); killed != (fault != "none") {
				t.Fatalf("the pull ended with %v: %s", err, out)
			}
			s := openStore(t, dir)
			_, err = s.Lookup(parse(t, ref))
			named := strings.HasPrefix(fault, "pull.added") || strings.HasPrefix(fault, "pull.flushed") || fault == "none"
			if named != (err == nil) {
				t.Errorf("after the kill: %v", err)
			}
			layers, _ := os.ReadDir(filepath.Join(dir, "layers"))
			if left := leftovers(t, dir); len(left) != 0 || !named && len(layers) != 0 {
				t.Errorf("left: %q in tmp, %d layers", left, len(layers))
			}
			img, err := s.Pull(t.Context(), parse(t, ref), image.PullOptions{})
			if err != nil {
				t.Fatal(err)
			}
			root := mount(t, s, img)
			for _, e := range append(entries, entry{name: "top", data: "x"}) {
				if data, err := os.ReadFile(filepath.Join(root, e.name)); err != nil || string(data) != e.data {
					t.Errorf("%s: %d bytes, %v", e.name, len(data), err)
				}
			}
		})
	}
}

// A layer that was not on disk when the machine ended is not trusted after it;
// one that was is.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	srv.push(t, "app", imageOf(t, tarOf(t, entry{name: "f", data: "x"}), tarOf(t, entry{name: "g", data: "y"})))
	ref := parse(t, srv.host+"/app")
	for name, c := range map[string]struct {
		size    string // what the power cut left of the file; "" for all
		trusted bool
	}{
		"on disk":          {"", true},
		"not on disk":      {"boot 7c0a3a2e-0000-4000-8000-000000000000 1", false},
		"a file cut short": {" ", false},
		"half a boot ID":   {"boot 7c0a3a2e", false},
		"not a number":     {"12x", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, dir)
			img, err := s.Pull(t.Context(), ref, image.PullOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil { // which waits for the flush
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(dir, "layers", "*", "size"))
			if err != nil || len(files) != 2 {
				t.Fatalf("%q, %v", files, err)
			}
			for _, f := range files {
				if data, err := os.ReadFile(f); err != nil || string(data) != "1" {
					t.Errorf("after the flush %s holds %q, %v", f, data, err)
				}
			}
			if c.size != "" {
				if err := os.WriteFile(files[0], []byte(strings.TrimSpace(c.size)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			again := openStore(t, dir)
			_, err = again.Get(string(img.ID))
			if c.trusted != (err == nil) {
				t.Errorf("after the power cut: %v", err)
			}
			if layers, _ := os.ReadDir(filepath.Join(dir, "layers")); c.trusted != (len(layers) == 2) {
				t.Errorf("%d layers are kept", len(layers))
			}
			if img, err = again.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(mount(t, again, img), "f")); err != nil {
				t.Error(err)
			}
		})
	}
}

// A bomb is stopped by the limits, and nothing of it is left.
func TestBomb(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, zero{}, 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	many := []entry{}
	for i := range 300 {
		many = append(many, entry{name: fmt.Sprint("f", i)})
	}
	srv.push(t, "bytes", imageOf(t, b.Bytes()))
	srv.push(t, "files", imageOf(t, tarOf(t, many...)))
	dir := t.TempDir()
	o := image.Options{SingleID: true, Registries: &image.Registries{}, Platform: image.Platform{OS: "linux", Architecture: "amd64"}}
	o.Pull.Layer.Bytes, o.Pull.Layer.Entries = 1<<20, 200
	s, err := image.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for name, want := range map[string]string{"bytes": "more than 1048576 bytes", "files": "more than 200 files"} {
		_, err := s.Pull(t.Context(), parse(t, srv.host+"/"+name), image.PullOptions{})
		if err == nil || !strings.Contains(err.Error(), "the layer is too large") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "registry") {
			t.Errorf("%s: %v", name, err)
		}
		layers, _ := os.ReadDir(filepath.Join(dir, "layers"))
		blobs, _ := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
		if left := leftovers(t, dir); len(left)+len(layers)+len(blobs) != 0 {
			t.Errorf("%s left %q, %d layers, %d blobs", name, left, len(layers), len(blobs))
		}
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
