package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/internal/hint"
)

// TestMain runs the tests as root of a user namespace, as podrun does; one
// user ID is mapped, so that they need no help from the machine.
func TestMain(m *testing.M) {
	if os.Getenv("IMAGE_TEST_CHILD") != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "mount:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), "IMAGE_TEST_CHILD=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "new namespaces:", err)
		os.Exit(1)
	}
}

// entry is a file of a layer: a directory when the name ends with a slash.
type entry struct {
	name, link, data string
	hard             bool
}

func tarOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o755, Typeflag: tar.TypeReg, Size: int64(len(e.data))}
		switch {
		case e.hard:
			h.Typeflag, h.Linkname = tar.TypeLink, e.link
		case e.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		case strings.HasSuffix(e.name, "/"):
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func imageOf(t *testing.T, layers ...[]byte) v1.Image {
	t.Helper()
	img := v1.Image(empty.Image)
	for _, data := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", "amd64"
	c.Config.Cmd, c.Config.Env, c.Config.User = []string{"sh"}, []string{"A=b"}, "1000"
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// server is a registry whose answers a test can change.
type server struct {
	*httptest.Server
	host     string
	requests atomic.Int64
	blobs    sync.Map // how often each was asked for
	meddle   atomic.Pointer[func(http.ResponseWriter, *http.Request, http.Handler) bool]
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			s.requests.Add(1)
			if strings.Contains(r.URL.Path, "/blobs/") {
				n, _ := s.blobs.LoadOrStore(r.URL.Path, new(atomic.Int64))
				n.(*atomic.Int64).Add(1)
			}
		}
		if m := s.meddle.Load(); m != nil && (*m)(w, r, inner) {
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	s.host = strings.TrimPrefix(s.URL, "http://")
	return s
}

func (s *server) push(t *testing.T, ref string, img v1.Image) {
	t.Helper()
	r, err := name.ParseReference(s.host+"/"+ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
}

func (s *server) meddling(f func(http.ResponseWriter, *http.Request, http.Handler) bool) {
	s.meddle.Store(&f)
}

func openStore(t *testing.T, dir string) *image.Store {
	t.Helper()
	s, err := image.Open(dir, image.Options{SingleID: true, Registries: &image.Registries{}, Platform: image.Platform{OS: "linux", Architecture: "amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func parse(t *testing.T, s string) image.Reference {
	t.Helper()
	r, err := image.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// mount mounts an image's root filesystem and returns where.
func mount(t *testing.T, s *image.Store, img *image.Image) string {
	t.Helper()
	m, err := s.Rootfs(img, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m.Target = t.TempDir()
	if err := m.Mount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(m.Target, unix.MNT_DETACH) })
	return m.Target
}

// leftovers returns what is in the store beside whole images.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

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

func TestErrorsSayWhatToDo(t *testing.T) {
	srv := newServer(t)
	srv.push(t, "app", imageOf(t, tarOf(t, entry{name: "f"})))
	s := openStore(t, t.TempDir())
	pull := func(ref string) error {
		_, err := s.Pull(t.Context(), parse(t, ref), image.PullOptions{})
		return err
	}
	t.Run("no such image", func(t *testing.T) {
		err := pull(srv.host + "/nosuch:v9")
		if !errors.Is(err, image.ErrNotFound) || hint.Of(err) == "" {
			t.Errorf("%v; %s", err, hint.Of(err))
		}
	})
	t.Run("registry down", func(t *testing.T) {
		down := httptest.NewServer(nil)
		down.Close()
		err := pull(strings.TrimPrefix(down.URL, "http://") + "/app")
		if err == nil || !strings.Contains(err.Error(), "refused the connection") || hint.Of(err) == "" {
			t.Errorf("%v; %s", err, hint.Of(err))
		}
	})
	t.Run("no credentials, then the right ones", func(t *testing.T) {
		srv.meddling(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if user, password, _ := r.BasicAuth(); user == "me" && password == "secret" {
				return false
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		})
		defer srv.meddle.Store(nil)
		home := t.TempDir()
		t.Setenv("HOME", home)
		t.Setenv("XDG_CONFIG_HOME", "")
		t.Setenv("XDG_RUNTIME_DIR", "")
		t.Setenv("DOCKER_CONFIG", "")
		t.Setenv("REGISTRY_AUTH_FILE", "")
		err := pull(srv.host + "/app")
		if !errors.Is(err, image.ErrUnauthorized) || !strings.Contains(hint.Of(err), "login") {
			t.Errorf("%v; %s", err, hint.Of(err))
		}
		auth := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, srv.host, base64.StdEncoding.EncodeToString([]byte("me:secret")))
		for _, path := range []string{".config/containers/auth.json", ".docker/config.json"} {
			file := filepath.Join(home, path)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(auth), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := pull(srv.host + "/app"); err != nil {
				t.Errorf("with %s: %v", path, err)
			}
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("not for this platform", func(t *testing.T) {
		index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
			Add: imageOf(t, tarOf(t, entry{name: "f"})), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}},
		})
		ref, err := name.ParseReference(srv.host+"/multi", name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(ref, index); err != nil {
			t.Fatal(err)
		}
		if err := pull(srv.host + "/multi"); err == nil || !strings.Contains(err.Error(), "s390x") {
			t.Errorf("%v, want the platforms that there are", err)
		}
	})
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

func TestReferences(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for in, want := range map[string][2]string{
		"busybox":                    {"docker.io/library/busybox:latest", "busybox:latest"},
		"busybox:1.36":               {"docker.io/library/busybox:1.36", "busybox:1.36"},
		"user/app":                   {"docker.io/user/app:latest", "user/app:latest"},
		"docker.io/busybox":          {"docker.io/library/busybox:latest", "busybox:latest"},
		"index.docker.io/library/x":  {"docker.io/library/x:latest", "x:latest"},
		"quay.io/a/b:c":              {"quay.io/a/b:c", "quay.io/a/b:c"},
		"localhost:5000/x":           {"localhost:5000/x:latest", "localhost:5000/x:latest"},
		"127.0.0.1:5000/a/b/c":       {"127.0.0.1:5000/a/b/c:latest", "127.0.0.1:5000/a/b/c:latest"},
		"busybox@" + digest:          {"docker.io/library/busybox@" + digest, "busybox@" + digest},
		"reg.example/x:v1@" + digest: {"reg.example/x:v1@" + digest, "reg.example/x:v1@" + digest},
	} {
		r, err := image.ParseReference(in)
		if err != nil || r.String() != want[0] || r.Familiar() != want[1] {
			t.Errorf("ParseReference(%q) = %q, %q, %v; want %q, %q", in, r.String(), r.Familiar(), err, want[0], want[1])
		}
	}
	for _, in := range []string{"", "UPPER", "a b", "x@sha256:12", "x:", "/x", "x:tag:tag", "-x"} {
		if r, err := image.ParseReference(in); err == nil {
			t.Errorf("ParseReference(%q) = %s, want an error", in, r)
		}
	}
	for in, want := range map[string]string{"Bad_NAME": "can only contain", "x:": "must specify a tag", "x:a b": "tag can only contain"} {
		if _, err := image.ParseReference(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseReference(%q): %v, want %q", in, err, want)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"busybox", "a/b:c", "localhost:5000/x@sha256:", "x:y@sha256:" + strings.Repeat("0", 64), "::", "@"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := image.ParseReference(s)
		if err != nil {
			return
		}
		again, err := image.ParseReference(r.String())
		if err != nil || again.String() != r.String() {
			t.Errorf("%q is %s, which is %s, %v", s, r, again, err)
		}
	})
}

func FuzzParseRegistries(f *testing.F) {
	f.Add([]byte("unqualified-search-registries = [\"a\"]\n[[registry]]\nlocation = \"x\"\n"))
	f.Add([]byte("[[registry]]\nprefix = \"*.example\"\n[[registry.mirror]]\n"))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = image.ParseRegistries("f", data) })
}
