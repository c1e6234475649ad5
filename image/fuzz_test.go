package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const emptyDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// An image's config: what is kept of it is found again.
func FuzzConfig(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["` + emptyDigest + `"]},"history":[{"empty_layer":true}]}`,
		`{"config":{"Env":["A","=B"],"Entrypoint":[],"Cmd":null,"User":"a:b","ExposedPorts":{"80/tcp":{},"x":{}},"Volumes":{"../v":{}},"StopSignal":"SIGX","Labels":{"":""}}}`,
		`{"created":"2026-01-02T15:04:05Z","rootfs":{"diff_ids":["sha256:12"]}}`, `{"rootfs":{"diff_ids":[null]}}`, `{"created":"99999-01-01T00:00:00Z"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := v1.ParseConfigFile(bytes.NewReader(data))
		if err != nil {
			return
		}
		img := newImage(emptyDigest, config)
		for _, l := range img.Layers {
			if !l.valid() {
				t.Errorf("accepted the layer %q", l)
			}
		}
		stored, err := json.Marshal(img)
		if err != nil {
			t.Fatalf("cannot be stored: %v", err)
		}
		if err := json.Unmarshal(stored, new(Image)); err != nil {
			t.Errorf("cannot be read again: %v: %s", err, stored)
		}
	})
}

// Files of credentials, docker's and older: what is found is for the registry.
func FuzzCredentials(f *testing.F) {
	for _, s := range []string{
		`{"auths":{"reg.example":{"auth":"dTpw"},"https://index.docker.io/v1/":{"username":"u","password":"p"}}}`,
		`{"reg.example":{"identitytoken":"t"},"*.example":{"auth":"dTpwAA=="}}`, `{"auths":{"reg.example/a/b":{"auth":"x"},"":{},"[":{}}}`, `{"auths":null}`, `[]`,
	} {
		f.Add([]byte(s), "reg.example/a/b")
		f.Add([]byte(s), "busybox")
	}
	f.Fuzz(func(t *testing.T, data []byte, repository string) {
		target, err := name.NewRepository(repository)
		if err != nil {
			return
		}
		for _, parse := range []func([]byte) (Credentials, error){ParseDockerConfig, ParseDockercfg} {
			c, err := parse(data)
			if err != nil {
				continue
			}
			found, err := c.Resolve(target)
			if err == nil && len(c) == 0 && found != authn.Anonymous {
				t.Errorf("found %v in %q", found, data)
			}
			for key := range c {
				host, _, _ := strings.Cut(canonical(key), "/")
				if !strings.Contains(host, "*") && host != target.RegistryStr() && matchHost(canonical(key), target.String()) {
					t.Errorf("%q is for %s", key, target)
				}
			}
		}
	})
}

// What a registry says when it refuses: a line on somebody's terminal.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"errors":[{"code":"DENIED","message":"no \u001b[31m entry\n"}]}`), "120")
	f.Add([]byte(`{"errors":[{}]}`), "Wed, 21 Oct 2015 07:28:00 GMT")
	f.Add([]byte(`{"errors":null}`), "-1")
	f.Add([]byte("<html>"), "99999999999999999999")
	f.Fuzz(func(t *testing.T, body []byte, after string) {
		answer := &http.Response{StatusCode: http.StatusTooManyRequests, Body: io.NopCloser(bytes.NewReader(body)), Header: http.Header{"Retry-After": {after}}}
		e := readAnswer(answer)
		if e.After < 0 {
			t.Errorf("to come again in %v", e.After)
		}
		if i := strings.IndexFunc(e.Error(), func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q would not stay on its line", e.Error())
		}
	})
}

// Archives of images: @CONFIG, @MANIFEST and @SIZE stand for what would be right.
func FuzzArchive(f *testing.F) {
	const config = `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["` + emptyDigest + `"]}}`
	const manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"@CONFIG","size":@SIZE},"layers":[]}`
	const index = `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"@MANIFEST","size":@SIZE,"platform":{"os":"linux","architecture":"amd64"},"annotations":{"org.opencontainers.image.ref.name":"a/b:c"}}]}`
	const docker = `[{"Config":"config.json","RepoTags":["a:b"],"Layers":["layer.tar","../layer.tar"]}]`
	for _, s := range [][4]string{
		{index, manifest, config, ""}, {"", "", config, docker}, {index, "", "", ""}, {`{"manifests":[{}]}`, "null", "null", ""}, {"", "", "", "[{}]"}, {"", "", "null", "null"},
	} {
		f.Add(s[0], s[1], s[2], s[3])
	}
	s, err := Open(f.TempDir(), Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	f.Fuzz(func(t *testing.T, index, manifest, config, docker string) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		add := func(name, text string) {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(text)), Mode: 0o600}); err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(w, text)
		}
		blob := func(text string) *strings.Replacer {
			sum := sha256.Sum256([]byte(text))
			digest := hex.EncodeToString(sum[:])
			add("blobs/sha256/"+digest, text)
			return strings.NewReplacer("@CONFIG", "sha256:"+digest, "@MANIFEST", "sha256:"+digest, "@SIZE", strconv.Itoa(len(text)))
		}
		index = blob(blob(config).Replace(manifest)).Replace(index)
		for name, text := range map[string]string{"index.json": index, "manifest.json": docker, "config.json": config, "layer.tar": config} {
			if text != "" {
				add(name, text)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		sp, err := s.spool(t.Context(), &b)
		if err != nil {
			t.Fatalf("a tar is none: %v", err)
		}
		defer func() { _ = sp.remove() }()
		list, err := s.inArchive(sp)
		if err == nil && len(list) == 0 {
			t.Error("neither images nor an error")
		}
		if err != nil {
			return
		}
		for _, in := range list {
			for _, l := range in.layers {
				if !strings.HasPrefix(l.path, sp.dir+"/") {
					t.Errorf("a layer at %s", l.path)
				}
			}
			for _, n := range in.names {
				if again, err := ParseReference(n.String()); err != nil || again.String() != n.String() {
					t.Errorf("the name %v is %v, %v", n, again, err)
				}
			}
		}
	})
}
