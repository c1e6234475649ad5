package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/internal/hint"
)

// files reads an archive.
func files(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	in := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if found[h.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
}

// archiveOf packs files in the order of their names.
func archiveOf(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var list []entry
	for name, data := range files {
		list = append(list, entry{name: name, data: string(data)})
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return tarOf(t, list...)
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(data)
	_ = z.Close()
	return b.Bytes()
}

// oldArchive is what docker saved before 25, by the library.
func oldArchive(t *testing.T, ref string, img v1.Image) []byte {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(tag, img, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// uncompressed is an old archive with plain layers, as docker wrote them.
func uncompressed(t *testing.T, archive []byte) []byte {
	t.Helper()
	all := files(t, archive)
	var manifest []map[string]any
	if err := json.Unmarshal(all["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	var layers []string
	for i, l := range manifest[0]["Layers"].([]any) {
		z, err := gzip.NewReader(bytes.NewReader(all[l.(string)]))
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		delete(all, l.(string))
		layers = append(layers, fmt.Sprintf("%d/layer.tar", i))
		all[layers[i]] = data
	}
	manifest[0]["Layers"] = layers
	all["manifest.json"], _ = json.Marshal(manifest)
	return archiveOf(t, all)
}

// What was saved loads again: the same bytes under the same names, in each
// format, compressed or not.
func TestSaveLoad(t *testing.T) {
	srv := newServer(t)
	base := tarOf(t, entry{name: "base", data: "x"})
	app, other := imageOf(t, base, tarOf(t, entry{name: "app"})), imageOf(t, base, tarOf(t, entry{name: "other"}))
	srv.push(t, "app:v1", app)
	srv.push(t, "other", other)
	s := openStore(t, t.TempDir())
	names := []string{srv.host + "/app:v1", srv.host + "/other:latest"}
	for _, n := range names {
		if _, err := s.Pull(t.Context(), parse(t, n), image.PullOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Tag(names[0], parse(t, "quay.io/a/b:c")); err != nil {
		t.Fatal(err)
	}
	names = append(names, "quay.io/a/b:c")
	digest, err := app.Digest()
	if err != nil {
		t.Fatal(err)
	}
	var zstd1 bytes.Buffer
	for _, format := range []string{image.FormatDocker, image.FormatOCI} {
		var b bytes.Buffer
		if err := s.Save(t.Context(), &b, names, format); err != nil {
			t.Fatal(err)
		}
		zstd1.Reset()
		z, _ := zstd.NewWriter(&zstd1)
		_, _ = z.Write(b.Bytes())
		_ = z.Close()
		for kind, data := range map[string][]byte{"plain": b.Bytes(), "gzip": gzipped(b.Bytes()), "zstd": zstd1.Bytes()} {
			t.Run(format+" "+kind, func(t *testing.T) {
				dir := t.TempDir()
				fresh := openStore(t, dir)
				loaded, err := fresh.Load(t.Context(), bytes.NewReader(data), nil)
				if err != nil {
					t.Fatal(err)
				}
				if len(loaded) != 2 || !slices.Equal(loaded[0].Names, []string{names[0], names[2]}) || !slices.Equal(loaded[1].Names, names[1:2]) {
					t.Errorf("loaded %+v", loaded)
				}
				img, err := fresh.Lookup(parse(t, names[2]))
				// An OCI layout has OCI's media types, and so another manifest.
				if err != nil || (img.Manifest == image.Digest(digest.String())) != (format == image.FormatDocker) {
					t.Fatalf("image %+v, %v; want manifest %s", img, err, digest)
				}
				if data, err := os.ReadFile(filepath.Join(mount(t, fresh, img), "base")); err != nil || string(data) != "x" {
					t.Errorf("file of a loaded image: %q, %v", data, err)
				}
				if got := blobNames(t, dir); len(got) != 7 {
					t.Errorf("%d blobs, want 7", len(got))
				}
				if left := leftovers(t, dir); len(left) != 0 {
					t.Errorf("left in tmp: %v", left)
				}
			})
		}
	}
}

// Archives of an older docker, whose layers are plain or compressed, become
// images that can be saved and pushed.
func TestLoadOldArchive(t *testing.T) {
	img := imageOf(t, tarOf(t, entry{name: "f", data: "x"}), tarOf(t, entry{name: "g"}))
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	compressed := oldArchive(t, "example.com/a:b", img)
	for kind, data := range map[string][]byte{"compressed": compressed, "plain": uncompressed(t, compressed)} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, dir)
			loaded, err := s.Load(t.Context(), bytes.NewReader(data), nil)
			if err != nil || len(loaded) != 1 || string(loaded[0].Image.ID) != id.String() {
				t.Fatalf("loaded %+v, %v; want %s", loaded, err, id)
			}
			if data, err := os.ReadFile(filepath.Join(mount(t, s, loaded[0].Image), "f")); err != nil || string(data) != "x" {
				t.Errorf("file of a loaded image: %q, %v", data, err)
			}
			if err := s.Save(t.Context(), io.Discard, []string{"example.com/a:b"}, image.FormatOCI); err != nil {
				t.Errorf("save: %v", err)
			}
			if got := blobNames(t, dir); len(got) != 4 {
				t.Errorf("%d blobs, want 4", len(got))
			}
			// Once more is nothing new, whatever it was before.
			if again, err := s.Load(t.Context(), bytes.NewReader(compressed), nil); err != nil || again[0].Image.ID != loaded[0].Image.ID {
				t.Errorf("loaded again %+v, %v", again, err)
			}
		})
	}
}

// What is no archive, or not what it says, leaves nothing and says why.
func TestLoadBroken(t *testing.T) {
	// The second layer is there long before the first.
	img := imageOf(t, tarOf(t, entry{name: "f", data: strings.Repeat("x", 8<<20)}), tarOf(t, entry{name: "g"}))
	good := oldArchive(t, "example.com/a:b", img)
	s := openStore(t, t.TempDir())
	if _, err := s.Load(t.Context(), bytes.NewReader(good), nil); err != nil {
		t.Fatal(err)
	}
	var layout bytes.Buffer
	if err := s.Save(t.Context(), &layout, []string{"example.com/a:b"}, image.FormatOCI); err != nil {
		t.Fatal(err)
	}
	change := func(archive []byte, name string, f func([]byte) []byte) []byte {
		all := files(t, archive)
		for n, data := range all {
			if strings.HasPrefix(n, name) {
				if all[n] = f(data); all[n] == nil {
					delete(all, n)
				}
			}
		}
		return archiveOf(t, all)
	}
	layer, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layer[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	flip := func(data []byte) []byte { data[len(data)/2] ^= 1; return data }
	for _, test := range []struct {
		name string
		data []byte
		want string
	}{
		{"text", []byte("root:x:0:0:root\n"), "neither an OCI image layout nor"},
		{"nothing", nil, "the archive is empty"},
		{"tar of nothing", tarOf(t), "the archive is empty"},
		{"other tar", tarOf(t, entry{name: "f"}), "neither an OCI image layout nor"},
		{"skopeo's dir", tarOf(t, entry{name: "manifest.json", data: `{"schemaVersion": 2}`}), "neither an OCI image layout nor"},
		{"cut", good[:700], "unexpected EOF"},
		{"cut gzip", gzipped(good)[:500], "unexpected EOF"},
		{"docker before 1.10", tarOf(t, entry{name: "repositories", data: "{}"}), "before 1.10"},
		{"no config", change(good, "sha256:", func([]byte) []byte { return nil }), "the archive has no sha256:"},
		{"other layer", change(good, digest.Hex, flip), "unpack layer"},
		{"blob of a layout changed", change(layout.Bytes(), "blobs/sha256/"+digest.Hex, flip), "has digest sha256:"},
		{"blob of a layout gone", change(layout.Bytes(), "blobs/sha256/"+digest.Hex, func([]byte) []byte { return nil }), "the archive lacks " + digest.String()},
		{"no JSON", change(layout.Bytes(), "index.json", func([]byte) []byte { return []byte("{") }), "index.json"},
		{"another machine's", change(layout.Bytes(), "index.json", func(data []byte) []byte {
			return bytes.ReplaceAll(data, []byte(`"architecture":"amd64"`), []byte(`"architecture":"s390x"`))
		}), "no image for linux/amd64, only linux/s390x"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, dir)
			loaded, err := s.Load(t.Context(), bytes.NewReader(test.data), nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("loaded %v, %v; want %q", loaded, err, test.want)
			}
			if left := unnamed(t, dir); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
			if images, _ := s.List(); len(images) != 0 {
				t.Errorf("images: %v", images)
			}
		})
	}
}

// Names in an archive are keys, not paths.
func TestLoadEscape(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	data := tarOf(t, entry{name: "../../escaped", data: "x"}, entry{name: "/tmp/escaped", data: "x"}, entry{name: "manifest.json", link: "../../../../etc/passwd"},
		entry{name: "loop", link: "loop"})
	if _, err := s.Load(t.Context(), bytes.NewReader(data), nil); err == nil {
		t.Error("loaded")
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "escaped")); len(found) > 0 {
		t.Errorf("written outside: %v", found)
	}
}

func TestImport(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	ref := parse(t, "mine:v1")
	root := tarOf(t, entry{name: "bin/"}, entry{name: "bin/f", data: "x"})
	img, err := s.Import(t.Context(), bytes.NewReader(gzipped(root)), image.ImportOptions{Ref: &ref, Message: "m", Changes: []string{
		`CMD ["a", "b c"]`, `ENTRYPOINT run me`, `ENV A=b "C=d e" F=1`, `ENV G h i`, `EXPOSE 80 53/udp`, `LABEL x="y z"`, `VOLUME ["/data"]`,
		`workdir /w`, `USER 7:8`, `STOPSIGNAL SIGQUIT`,
	}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"entrypoint":["/bin/sh","-c","run me"],"cmd":["a","b c"],"env":["A=b","C=d e","F=1","G=h i"],"user":"7:8","workingDir":"/w",` +
		`"stopSignal":"SIGQUIT","exposedPorts":["53/udp","80/tcp"],"volumes":["/data"],"labels":{"x":"y z"}}`
	slices.Sort(img.Config.ExposedPorts)
	if got, _ := json.Marshal(img.Config); string(got) != want {
		t.Errorf("config %s\nwant %s", got, want)
	}
	if data, err := os.ReadFile(filepath.Join(mount(t, s, img), "bin/f")); err != nil || string(data) != "x" {
		t.Errorf("file of an imported image: %q, %v", data, err)
	}
	for _, bad := range []string{"RUN x", "CMD", "ENV =x", `ENV A="b`} {
		if _, err := s.Import(t.Context(), bytes.NewReader(root), image.ImportOptions{Changes: []string{bad}}); err == nil || !strings.Contains(err.Error(), "change") {
			t.Errorf("change %q: %v", bad, err)
		}
	}
	if _, err := s.Import(t.Context(), strings.NewReader("no tar at all, but some text that is longer than a block"+strings.Repeat(".", 600)), image.ImportOptions{}); err == nil {
		t.Error("text was imported")
	}
	if left := leftovers(t, dir); len(left) != 0 {
		t.Errorf("left in tmp: %v", left)
	}
}

// An image without content says how to get it, and a pull does.
func TestRefill(t *testing.T) {
	srv := newServer(t)
	srv.push(t, "a", imageOf(t, tarOf(t, entry{name: "f", data: "x"})))
	dir := t.TempDir()
	s := openStore(t, dir)
	ref := parse(t, srv.host+"/a")
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	forgetContent(t, s, dir)
	s = openStore(t, dir)
	err := s.Save(t.Context(), io.Discard, []string{srv.host + "/a"}, image.FormatOCI)
	if err == nil || hint.Of(err) != fmt.Sprintf(`pull it again with "podrun pull %s/a:latest"`, srv.host) {
		t.Errorf("save without content: %v; %s", err, hint.Of(err))
	}
	if _, err := s.Push(t.Context(), ref, image.PushOptions{}); err == nil || hint.Of(err) == "" {
		t.Errorf("push without content: %v", err)
	}
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{Content: true}); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(t.Context(), io.Discard, []string{srv.host + "/a"}, image.FormatOCI); err != nil {
		t.Errorf("save after the pull: %v", err)
	}
}

// Damaged content is found out when it is read, and pulled again.
func TestDamagedContent(t *testing.T) {
	srv := newServer(t)
	img := imageOf(t, tarOf(t, entry{name: "f", data: "x"}))
	srv.push(t, "a", img)
	layers, _ := img.Layers()
	digest, _ := layers[0].Digest()
	dir := t.TempDir()
	s := openStore(t, dir)
	ref := parse(t, srv.host+"/a")
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "blobs", "sha256", digest.Hex)
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(t.Context(), io.Discard, []string{ref.String()}, image.FormatDocker); err == nil {
		t.Error("damaged content was saved")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("damaged content is kept: %v", err)
	}
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{Content: true}); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(t.Context(), io.Discard, []string{ref.String()}, image.FormatDocker); err != nil {
		t.Error(err)
	}
}

