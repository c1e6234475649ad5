package image_test

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"get.podrun.dev/podrun/image"
)

// The keys are those that docker, podman and Kubernetes' pages have.
func TestCredentials(t *testing.T) {
	c, err := image.ParseDockerConfig([]byte(`{"auths": {
		"https://index.docker.io/v1/": {"username": "hub", "password": "p"},
		"reg.example.com": {"auth": "cmVnOnA="},
		"reg.example.com/team": {"auth": "dGVhbTpwOnE="},
		"http://other.example.com:5000": {"username": "port", "password": "p"},
		"*.example.com": {"username": "any", "password": "p"},
		"*.cloud.io/shop": {"username": "shop", "password": "p"}
	}}`))
	if err != nil {
		t.Fatal(err)
	}
	for reference, want := range map[string]string{
		"busybox":                         "hub p",
		"docker.io/me/app":                "hub p",
		"reg.example.com/app":             "reg p",
		"reg.example.com/team/app":        "team p:q",
		"reg.example.com/teams/app":       "reg p",
		"other.example.com:5000/app":      "port p",
		"third.example.com/app":           "any p",
		"a.third.example.com/app":         "",
		"eu.cloud.io/shop/cart":           "shop p",
		"eu.cloud.io/shopping/cart":       "",
		"reg.example.com.evil.org/team/x": "",
	} {
		ref, err := name.ParseReference(reference)
		if err != nil {
			t.Fatal(err)
		}
		found, err := c.Resolve(ref.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if found != authn.Anonymous {
			config, err := found.Authorization()
			if err != nil {
				t.Fatal(err)
			}
			got = config.Username + " " + config.Password
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", reference, got, want)
		}
	}
	if c, err = image.ParseDockercfg([]byte(`{"reg.example.com": {"auth": "!"}}`)); err != nil || len(c) != 1 {
		t.Fatalf("%v %v", c, err)
	}
	ref, _ := name.ParseReference("reg.example.com/app")
	if _, err := c.Resolve(ref.Context()); err == nil {
		t.Error("an entry that is no base64 is taken")
	}
}
