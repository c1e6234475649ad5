package image

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

func parseConf(t *testing.T, text string) *Registries {
	t.Helper()
	r, err := ParseRegistries("registries.conf", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustRef(t *testing.T, s string) Reference {
	t.Helper()
	r, err := ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The places are those that containers-registries.conf(5) promises.
func TestEndpoints(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, c := range []struct {
		name, conf string
		refs       map[string]string // what is asked, in order; "!": insecure; what begins with "error" is one
	}{
		{"the man page's", `
[[registry]]
prefix = "example.com/foo"
location = "internal-registry-for-example.com/bar"
[[registry.mirror]]
location = "example-mirror-0.local/mirror-for-foo"
[[registry.mirror]]
location = "example-mirror-1.local/mirrors/foo"
insecure = true
[[registry.mirror]]
location = "registry.com"
`, map[string]string{
			"example.com/foo/image:latest": "example-mirror-0.local/mirror-for-foo/image:latest example-mirror-1.local/mirrors/foo/image:latest! registry.com/image:latest internal-registry-for-example.com/bar/image:latest",
			"example.com/food/image":       "example.com/food/image:latest",
			"example.com/bar":              "example.com/bar:latest",
		}},
		{"prefixes", `
[[registry]]
location = "a.example"
insecure = true
[[registry]]
prefix = "a.example/team"
location = "b.example/x"
[[registry]]
prefix = "a.example/team/app:v1"
location = "c.example/y:v9"
[[registry]]
prefix = "a.example:5000/"
location = "d.example"
[[registry]]
prefix = "docker.io/library"
location = "mirror.example/hub"
`, map[string]string{
			"a.example/x":              "a.example/x:latest!",
			"a.example/team/app":       "b.example/x/app:latest",
			"a.example/team/app:v1":    "c.example/y:v9",
			"a.example/team/app:v10":   "b.example/x/app:v10",
			"a.example:5000/app":       "d.example/app:latest",
			"busybox":                  "mirror.example/hub/busybox:latest",
			"docker.io/user/app":       "docker.io/user/app:latest",
			"a.example/x@" + digest:    "a.example/x@" + digest + "!",
			"a.example.org/team/app":   "a.example.org/team/app:latest",
			"127.0.0.1:5000/a":         "127.0.0.1:5000/a:latest!",
			"a.example/team/app/below": "b.example/x/app/below:latest",
		}},
		{"wildcards", `
[[registry]]
prefix = "*.example.com"
insecure = true
[[registry.mirror]]
location = "mirror.local/all"
[[registry]]
prefix = "*.blocked.com"
blocked = true
[[registry]]
prefix = "*.moved.com"
location = "new.com"
[[registry]]
prefix = "good.blocked.com"
`, map[string]string{
			"x.example.com/app":      "mirror.local/all/app:latest x.example.com/app:latest!",
			"a.x.example.com:5000/b": `error registries.conf leads to "mirror.local/all:5000/b:latest", which names no repository`,
			"example.com/app":        "example.com/app:latest",
			"bad.blocked.com/app":    "error registries.conf blocks this registry (*.blocked.com)",
			"good.blocked.com/app":   "good.blocked.com/app:latest",
			"a.moved.com/team/app":   "new.com/team/app:latest",
		}},
		{"mirrors for digests and tags", `
[[registry]]
location = "only.example"
mirror-by-digest-only = true
[[registry.mirror]]
location = "m.example"
[[registry]]
location = "each.example"
[[registry.mirror]]
location = "all.example"
pull-from-mirror = "all"
[[registry.mirror]]
location = "digest.example"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "tag.example"
pull-from-mirror = "tag-only"
`, map[string]string{
			"only.example/a":              "only.example/a:latest",
			"only.example/a@" + digest:    "m.example/a@" + digest + " only.example/a@" + digest,
			"each.example/a":              "all.example/a:latest tag.example/a:latest each.example/a:latest",
			"each.example/a@" + digest:    "all.example/a@" + digest + " digest.example/a@" + digest + " each.example/a@" + digest,
			"each.example/a:v1@" + digest: "all.example/a@" + digest + " digest.example/a@" + digest + " each.example/a@" + digest,
		}},
	} {
		r := parseConf(t, c.conf)
		for ref, want := range c.refs {
			list, err := r.endpoints(mustRef(t, ref))
			var got []string
			for _, at := range list {
				separator := ":"
				if strings.Contains(at.identifier, ":") {
					separator = "@"
				}
				s := at.registry + "/" + at.repository + separator + at.identifier
				if at.insecure {
					s += "!"
				}
				got = append(got, s)
			}
			if err != nil {
				got = []string{"error " + err.Error()}
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s: %s: got %q, want %q", c.name, ref, strings.Join(got, " "), want)
			}
		}
	}
}

func TestRegistriesMistakes(t *testing.T) {
	for conf, want := range map[string]string{
		"[registries.search]\nregistries = ['a']":                                                         "version 1",
		"[[registry]]\ninsecure = true":                                                                   "neither prefix nor location",
		"[[registry]]\nlocation = \"a\"\n[[registry]]\nprefix = \"a\"":                                    `two [[registry]] tables for "a"`,
		"[[registry]]\nprefix = \"example.*.com\"":                                                        "example.*.com",
		"[[registry]]\nprefix = \"*.example.com/foo\"":                                                    "a wildcard stands before a domain",
		"[[registry]]\nlocation = \"http://a\"":                                                           "insecure = true is for http",
		"[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\ninsecure = true":                            "a mirror has no location",
		"[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\nlocation = \"b\"\npull-from-mirror = \"x\"": `pull-from-mirror is "x"`,
		"[[registry]]\nlocation = \"a\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"b\"\npull-from-mirror = \"all\"": "cannot both be",
		"short-name-mode = \"maybe\"":                                 "not enforcing, permissive or disabled",
		"unqualified-search-registries = [\"a.example/b\"]":           "more than host[:port]",
		"[aliases]\n\"a.example/b\" = \"c.example/d\"":                "not a name without registry",
		"[aliases]\n\"a:v1\" = \"c.example/d\"":                       "not a name without registry",
		"[aliases]\n\"a\" = \"d\"":                                    "not a name with a registry",
		"[aliases]\n\"a\" = \"c.example/d:v1\"":                       "without tag and digest",
		"[aliases]\n\"a\" = \"c.example/d\"\n\"a\" = \"c.example/e\"": "registries.conf:3",
		"unqualified-search-registries = \"docker.io\"":               "registries.conf:1",
	} {
		if _, err := ParseRegistries("registries.conf", []byte(conf)); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "registries.conf:") {
			t.Errorf("%s: error %v, want %q in it", conf, err, want)
		}
	}
}

func TestShortNames(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, c := range []struct{ conf, ref, want string }{
		{"", "busybox", "docker.io/library/busybox:latest"},
		{"", "user/app:v1", "docker.io/user/app:v1"},
		{`unqualified-search-registries = ["quay.io"]`, "user/app:v1", "quay.io/user/app:v1"},
		{`unqualified-search-registries = ["quay.io", "docker.io"]`, "app", "quay.io/app:latest docker.io/library/app:latest"},
		{`unqualified-search-registries = ["quay.io", "docker.io"]`, "docker.io/app", "docker.io/library/app:latest"},
		{`unqualified-search-registries = ["quay.io", "docker.io"]`, "localhost/app", "localhost/app:latest"},
		{`unqualified-search-registries = ["quay.io", "docker.io"]`, "reg:5000/app", "reg:5000/app:latest"},
		{"short-name-mode = \"enforcing\"\nunqualified-search-registries = [\"quay.io\", \"docker.io\"]", "app", `error "app" may be any of quay.io/app:latest, app:latest, and short-name-mode is enforcing`},
		{"short-name-mode = \"enforcing\"\nunqualified-search-registries = [\"quay.io\"]", "app", "quay.io/app:latest"},
		{"short-name-mode = \"disabled\"\nunqualified-search-registries = [\"quay.io\", \"a.example\"]", "app", "quay.io/app:latest a.example/app:latest"},
		{"short-name-mode = \"enforcing\"\nunqualified-search-registries = [\"quay.io\", \"docker.io\"]\n[aliases]\n\"app\" = \"a.example/team/app\"", "app:v2", "a.example/team/app:v2"},
		{"[aliases]\n\"app\" = \"a.example/team/app\"", "app@" + digest, "a.example/team/app@" + digest},
		{"[aliases]\n\"team/app\" = \"a.example/x\"", "team/app", "a.example/x:latest"},
		{"[aliases]\n\"app\" = \"a.example/x\"", "team/app", "docker.io/team/app:latest"},
		{"[aliases]\n\"alpine\" = \"docker.io/library/alpine\"", "alpine", "docker.io/library/alpine:latest"},
	} {
		var got []string
		list, err := parseConf(t, c.conf).pullNames(mustRef(t, c.ref))
		for _, n := range list {
			got = append(got, n.String())
		}
		if err != nil {
			got = []string{"error " + err.Error()}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q with %q: got %q, want %q", c.ref, c.conf, strings.Join(got, " "), c.want)
		}
	}
}

// The files are read in the order of containers-registries.conf.d(5), and read
// again when one changes.
func TestRegistryFiles(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("PODRUN_REGISTRIES_CONF", "")
	t.Setenv("CONTAINERS_REGISTRIES_CONF", "")
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(".config/containers/registries.conf", "unqualified-search-registries = [\"one.example\"]\n[aliases]\n\"gone\" = \"a.example/gone\"\n\"app\" = \"a.example/app\"\n[[registry]]\nlocation = \"r.example\"\ninsecure = true\n")
	write(".config/containers/registries.conf.d/20-b.conf", "unqualified-search-registries = [\"two.example\"]\n[aliases]\n\"app\" = \"b.example/app\"\n\"gone\" = \"\"\n")
	write(".config/containers/registries.conf.d/10-a.conf", "unqualified-search-registries = [\"never.example\"]\n[[registry]]\nlocation = \"r.example\"\nblocked = true\n[[registry]]\nlocation = \"s.example\"\n")
	write(".config/containers/registries.conf.d/notes.txt", "not toml")
	write(".config/containers/registries.conf.d/dir.conf/x", "")
	write(".cache/containers/short-name-aliases.conf", "[aliases]\n\"asked\" = \"c.example/asked\"\n")
	var c conf
	r, err := c.registries()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.Search, []string{"two.example"}) || r.Aliases["app"] != "b.example/app" || r.Aliases["asked"] != "c.example/asked" || len(r.Aliases) != 2 {
		t.Errorf("search %v, aliases %v", r.Search, r.Aliases)
	}
	if len(r.Registries) != 2 || !r.Registries[0].Blocked || r.Registries[0].Insecure {
		t.Errorf("registries %+v, want the later table in the place of the earlier", r.Registries)
	}
	if again, err := c.registries(); err != nil || again != r {
		t.Errorf("read again without need: %v", err)
	}
	write(".config/containers/registries.conf.d/30-c.conf", "short-name-mode = \"enforcing\"\n")
	if again, err := c.registries(); err != nil || again.ShortNameMode != "enforcing" {
		t.Errorf("after a change: %+v, %v", again, err)
	}
	write(".config/containers/registries.conf.d/30-c.conf", "short-name-mode = 3\n")
	if _, err := c.registries(); err == nil || !strings.Contains(err.Error(), "30-c.conf:1") {
		t.Errorf("a broken file: %v, want its name and line", err)
	}
	write("other.conf", "unqualified-search-registries = [\"three.example\"]\n")
	t.Setenv("CONTAINERS_REGISTRIES_CONF", filepath.Join(home, "other.conf"))
	if r, err = LoadRegistries(); err != nil || fmt.Sprint(r.Search, len(r.Aliases), len(r.Registries)) != "[three.example] 0 0" {
		t.Errorf("with a variable: %+v, %v", r, err)
	}
	t.Setenv("PODRUN_REGISTRIES_CONF", filepath.Join(home, "nosuch.conf"))
	if _, err = LoadRegistries(); err == nil || !strings.Contains(err.Error(), "nosuch.conf") {
		t.Errorf("a variable that names no file: %v", err)
	}
}

// What docker saved under a short name is found by it.
func TestLocalShortNames(t *testing.T) {
	r := parseConf(t, `unqualified-search-registries = ["quay.io"]`)
	for ref, want := range map[string]string{
		"app":           "[quay.io/app:latest docker.io/library/app:latest]",
		"docker.io/app": "[docker.io/library/app:latest]",
		"a.example/app": "[a.example/app:latest]",
	} {
		if got := fmt.Sprint(r.localNames(mustRef(t, ref))); got != want {
			t.Errorf("%s: got %s, want %s", ref, got, want)
		}
	}
	if got := fmt.Sprint(parseConf(t, "").localNames(mustRef(t, "app"))); got != "[docker.io/library/app:latest]" {
		t.Errorf("without a file: %s", got)
	}
}

// Whatever a registry sends as a manifest, it is read or refused.
func FuzzDocument(f *testing.F) {
	digest := "sha256:" + strings.Repeat("0", 64)
	for _, s := range []string{
		``, `{}`, `[]`, `null`, `{"schemaVersion":1,"fsLayers":[]}`,
		`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + digest + `","size":2,"platform":{"os":"linux","architecture":"amd64"}}]}`,
		`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest + `","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"` + digest + `","size":1}]}`,
		`{"schemaVersion":2,"config":{"digest":"sha256:12"},"layers":[{}]}`,
	} {
		f.Add("application/vnd.oci.image.manifest.v1+json", []byte(s))
		f.Add("application/vnd.oci.image.index.v1+json", []byte(s))
		f.Add("", []byte(s))
	}
	f.Fuzz(func(t *testing.T, contentType string, data []byte) {
		d := &document{digest: Digest(digest), data: data}
		if err := d.parse(types.MediaType(contentType)); err != nil {
			return
		}
		if (d.index == nil) == (d.manifest == nil) {
			t.Fatalf("%q is both or neither", data)
		}
		if d.index != nil {
			_, _ = choose(d.index, thisPlatform())
			return
		}
		_ = checkImage(d.manifest, PullLimits{}.orDefault())
	})
}

func FuzzParseRegistries(f *testing.F) {
	f.Add([]byte("unqualified-search-registries = [\"a\"]\n[[registry]]\nlocation = \"x\"\n"))
	f.Add([]byte("[[registry]]\nprefix = \"*.example\"\n[[registry.mirror]]\n"))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = ParseRegistries("f", data) })
}
