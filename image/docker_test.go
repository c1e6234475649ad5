package image_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// What docker itself saved: the layout of before version 25, where a layer that
// is there already is a symbolic link; that of later ones, with plain layers and
// manifest.json; and the same of its containerd image store. Of the two images
// one has two names, and they share layers in another order.
func TestLoadOfDocker(t *testing.T) {
	for _, file := range []string{"docker-20.10.tar.gz", "docker-26.1.tar.gz", "docker-26.1-containerd.tar.gz"} {
		t.Run(file, func(t *testing.T) {
			archive, err := os.ReadFile(filepath.Join("testdata", file))
			if err != nil {
				t.Fatal(err)
			}
			s := openStore(t, t.TempDir())
			if _, err := s.Load(t.Context(), bytes.NewReader(archive), nil); err != nil {
				t.Fatal(err)
			}
			for name, id := range map[string]string{ // as "docker images" has them
				"app:v1":                  "sha256:4736dbc0bb5ba655cbc5a98065a887dfd94798c90ca1be080bd842e76a47e88d",
				"reg.example/team/app:v2": "sha256:4736dbc0bb5ba655cbc5a98065a887dfd94798c90ca1be080bd842e76a47e88d",
				"other:v1":                "sha256:5273e84574d63a5fceb2bb0a506db64696938d9141e8c35b59e82cad932f2f78",
			} {
				img, err := s.Lookup(parse(t, name))
				if err != nil || string(img.ID) != id {
					t.Errorf("%s: %+v, %v; want %s", name, img, err, id)
					continue
				}
				var got []string
				dir := mount(t, s, img)
				for _, f := range []string{"one", "two", "again"} {
					data, err := os.ReadFile(filepath.Join(dir, f))
					if err != nil {
						t.Error(err)
					}
					got = append(got, string(data))
				}
				if want := []string{"one\n", "two\n", "one\n"}; !slices.Equal(got, want) {
					t.Errorf("%s: files have %q, want %q", name, got, want)
				}
			}
		})
	}
}
