package image_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/klauspost/compress/zstd"

	"get.podrun.dev/podrun/image"
)

func TestPull(t *testing.T) {
	srv := newServer(t)
	base := tarOf(t, entry{name: "bin/"}, entry{name: "bin/sh", data: "#!"}, entry{name: "gone", data: "x"}, entry{name: "dir/"}, entry{name: "dir/old", data: "x"},
		entry{name: "bin/ash", link: "bin/sh", hard: true})
	top := tarOf(t, entry{name: ".wh.gone"}, entry{name: "dir/"}, entry{name: "dir/.wh..wh..opq"}, entry{name: "dir/new", data: "y"}, entry{name: "link", link: "/bin/sh"})
	srv.push(t, "app:v1", imageOf(t, base, top))
	dir := t.TempDir()
	s := openStore(t, dir)
	ref := parse(t, srv.host+"/app:v1")
	if _, err := s.Lookup(ref); !errors.Is(err, image.ErrNotFound) {
		t.Fatalf("Lookup before the pull: %v", err)
	}
	var progress sync.Map
	img, err := s.Pull(t.Context(), ref, image.PullOptions{Progress: func(p image.Progress) { progress.Store(p.Layer, p.Status) }})
	if err != nil {
		t.Fatal(err)
	}
	if img.Config.Cmd[0] != "sh" || img.Config.Env[0] != "A=b" || img.Config.User != "1000" {
		t.Errorf("config %+v", img.Config)
	}
	progress.Range(func(layer, status any) bool {
		if status != image.StatusComplete {
			t.Errorf("layer %s ended as %s", layer, status)
		}
		return true
	})
	root := mount(t, s, img)
	if _, err := os.Lstat(filepath.Join(root, "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a whited-out file: %v", err)
	}
	if names, _ := filepath.Glob(filepath.Join(root, "dir", "*")); len(names) != 1 || filepath.Base(names[0]) != "new" {
		t.Errorf("an opaque directory holds %v", names)
	}
	a, errA := os.Stat(filepath.Join(root, "bin/sh"))
	b, errB := os.Stat(filepath.Join(root, "bin/ash"))
	if errA != nil || errB != nil || !os.SameFile(a, b) {
		t.Errorf("hard link: %v, %v", errA, errB)
	}
	if to, err := os.Readlink(filepath.Join(root, "link")); err != nil || to != "/bin/sh" {
		t.Errorf("symbolic link to %q, %v", to, err)
	}

	before := srv.requests.Load()
	if again, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil || again.ID != img.ID {
		t.Errorf("second pull: %v", err)
	}
	if n := srv.requests.Load() - before; n > 2 { // the ping and one HEAD
		t.Errorf("a pull of what is here made %d requests", n)
	}
	reopened := openStore(t, dir)
	if found, err := reopened.Lookup(ref); err != nil || found.ID != img.ID {
		t.Errorf("after reopening: %v", err)
	}

	// The tag moves: the name follows, the old image keeps nothing.
	srv.push(t, "app:v1", imageOf(t, base))
	moved, err := reopened.Pull(t.Context(), ref, image.PullOptions{})
	if err != nil || moved.ID == img.ID {
		t.Errorf("after the tag moved: %v, same image %v", err, moved != nil && moved.ID == img.ID)
	}
	old, err := reopened.Get(string(img.ID))
	if err != nil || len(old.References) != 0 {
		t.Errorf("the old image: %+v, %v", old, err)
	}
}

