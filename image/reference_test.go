package image_test

import (
	"strings"
	"testing"

	"get.podrun.dev/podrun/image"
)

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
