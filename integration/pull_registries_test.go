package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPullRegistriesConf: the user's registries.conf and its drop-in files lead
// to mirrors, in order, and give short names their whole ones.
func TestPullRegistriesConf(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	delete(e.vars, "PODRUN_REGISTRIES_CONF")
	pushNoise(t, "cache/app:v1", 2000)
	pushNoise(t, "origin/app:v1", 2001)
	pushNoise(t, "origin/only:v1", 2002)
	pushNoise(t, "second/found:latest", 2003)
	// One mirror has nothing, one has the manifests without the layers.
	empty := newProxy(t, images.Address, func(ask) harm { return harm{} })
	half := newProxy(t, images.Address, func(a ask) harm {
		if a.kind == "layer" {
			return harm{status: 403}
		}
		return harm{}
	})
	e.put(".config/containers/registries.conf", fmt.Sprintf(`unqualified-search-registries = ["first.example", "second.example"]
[[registry]]
prefix = "reg.example"
location = "%[1]s/origin"
[[registry.mirror]]
location = "127.0.0.1:1/nobody"
[[registry.mirror]]
location = "%[2]s/empty"
[[registry.mirror]]
location = "%[3]s/cache"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "%[1]s/cache"
[[registry]]
prefix = "half.example"
location = "%[1]s/origin"
[[registry.mirror]]
location = "%[3]s/origin"
[[registry]]
prefix = "first.example"
location = "%[1]s/first"
[[registry]]
prefix = "second.example"
location = "%[1]s/second"
[[registry]]
prefix = "*.bad.example"
blocked = true
`, images.Address, empty.address, half.address))
	digest := func(out string) string {
		_, rest, _ := strings.Cut(out, "Digest: ")
		d, _, _ := strings.Cut(rest, "\n")
		return d
	}
	cache := digest(e.ok("pull", images.Address+"/cache/app:v1"))
	origin := digest(e.ok("pull", images.Address+"/origin/app:v1"))
	e.ok("rmi", images.Address+"/cache/app:v1", images.Address+"/origin/app:v1")

	// The first mirrors have nothing, the next that may be used has it; its name
	// stays.
	out := e.ok("pull", "reg.example/app:v1")
	mustContain(t, out, "reg.example/app:v1\n", "Digest: "+cache)
	if empty.times("/empty/app") == 0 || half.times("/") != 0 {
		t.Errorf("the mirrors were asked %d and %d times", empty.times("/empty/app"), half.times("/"))
	}
	// No mirror has it: the registry.
	mustContain(t, e.ok("pull", "reg.example/only:v1"), "reg.example/only:v1\n")
	// A mirror fails in the middle.
	mustContain(t, e.ok("pull", "half.example/app:v1"), "Digest: "+origin)
	if half.times("/origin/app/blobs") == 0 {
		t.Error("the mirror was not asked for blobs")
	}
	// Nobody has it: the line names all who were asked.
	mustContain(t, e.cannotPull("reg.example/none:v1"), "no such image in registry "+images.Address, "its mirrors failed too: 127.0.0.1:1/nobody/none:", empty.address+"/empty/none:", "refused")
	mustContain(t, e.cannotPull("very.bad.example/app"), "registries.conf blocks this registry (*.bad.example)")

	// Short names: the second of two registries has it.
	mustContain(t, e.ok("pull", "found"), "second.example/found:latest\n")
	mustContain(t, e.cannotPull("lost"), "first.example/lost:latest: ", "second.example/lost:latest: ")
	e.put(".config/containers/registries.conf.d/10-mode.conf", "short-name-mode = \"enforcing\"\n")
	mustContain(t, e.cannotPull("lost"), `"lost" may be any of first.example/lost:latest, second.example/lost:latest`)
	e.put(".config/containers/registries.conf.d/20-aliases.conf", "[aliases]\n\"box\" = \""+images.Address+"/library/busybox\"\n")
	mustContain(t, e.ok("pull", "box"), images.Address+"/library/busybox:latest\n")
	e.start(strings.Replace(podYAML("a", "", "c=exec sleep 3600"), "image: busybox", "image: box, imagePullPolicy: Never", 1), "a")
	if id := e.pod("a").Status.ContainerStatuses[0].ImageID; !strings.HasPrefix(id, images.Address+"/library/busybox@sha256:") {
		t.Errorf("image ID %q", id)
	}
	e.ok("delete", "pod", "a", "--now")
	mustContain(t, e.ok("rmi", "box"), "Untagged: "+images.Address+"/library/busybox:latest")

	// Mistakes are told with their place.
	e.put(".config/containers/registries.conf.d/30-old.conf", "[registries.search]\nregistries = ['a']\n")
	mustContain(t, e.cannotPull("box"), "30-old.conf: ", "version 1", "unqualified-search-registries")
	if err := os.Remove(filepath.Join(e.home, ".config/containers/registries.conf.d/30-old.conf")); err != nil {
		t.Fatal(err)
	}
	e.ok("pull", "box")
}
