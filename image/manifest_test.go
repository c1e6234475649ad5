package image_test

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"get.podrun.dev/podrun/image"
)

// imageFor is an image that says it is for a platform.
func imageFor(t *testing.T, p image.Platform) v1.Image {
	t.Helper()
	img := imageOf(t, tarOf(t, entry{name: "for", data: p.String()}))
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Variant = p.OS, p.Architecture, p.Variant
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

func platform(t *testing.T, s string) image.Platform {
	t.Helper()
	p, err := image.ParsePlatform(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (s *server) pushIndex(t *testing.T, repository string, index v1.ImageIndex) {
	t.Helper()
	ref, err := name.ParseReference(s.host+"/"+repository, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
}

// indexOf is an index of images for platforms as they are written there: "" is
// none, "unknown/unknown" an attestation.
func indexOf(t *testing.T, platforms ...string) v1.ImageIndex {
	t.Helper()
	index := v1.ImageIndex(empty.Index)
	for _, s := range platforms {
		var d v1.Descriptor
		parts := append(strings.Split(s, "/"), "", "")
		p := image.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
		if s != "" {
			d.Platform = &v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: imageFor(t, p), Descriptor: d})
	}
	return index
}

// The choice is that of containerd's platforms.
func TestPlatformOfAnIndex(t *testing.T) {
	srv := newServer(t)
	for i, c := range []struct {
		index []string
		want  string // asked for
		get   string // what the image is for, or what the error says after "error"
	}{
		{[]string{"linux/arm64", "linux/amd64", "linux/s390x"}, "linux/amd64", "linux/amd64"},
		{[]string{"linux/amd64", "linux/amd64/v2", "linux/amd64/v3"}, "linux/amd64", "linux/amd64"},
		{[]string{"linux/amd64", "linux/amd64/v2", "linux/amd64/v3"}, "linux/amd64/v3", "linux/amd64/v3"},
		{[]string{"linux/amd64", "linux/amd64/v2"}, "linux/amd64/v4", "linux/amd64/v2"},
		{[]string{"linux/amd64/v1"}, "linux/amd64", "linux/amd64"},
		{[]string{"linux/amd64/v2"}, "linux/amd64", "error the image is not made for linux/amd64, only for linux/amd64/v2"},
		{[]string{"linux/arm/v5", "linux/arm/v6", "linux/arm/v7"}, "linux/arm/v7", "linux/arm/v7"},
		{[]string{"linux/arm/v5", "linux/arm/v6"}, "linux/arm/v7", "linux/arm/v6"},
		{[]string{"linux/arm/v7"}, "linux/arm/v6", "error only for linux/arm/v7"},
		{[]string{"linux/arm", "linux/arm/v6"}, "linux/arm", "linux/arm"},
		{[]string{"linux/arm64/v8"}, "linux/arm64", "linux/arm64"},
		{[]string{"linux/arm64"}, "linux/arm64/v8", "linux/arm64"},
		{[]string{"linux/arm/v8", "linux/arm64"}, "aarch64", "linux/arm64"},
		{[]string{"linux/arm/v7"}, "linux/arm64", "error only for linux/arm/v7"},
		{[]string{"windows/amd64", "linux/amd64"}, "linux/x86_64", "linux/amd64"},
		{[]string{"windows/amd64"}, "linux/amd64", "error only for windows/amd64"},
		{[]string{"unknown/unknown", "linux/amd64"}, "linux/amd64", "linux/amd64"},
		{[]string{"unknown/unknown"}, "linux/amd64", "error the index has no image in it"},
		{nil, "linux/amd64", "error the index has no image in it"},
	} {
		repository := fmt.Sprint("app", i)
		srv.pushIndex(t, repository, indexOf(t, c.index...))
		img, err := openQuick(t, t.TempDir(), quick).Pull(t.Context(), parse(t, srv.host+"/"+repository), image.PullOptions{Platform: platform(t, c.want)})
		if want, bad := strings.CutPrefix(c.get, "error "); bad {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s of %v: error %v, want %q in it", c.want, c.index, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s of %v: %v", c.want, c.index, err)
		} else if got := platform(t, img.Platform.String()); got != platform(t, c.get) {
			t.Errorf("%s of %v: got the image for %s, want %s", c.want, c.index, got, c.get)
		}
	}
	for s, want := range map[string]string{
		"": "os/architecture", "/": "os/architecture", "linux/": "os/architecture", "linux/amd64/v1/x": "os/architecture", "linux/a b": "os/architecture",
		"windows/amd64": "linux images only", "foo": `unknown architecture "foo"`, "linux": `unknown architecture "linux"`, "linux/amd65": "there are 386, amd64, arm,",
	} {
		if p, err := image.ParsePlatform(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParsePlatform(%q) = %v, %v; want %q", s, p, err, want)
		}
	}
}

func TestNestedIndex(t *testing.T) {
	srv := newServer(t)
	inner := indexOf(t, "linux/arm64", "linux/amd64")
	nested := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: inner})
	srv.pushIndex(t, "nested", nested)
	s := openQuick(t, t.TempDir(), quick)
	img, err := s.Pull(t.Context(), parse(t, srv.host+"/nested"), image.PullOptions{})
	if err != nil || img.Platform.Architecture != "amd64" {
		t.Errorf("got %v, %v", img, err)
	}
	for range 5 {
		nested = mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: nested})
	}
	srv.pushIndex(t, "deep", nested)
	if _, err := s.Pull(t.Context(), parse(t, srv.host+"/deep"), image.PullOptions{}); err == nil || !strings.Contains(err.Error(), "more than 4 deep") {
		t.Errorf("indexes in indexes in indexes: %v", err)
	}
}

