package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// cnitoolScript joins a namespace to each list and takes it off again, in
// namespaces of its own: LIST VERB CODE for each step, what was said in files.
const cnitoolScript = `set -eu
mount -t tmpfs none /var/lib
mount -t tmpfs none /run
step() {
	code=0
	"$CNI_PATH/cnitool" "$2" "$1" "/run/$1" >"$OUT/$1.$2" 2>&1 || code=$?
	echo "$1 $2 $code"
}
for list; do
	touch "/run/$list"
	unshare --net="/run/$list" true
	step "$list" status
	step "$list" add
	step "$list" check
	cat /var/lib/cni/results/"$list"-* >"$OUT/$list.cache" 2>/dev/null || true
	step "$list" gc
	find /var/lib/cni/networks/"$list" -name '10.*' >"$OUT/$list.reserved" 2>/dev/null || true
	step "$list" del
	ls /var/lib/cni/results >"$OUT/$list.left" 2>/dev/null || true
done
`

// TestCnitool: podrun makes of a network list what the tool of the authors of
// CNI makes of it.
func TestCnitool(t *testing.T) {
	t.Parallel()
	plugins := cniPlugins(t)
	e := newEnv(t, "CNI_PATH="+plugins)
	var lists []string
	add := func(version, tuning string) string {
		name := fmt.Sprintf("net%d", len(lists))
		lists = append(lists, name)
		e.network(name, version, fmt.Sprintf(`{"type":"bridge","bridge":"br-%s","isGateway":true,`+
			`"ipam":{"type":"host-local","ranges":[[{"subnet":"10.7%d.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}`, name, len(lists)),
			`{"type":"tuning",`+tuning+`}`)
		return name
	}
	versions := map[string]string{}
	var manifest string
	for _, v := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		name := add(v, `"mtu":1400`)
		versions[name] = v
		manifest += webPod(name, "podrun.dev/network: "+name)
	}
	bad := add("1.1.0", `"sysctl":{"net.ipv4.none":"1"}`)

	out := t.TempDir()
	command := exec.Command("unshare", append([]string{"--user", "--map-root-user", "--net", "--mount", "sh", "-c", cnitoolScript, "sh"}, lists...)...)
	command.Env = append(os.Environ(), "OUT="+out, "CNI_PATH="+plugins, "NETCONFPATH="+filepath.Join(e.home, ".config/podrun/cni/net.d"))
	steps, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, steps)
	}
	said := func(name string) string {
		b, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	code := func(list, verb string) int {
		for _, c := range []int{0, 1} {
			if strings.Contains("\n"+string(steps), fmt.Sprintf("\n%s %s %d\n", list, verb, c)) {
				return c
			}
		}
		t.Fatalf("no %s of %s in %s", verb, list, steps)
		return -1
	}

	e.start(manifest, lists[:4]...)
	for _, name := range lists[:4] {
		for _, verb := range []string{"status", "add", "gc", "del"} {
			if code(name, verb) != 0 {
				t.Errorf("cnitool %s in CNI %s: %s", verb, versions[name], said(name+"."+verb))
			}
		}
		check := e.run("network", "check", name)
		if check.code != code(name, "check") {
			t.Errorf("check in CNI %s: %v; cnitool: %s", versions[name], check, said(name+".check"))
		}
		if check.code != 0 {
			message, _, _ := strings.Cut(strings.TrimPrefix(said(name+".check"), "Error: "), "\n")
			mustContain(t, check.err, message)
		}
		// The result, of the same version, as the plugins gave it and as it is kept.
		cached, err := filepath.Glob(filepath.Join(e.state, "cni/foreign/results", name+"-*"))
		if err != nil || len(cached) != 1 {
			t.Fatalf("results of %s: %v, %v", name, cached, err)
		}
		ours, err := os.ReadFile(cached[0])
		if err != nil {
			t.Fatal(err)
		}
		same(t, cachedResult(t, ours), cachedResult(t, []byte(said(name+".cache"))))
		// GC takes what no pod has, and here no pod has any; DEL leaves no result.
		if left := said(name + ".reserved"); versions[name] == "1.1.0" && left != "" {
			t.Errorf("cnitool gc leaves %s", left)
		}
		if left := said(name + ".left"); left != "" {
			t.Errorf("cnitool del leaves %s", left)
		}
		e.ok("delete", "pod", name, "--now")
		if _, err := os.Stat(cached[0]); err == nil {
			t.Errorf("%s is left", cached[0])
		}
	}

	// What a plugin has against its list is what both say.
	for verb, want := range map[string]int{"status": 0, "add": 1, "gc": 0, "del": 0} {
		if code(bad, verb) != want {
			t.Errorf("cnitool %s of a setting that there is not: %s", verb, said(bad+"."+verb))
		}
	}
	const why = "open /proc/sys/net/ipv4/none: no such file or directory"
	mustContain(t, said(bad+".add"), why)
	e.apply(webPod(bad, "podrun.dev/network: "+bad))
	e.eventually("what the plugin says", func() string {
		if shown := e.ok("describe", "pod", bad); !strings.Contains(shown, why) {
			return shown
		}
		return ""
	})
}

// cachedResult is the result in a file of libcni's cache, without what is
// another in each namespace.
func cachedResult(t *testing.T, cache []byte) string {
	t.Helper()
	var kept struct{ Result map[string]any }
	if err := json.Unmarshal(cache, &kept); err != nil || kept.Result == nil {
		t.Fatalf("%v in %q", err, cache)
	}
	result, err := json.MarshalIndent(kept.Result, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	for _, own := range []string{`"mac": "[0-9a-f:]+"`, `"name": "veth[0-9a-f]+"`, `"sandbox": "[^"]+"`} {
		result = regexp.MustCompile(own).ReplaceAll(result, []byte(`...`))
	}
	return string(result)
}
