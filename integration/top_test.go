package integration

import (
	"strconv"
	"strings"
	"testing"
)

// TestTop: what pods use, by cgroup or by process.
func TestTop(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	same(t, e.fails(1, "top", "pod", "none"), "Error from server (NotFound): pods \"none\" not found\n")
	if r := e.run("top", "pod"); r.code != 0 || r.out != "" || !strings.Contains(r.err, "No resources found") {
		t.Errorf("without pods: %v", r)
	}
	e.start(podYAML("busy", "", "burn=while :; do :; done", "hold=x=$(head -c 30000000 /dev/zero | tr '\\0' x); exec tail -f /dev/null")+"---\n"+
		podYAML("idle", "", "c=exec sleep 3600"), "busy", "idle")
	number := func(cell, unit string) int {
		t.Helper()
		n, err := strconv.Atoi(strings.TrimSuffix(cell, unit))
		if err != nil {
			t.Errorf("cell %q: %v", cell, err)
		}
		return n
	}
	// A busy machine may leave little for the loop, but never nothing.
	e.eventually("the loop is seen", func() string {
		out := e.ok("top", "pod", "busy", "--containers", "--no-headers")
		f := strings.Fields(out)
		if len(f) != 8 || f[0] != "busy" || f[1] != "burn" || f[5] != "hold" {
			t.Fatalf("got %q", out)
		}
		if number(f[2], "m") == 0 {
			return out
		}
		return ""
	})
	out := e.ok("top", "pods", "-A", "--sort-by=cpu", "--sum")
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	if len(lines) != 5 || strings.Join(strings.Fields(lines[0]), " ") != "NAMESPACE NAME CPU(cores) MEMORY(bytes)" || !strings.Contains(lines[3], "________") {
		t.Fatalf("got\n%s", out)
	}
	mustContain(t, lines[1], "default", "busy")
	mustContain(t, lines[2], "default", "idle")
	if f := strings.Fields(lines[2]); number(f[2], "m") > 50 || number(f[3], "Mi") > 20 {
		t.Errorf("an idle pod: %q", lines[2])
	}
	mustContain(t, e.fails(1, "top", "pod", "--sort-by=name"), "--sort-by accepts only cpu or memory")
}
