package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"get.podrun.dev/podrun/integration/registry"
)

// noise is what no compression makes smaller.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

// pushNoise pushes an image of two layers that no other image has.
func pushNoise(t *testing.T, repository string, seed uint64) {
	t.Helper()
	var layers []v1.Layer
	for i := range uint64(2) {
		l, err := registry.Layer(registry.File{Name: fmt.Sprint("data", i), Mode: 0o644, Data: noise(seed*2+i, 300_000)})
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, l)
	}
	pushImage(t, repository, layers...)
}

func pushImage(t *testing.T, repository string, layers ...v1.Layer) {
	t.Helper()
	image, err := registry.Image(v1.Config{Cmd: []string{"/none"}}, layers...)
	if err != nil {
		t.Fatal(err)
	}
	if err := images.Push(context.Background(), repository, image); err != nil {
		t.Fatal(err)
	}
}

// kept is what the image store of e has on disk, beside the file that says so.
func (e *env) kept() []string {
	var found []string
	for _, dir := range []string{"tmp", "layers", "blobs/sha256"} {
		entries, err := os.ReadDir(filepath.Join(e.data, "images", dir))
		if err != nil {
			e.t.Fatal(err)
		}
		for _, entry := range entries {
			found = append(found, dir+"/"+entry.Name())
		}
	}
	data, err := os.ReadFile(filepath.Join(e.data, "images", "images.json"))
	var index struct {
		Images map[string]any `json:"images"`
		Names  map[string]any `json:"names"`
	}
	if err == nil {
		if err := json.Unmarshal(data, &index); err != nil {
			e.t.Fatal(err)
		}
	}
	for id := range index.Images {
		found = append(found, id)
	}
	for name := range index.Names {
		found = append(found, name)
	}
	return found
}

// once is a harm that is done the first n times.
func once(n int, h harm) func(ask) harm {
	return func(a ask) harm {
		if a.times <= n {
			return h
		}
		return harm{}
	}
}