func TestCompressions(t *testing.T) {
	data := tarOf(t, entry{name: "f", data: strings.Repeat("text ", 10_000)})
	srv := newServer(t)
	var z bytes.Buffer
	w, err := zstd.NewWriter(&z)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(data)
	_ = w.Close()
	for name, img := range map[string]v1.Image{"gzip": imageOf(t, data), "zstd": imageOf(t, z.Bytes())} {
		t.Run(name, func(t *testing.T) {
			srv.push(t, name, img)
			s := openStore(t, t.TempDir())
			pulled, err := s.Pull(t.Context(), parse(t, srv.host+"/"+name), image.PullOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(mount(t, s, pulled), "f")); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whatever a registry does wrong, nothing of it is trusted or left.
func TestLyingRegistry(t *testing.T) {
	data := tarOf(t, entry{name: "f", data: strings.Repeat("text ", 50_000)})
	isLayer := func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
	}
	body := func(h http.Handler, r *http.Request) []byte {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		return rec.Body.Bytes()
	}
	for _, c := range []struct {
		name   string
		change func([]byte) []byte
	}{
		{"a flipped bit", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }},
		{"cut short", func(b []byte) []byte { return b[:len(b)/2] }},
		{"something after the end", func(b []byte) []byte { return append(b, "more"...) }},
		{"something else", func([]byte) []byte {
			var z bytes.Buffer
			w := gzip.NewWriter(&z)
			_, _ = w.Write(tarOf(t, entry{name: "evil", data: "x"}))
			_ = w.Close()
			return z.Bytes()
		}},
		{"nothing", func([]byte) []byte { return nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := newServer(t)
			srv.push(t, "app", imageOf(t, data))
			srv.meddling(func(w http.ResponseWriter, r *http.Request, h http.Handler) bool {
				if !isLayer(r) {
					return false
				}
				b := body(h, r)
				if bytes.HasPrefix(b, []byte("{")) {
					return false // the config
				}
				b = c.change(b)
				w.Header().Set("Content-Length", fmt.Sprint(len(b)))
				_, _ = w.Write(b)
				return true
			})
			dir := t.TempDir()
			s := openStore(t, dir)
			ref := parse(t, srv.host+"/app")
			if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err == nil {
				t.Fatal("the pull succeeded")
			}
			if _, err := s.Lookup(ref); !errors.Is(err, image.ErrNotFound) {
				t.Errorf("Lookup after the failed pull: %v", err)
			}
			if left := leftovers(t, dir); len(left) != 0 {
				t.Errorf("left in tmp: %v", left)
			}
			if layers, _ := os.ReadDir(filepath.Join(dir, "layers")); len(layers) != 0 {
				t.Errorf("%d layers are kept", len(layers))
			}
		})
	}
}

func TestEscapes(t *testing.T) {
	for name, entries := range map[string][]entry{
		"dots":          {{name: "../../escaped", data: "x"}},
		"absolute":      {{name: "/escaped", data: "x"}},
		"symbolic link": {{name: "out", link: "/"}, {name: "out/escaped", data: "x"}},
		"up the link":   {{name: "out", link: "../../../.."}, {name: "out/escaped", data: "x"}},
		"hard link":     {{name: "p", link: "../../../../../../../../etc/passwd", hard: true}},
		"whiteout":      {{name: "../../.wh.images.json"}},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t)
			srv.push(t, "app", imageOf(t, tarOf(t, entries...)))
			dir := t.TempDir()
			s := openStore(t, dir)
			if _, err := s.Pull(t.Context(), parse(t, srv.host+"/app"), image.PullOptions{}); err != nil {
				t.Logf("refused: %v", err)
			}
			for _, path := range []string{"/escaped", filepath.Join(dir, "escaped"), filepath.Join(dir, "layers", "escaped"), filepath.Join(filepath.Dir(dir), "escaped")} {
				if _, err := os.Lstat(path); err == nil {
					_ = os.Remove(path)
					t.Errorf("a layer wrote %s", path)
				}
			}
			if b, err := os.ReadFile("/etc/passwd"); err != nil || len(b) == 0 {
				t.Errorf("/etc/passwd: %v", err)
			}
		})
	}
}

func TestIndexGivesOurPlatform(t *testing.T) {
	srv := newServer(t)
	ours, other := imageOf(t, tarOf(t, entry{name: "ours"})), imageOf(t, tarOf(t, entry{name: "other"}))
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: ours, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	ref, err := name.ParseReference(srv.host+"/multi", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, t.TempDir())
	img, err := s.Pull(t.Context(), parse(t, srv.host+"/multi"), image.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want, _ := ours.ConfigName()
	if string(img.ID) != want.String() {
		t.Error("the image of another platform was pulled")
	}
	top, _ := index.Digest()
	if string(img.Digest) != top.String() {
		t.Errorf("digest %s, want the index's %s", img.Digest, top)
	}
	byDigest, err := s.Pull(t.Context(), parse(t, srv.host+"/multi@"+top.String()), image.PullOptions{})
	if err != nil || byDigest.ID != img.ID {
		t.Errorf("by digest: %v", err)
	}
}

// Not all registries take HEAD, or say the digest then: GET does instead, and no
// layer is fetched again.
func TestPullAgainWithoutHead(t *testing.T) {
	t.Parallel()
	for name, head := range map[string]func(http.ResponseWriter){
		"405":       func(w http.ResponseWriter) { w.WriteHeader(http.StatusMethodNotAllowed) },
		"501":       func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotImplemented) },
		"no digest": func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := newServer(t)
			srv.push(t, "app", imageOf(t, tarOf(t, entry{name: "f"})))
			var heads atomic.Int64
			srv.meddling(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if r.Method != http.MethodHead || !strings.HasPrefix(r.UserAgent(), "podrun") { // and not the push
					return false
				}
				heads.Add(1)
				head(w)
				return true
			})
			s := openStore(t, t.TempDir())
			ref := parse(t, srv.host+"/app")
			first, err := s.Pull(t.Context(), ref, image.PullOptions{})
			if err != nil {
				t.Fatal(err)
			}
			again, err := s.Pull(t.Context(), ref, image.PullOptions{})
			if err != nil || again.ID != first.ID {
				t.Errorf("the second pull: %v", err)
			}
			if heads.Load() == 0 {
				t.Error("HEAD was not asked")
			}
			srv.push(t, "app", imageOf(t, tarOf(t, entry{name: "g"})))
			if next, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil || next.ID == first.ID {
				t.Errorf("a pull of what the name stands for now: %v", err)
			}
		})
	}
}

