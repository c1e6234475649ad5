package integration

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"get.podrun.dev/podrun/integration/registry"
)

// refused is what a pull that fails says on stderr.
func (e *env) refused(image string) string {
	e.t.Helper()
	r := e.run("pull", "-q", image)
	if r.code != 1 || r.out != "" {
		e.t.Errorf("want exit 1 and no output: %v", r)
	}
	return r.err
}

// TestLayersRefused: what podrun does not unpack is named, with a mend, and
// leaves nothing.
func TestLayersRefused(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "PODRUN_LAYER_MAX_FILES=10")
	push := func(name string, files ...registry.File) {
		t.Helper()
		layer, err := registry.Layer(files...)
		if err != nil {
			t.Fatal(err)
		}
		image, err := registry.Image(v1.Config{Cmd: []string{"sh"}}, layer)
		if err != nil {
			t.Fatal(err)
		}
		if err := images.Push(context.Background(), name+":latest", image); err != nil {
			t.Fatal(err)
		}
	}
	many := make([]registry.File, 11)
	for i := range many {
		many[i] = registry.File{Name: fmt.Sprint("f", i), Mode: 0o644}
	}
	push("library/manyfiles", many...)
	mustContain(t, e.refused("manyfiles"), "the layer is too large: more than 10 files", "PODRUN_LAYER_MAX_FILES")
	push("library/foreign", registry.File{Name: "etc/", Mode: 0o755}, registry.File{Name: "etc/theirs", Mode: 0o644, UID: 4_000_000_000})
	if os.Geteuid() != 0 {
		mustContain(t, e.refused("foreign"), `"etc/theirs": it belongs to user 4000000000`, "/etc/subuid")
	} else {
		e.ok("pull", "foreign")
	}
	push("library/escape", registry.File{Name: "../../escape", Mode: 0o644, Data: []byte("x")})
	mustContain(t, e.refused("escape"), `"../../escape" leads out of the layer`)
	if left, _ := os.ReadDir(filepath.Join(e.data, "images", "tmp")); len(left) > 0 {
		t.Errorf("left in tmp: %v", left)
	}
}

// TestPullWarns: what of a layer cannot be kept is counted and said.
func TestPullWarns(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666},
		{Name: "label", Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{"SCHILY.xattr.trusted.label": "x"}},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	pushImage(t, "library/warns:latest", layer)
	r := e.run("pull", "warns")
	want := []string{"Warning: layer ", "extended attributes are left out: trusted.label (1)"}
	if os.Geteuid() != 0 {
		want = append(want, "1 device node is left out (dev/null): an ordinary user may make none")
	}
	if r.code != 0 {
		t.Errorf("want exit 0: %v", r)
	}
	mustContain(t, r.err, want...)
}