// TestPullFaults: whatever a registry does wrong, a pull ends with the whole
// image, or with one line that says what was wrong and nothing left. All go on
// at once, as the pulls of many pods may.
func TestPullFaults(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "PODRUN_PULL_TIMEOUT=1s", "PODRUN_PULL_PARALLEL=16", "PODRUN_LAYER_MAX_SIZE=64Mi", "PODRUN_IMAGE_MAX_DOWNLOAD=1Mi")
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	always := func(h harm) func(ask) harm { return func(ask) harm { return h } }
	var all sync.WaitGroup
	var whole sync.Map
	for i, tt := range []struct {
		name, kind string
		harm       func(ask) harm
		want       string // what the line says; "" for a whole image
	}{
		{"cut", "layer", once(1, harm{cut: 100_000}), ""},
		{"cut-often", "layer", always(harm{cut: 80_000}), ""},
		{"cut-ignore-range", "layer", func(a ask) harm {
			if a.times < 4 {
				return harm{ignoreRange: true, cut: 70_000 * a.times}
			}
			return harm{ignoreRange: true}
		}, ""},
		{"cut-same-byte", "layer", always(harm{ignoreRange: true, cut: 5000}), "ended after 5000 of "},
		{"cut-config", "config", once(2, harm{cut: 100}), ""},
		{"cut-manifest", "manifest", once(2, harm{cut: 100}), ""},
		{"slow", "layer", always(harm{pause: 30 * time.Millisecond}), ""},
		{"stall", "layer", once(1, harm{stall: 100_000}), ""},
		{"stall-always", "layer", always(harm{ignoreRange: true, stall: 5000}), "nothing came for 1s"},
		{"stall-manifest", "manifest", once(1, harm{stall: 10}), ""},
		{"stall-ping", "ping", once(1, harm{pause: 2 * time.Second}), ""},
		{"short", "layer", once(1, harm{noLength: true, change: func(b []byte) []byte { return b[:len(b)/3] }}), ""},
		{"corrupt", "layer", always(harm{change: flip}), "not what its manifest says"},
		{"corrupt-config", "config", always(harm{change: flip}), "not what its manifest says"},
		{"corrupt-manifest", "manifest", always(harm{change: flip}), "manifest"},
		{"reordered", "layer", always(harm{change: func(b []byte) []byte {
			half := len(b) / 2
			return append(bytes.Clone(b[half:]), b[:half]...)
		}}), "not what its manifest says"},
		{"swapped-late", "layer", always(harm{change: func(b []byte) []byte {
			from := b[200_000:]
			slices.Reverse(from[:1000])
			return b
		}}), "not what its manifest says"},
		{"longer", "layer", always(harm{change: func(b []byte) []byte { return append(b, "more"...) }}), "announced with"},
		{"announced-longer", "layer", always(harm{announce: 1 << 20}), "announced with 1048576 bytes"},
		{"announced-shorter", "layer", always(harm{announce: 1000}), "announced with 1000 bytes"},
		{"endless", "layer", always(harm{noLength: true, change: func(b []byte) []byte { return append(b, make([]byte, 8<<20)...) }}), ""},
		{"large-manifest", "manifest", always(harm{change: func(b []byte) []byte { return append(b, bytes.Repeat([]byte(" "), 16<<20)...) }}), "larger than podrun takes"},
		{"429", "layer", once(1, harm{status: 429, headers: map[string]string{"Retry-After": "1"}}), ""},
		{"429-manifest", "manifest", once(2, harm{status: 429}), ""},
		{"429-long", "manifest", always(harm{status: 429, headers: map[string]string{"Retry-After": "3600"}}), "asks to come again in 1h0m0s"},
		{"500", "layer", once(3, harm{status: 500}), ""},
		{"500-always", "layer", always(harm{status: 500}), "500 Internal Server Error, 5 times"},
		{"503-ping", "ping", once(2, harm{status: 503, headers: map[string]string{"Retry-After": "0"}}), ""},
		{"503-config", "config", once(1, harm{status: 503}), ""},
		{"404-layer", "layer", always(harm{status: 404}), "no such image"},
	} {
		pushNoise(t, "fault/"+tt.name, uint64(i))
		p := newProxy(t, images.Address, func(a ask) harm {
			if a.kind != tt.kind {
				return harm{}
			}
			return tt.harm(a)
		})
		all.Go(func() {
			name := p.address + "/fault/" + tt.name
			out, err := e.command("pull", "--quiet", name).CombinedOutput()
			line := string(out)
			switch {
			case tt.want == "" && err == nil && line == name+":latest\n":
				whole.Store(name, true)
			case tt.want != "" && err != nil && strings.Contains(line, tt.want) && strings.Count(line, "\n") == 1 && strings.HasPrefix(line, "podrun: cannot pull "):
			default:
				t.Errorf("%s: want %q, got %v: %s", tt.name, tt.want, err, line)
			}
			if p.times("/") < 2 {
				t.Errorf("%s: the proxy was asked %d times", tt.name, p.times("/"))
			}
		})
	}
	all.Go(func() {
		zeroes, err := registry.Layer(registry.File{Name: "bomb", Mode: 0o644, Data: make([]byte, 80<<20)})
		if err != nil {
			t.Error(err)
			return
		}
		pushImage(t, "fault/bomb", zeroes)
		out, err := e.command("pull", "--quiet", images.Address+"/fault/bomb").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "67108864 bytes") || !strings.Contains(string(out), "PODRUN_LAYER_MAX_SIZE") || strings.Count(string(out), "\n") != 1 {
			t.Errorf("a bomb: %v: %s", err, out)
		}
	})
	all.Go(func() {
		large, err := registry.Layer(registry.File{Name: "large", Mode: 0o644, Data: noise(1000, 1<<20+1)})
		if err != nil {
			t.Error(err)
			return
		}
		pushImage(t, "fault/large", large)
		out, err := e.command("pull", "--quiet", images.Address+"/fault/large").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "1048576 bytes") || !strings.Contains(string(out), "PODRUN_IMAGE_MAX_DOWNLOAD") {
			t.Errorf("a large image: %v: %s", err, out)
		}
	})
	all.Wait()
	// What is whole is gone with its name; of the rest nothing is there.
	whole.Range(func(name, _ any) bool {
		e.ok("rmi", name.(string))
		return true
	})
	if left := e.kept(); len(left) != 0 {
		t.Errorf("left in the store: %v", left)
	}
}

// TestPodWithFlakyRegistry: a pod does not notice a registry that has a bad day.
func TestPodWithFlakyRegistry(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := newProxy(t, images.Address, func(a ask) harm {
		switch {
		case a.kind == "layer" && a.times < 3:
			return harm{cut: 300_000 * a.times}
		case a.times == 1:
			return harm{status: 503}
		}
		return harm{}
	})
	e.start(strings.Replace(podYAML("a", "", "c=exec sleep 3600"), "image: busybox", "image: \""+p.address+"/library/busybox\"", 1), "a")
	mustContain(t, e.ok("describe", "pod", "a"), "Successfully pulled image")
	if n := p.times("/blobs/"); n < 4 {
		t.Errorf("blobs were asked for %d times", n)
	}
}