func TestConcurrentPullsShareLayers(t *testing.T) {
	srv := newServer(t)
	base := tarOf(t, entry{name: "base", data: strings.Repeat("b", 1<<20)})
	for i := range 4 {
		srv.push(t, fmt.Sprintf("app%d", i), imageOf(t, base, tarOf(t, entry{name: fmt.Sprint("top", i)})))
	}
	s := openStore(t, t.TempDir())
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			if _, err := s.Pull(context.Background(), parse(t, fmt.Sprintf("%s/app%d", srv.host, i%4)), image.PullOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	l, err := imageOf(t, base).Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := l[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	fetched := int64(0)
	srv.blobs.Range(func(path, n any) bool {
		if strings.HasSuffix(path.(string), digest.String()) {
			fetched += n.(*atomic.Int64).Load()
		}
		return true
	})
	// The pushes ask whether the layer is there, once each.
	if fetched > 4+1 {
		t.Errorf("the shared layer was asked for %d times", fetched)
	}
}

func TestMirrors(t *testing.T) {
	mirror, origin := newServer(t), newServer(t)
	mirror.push(t, "cache/app", imageOf(t, tarOf(t, entry{name: "mirror"})))
	origin.push(t, "app", imageOf(t, tarOf(t, entry{name: "origin"})))
	origin.push(t, "only", imageOf(t, tarOf(t, entry{name: "origin"})))
	conf := fmt.Sprintf("[[registry]]\nprefix = \"reg.example\"\nlocation = %q\ninsecure = true\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n[[registry]]\nprefix = \"bad.example\"\nblocked = true\n",
		origin.host, mirror.host+"/cache")
	r, err := image.ParseRegistries("registries.conf", []byte(conf))
	if err != nil {
		t.Fatal(err)
	}
	s, err := image.Open(t.TempDir(), image.Options{SingleID: true, Registries: r})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for ref, file := range map[string]string{"reg.example/app": "mirror", "reg.example/only": "origin"} {
		img, err := s.Pull(t.Context(), parse(t, ref), image.PullOptions{})
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		if _, err := os.Stat(filepath.Join(mount(t, s, img), file)); err != nil {
			t.Errorf("%s did not come from the %s", ref, file)
		}
	}
	if _, err := s.Pull(t.Context(), parse(t, "bad.example/app"), image.PullOptions{}); err == nil || !strings.Contains(err.Error(), "blocks") {
		t.Errorf("a blocked registry: %v", err)
	}
	if _, err := image.ParseRegistries("r.conf", []byte("a = [\n")); err == nil || !strings.HasPrefix(err.Error(), "r.conf:") {
		t.Errorf("a broken registries.conf: %v, want its place", err)
	}
}

// A pull that was killed leaves nothing that a later store trusts.
func TestInterruptedPull(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"tmp/layer-1/fs/f", "layers/0123456789abcdef01234567/fs/f"} {
		file := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	openStore(t, dir)
	if left := leftovers(t, dir); len(left) != 0 {
		t.Errorf("left in tmp: %v", left)
	}
	if layers, _ := os.ReadDir(filepath.Join(dir, "layers")); len(layers) != 0 {
		t.Errorf("%d layers that no image names are kept", len(layers))
	}
}