// A push sends what the registry lacks, and leaves there what is here.
func TestPush(t *testing.T) {
	srv := newServer(t)
	base := tarOf(t, entry{name: "base"})
	img := imageOf(t, base, tarOf(t, entry{name: "app"}))
	s := openStore(t, t.TempDir())
	if _, err := s.Load(t.Context(), bytes.NewReader(oldArchive(t, "app:v1", img)), nil); err != nil {
		t.Fatal(err)
	}
	push := func(to string) map[string]string {
		t.Helper()
		ref := parse(t, srv.host+to)
		if err := s.Tag("app:v1", ref); err != nil {
			t.Fatal(err)
		}
		status := map[string]string{}
		pushed, err := s.Push(t.Context(), ref, image.PushOptions{Progress: func(p image.Progress) { status[p.Layer] = p.Status }})
		if err != nil {
			t.Fatal(err)
		}
		target, _ := name.ParseReference(srv.host+to, name.Insecure)
		there, err := remote.Image(target)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := there.Digest(); err != nil || image.Digest(d.String()) != pushed.Digest {
			t.Errorf("the registry has %v, %v; want %s", d, err, pushed.Digest)
		}
		want, _ := img.ConfigName()
		if got, err := there.ConfigName(); err != nil || got != want {
			t.Errorf("config %v, %v; want %v", got, err, want)
		}
		return status
	}
	for layer, status := range push("/a:v1") {
		if status != image.StatusPushed {
			t.Errorf("layer %s: %s", layer, status)
		}
	}
	for layer, status := range push("/a:v2") {
		if status != image.StatusInPlace {
			t.Errorf("layer %s, which is there: %s", layer, status)
		}
	}
}