// A name may stand for two platforms, one after the other.
func TestPlatformOfANameChanges(t *testing.T) {
	srv := newServer(t)
	srv.pushIndex(t, "app", indexOf(t, "linux/arm64", "linux/amd64"))
	srv.push(t, "single", imageFor(t, image.Platform{OS: "linux", Architecture: "s390x"}))
	s := openQuick(t, t.TempDir(), quick)
	ref := parse(t, srv.host+"/app")
	for _, want := range []string{"arm64", "amd64", "arm64"} {
		img, err := s.Pull(t.Context(), ref, image.PullOptions{Platform: platform(t, want)})
		if err != nil || img.Platform.Architecture != want {
			t.Errorf("asked for %s: %v, %v", want, img, err)
		}
		if found, err := s.Lookup(ref); err != nil || found.ID != img.ID {
			t.Errorf("asked for %s: the name stands for %v, %v", want, found, err)
		}
	}
	if img, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil || img.Platform.Architecture != "amd64" {
		t.Errorf("without a platform: %v, %v", img, err)
	}
	if _, err := s.Pull(t.Context(), parse(t, srv.host+"/single"), image.PullOptions{}); err == nil || !strings.Contains(err.Error(), "only for linux/s390x") {
		t.Errorf("an image of another platform without an index: %v", err)
	}
	if _, err := s.Pull(t.Context(), parse(t, srv.host+"/single"), image.PullOptions{Platform: platform(t, "s390x")}); err != nil {
		t.Errorf("the same, asked for: %v", err)
	}
}

// What is no image that podrun can run is refused by name, before any layer of
// it is asked for.
func TestNoImage(t *testing.T) {
	srv := newServer(t)
	files := tarOf(t, entry{name: "f"})
	with := func(change func(v1.Image) v1.Image) v1.Image { return change(imageOf(t, files)) }
	layer := func(mediaType types.MediaType) v1.Image {
		return with(func(img v1.Image) v1.Image {
			img, err := mutate.Append(img, mutate.Addendum{Layer: static.NewLayer(files, mediaType), MediaType: mediaType, URLs: []string{"https://maker.example/layer"}})
			if err != nil {
				t.Fatal(err)
			}
			return img
		})
	}
	srv.push(t, "foreign", layer(types.DockerForeignLayer))
	srv.push(t, "restricted", layer(types.OCIUncompressedRestrictedLayer))
	srv.push(t, "wasm", layer("application/vnd.wasm.content.layer.v1+wasm"))
	srv.push(t, "encrypted", layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"))
	srv.push(t, "artifact", with(func(img v1.Image) v1.Image {
		return mutate.ConfigMediaType(img, "application/vnd.cncf.helm.config.v1+json")
	}))
	srv.push(t, "plain", layer(types.OCIUncompressedLayer))
	srv.push(t, "docker", layer(types.DockerUncompressedLayer))
	digest := "sha256:" + strings.Repeat("0", 64)
	documents := map[string][2]string{ // content type and bytes
		"schema1":        {"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"name":"x","fsLayers":[{"blobSum":"` + digest + `"}]}`},
		"schema1unnamed": {"application/json", `{"schemaVersion":1,"fsLayers":[]}`},
		"other":          {"application/vnd.example+json", `{"schemaVersion":2,"mediaType":"application/vnd.example+json"}`},
		"html":           {"text/html", `<html>log in first</html>`},
		"both":           {"application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`},
		"negative":       {"application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest + `","size":-1},"layers":[]}`},
		"overflow":       {"application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest + `","size":9},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"` + digest + `","size":9223372036854775807}]}`},
		"largeconfig":    {"application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest + `","size":99999999},"layers":[]}`},
		"manylayers": {"application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest + `","size":9},"layers":[` +
			strings.Repeat(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"`+digest+`","size":1},`, 2000) + `{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"` + digest + `","size":1}]}`},
		"empty": {"application/vnd.oci.image.manifest.v1+json", ``},
	}
	srv.meddling(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		repository, _, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
		d, there := documents[repository]
		if !ok || !there {
			return false
		}
		w.Header().Set("Content-Type", d[0])
		w.Header().Set("Docker-Content-Digest", fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(d[1]))))
		_, _ = w.Write([]byte(d[1]))
		return true
	})
	for repository, want := range map[string]string{
		"foreign":        `is of type "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", which is not distributable: its maker has it at https://maker.example/layer`,
		"restricted":     "which is not distributable",
		"wasm":           `is of type "application/vnd.wasm.content.layer.v1+wasm", which is no layer of files`,
		"encrypted":      "+encrypted\", which is no layer of files",
		"artifact":       `no image but an artifact of type "application/vnd.cncf.helm.config.v1+json"`,
		"schema1":        "docker's schema 1",
		"schema1unnamed": "docker's schema 1",
		"other":          `no image but "application/vnd.example+json"`,
		"html":           "is no JSON",
		"both":           "an index and an image at once",
		"negative":       "of -1 bytes",
		"overflow":       "to download",
		"largeconfig":    "the image's config has 99999999 bytes",
		"manylayers":     "2001 layers",
		"empty":          "is no JSON",
		"plain":          "",
		"docker":         "",
	} {
		before := srv.requests.Load()
		_, err := openQuick(t, t.TempDir(), quick).Pull(t.Context(), parse(t, srv.host+"/"+repository), image.PullOptions{})
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", repository, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: error %v, want %q in it", repository, err, want)
		case want != "" && srv.requests.Load()-before > 2: // the ping and the manifest
			t.Errorf("%s: %d requests", repository, srv.requests.Load()-before)
		}
	}
}
