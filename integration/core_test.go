package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestNodeLeavesNoCore: no core dump of the node has what is in its memory. That
// is not the containers' limit.
func TestNodeLeavesNoCore(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(podYAML("a", "", "c=exec sleep 3600"), "a")
	limit := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
				return strings.Join(strings.Fields(rest), " ")
			}
		}
		t.Fatalf("%s has no limit of core dumps", file)
		return ""
	}
	ours := limit("/proc/self/limits")
	of := func(pid int) string { return limit(fmt.Sprintf("/proc/%d/limits", pid)) }
	check := func() {
		t.Helper()
		_, most, _ := strings.Cut(ours, " ")
		same(t, of(e.nodePID()), "1 "+most)
		same(t, of(e.initPIDs(e.pod("a"))["c"]), ours)
		mustContain(t, strings.Join(strings.Fields(e.ok("exec", "a", "--", "grep", "core", "/proc/self/limits")), " "), "size "+ours)
	}
	check()
	e.killNode()
	e.ok("stop", "-t", "0", "a/c")
	e.restarted("a", 1)
	check()
}

// TestWorkingDir: it is made when the image has it not; else a program starts in
// the root directory; exec starts where the container did.
func TestWorkingDir(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	manifest := podYAML("at", "", "made=pwd; exec sleep 3600", "there=pwd; exec sleep 3600", "none=pwd; exec sleep 3600")
	manifest = strings.Replace(manifest, "{name: made,", "{name: made, workingDir: /made/for/it,", 1)
	e.start(strings.Replace(manifest, "{name: there,", "{name: there, workingDir: /tmp,", 1), "at")
	for name, want := range map[string]string{"made": "/made/for/it\n", "there": "/tmp\n", "none": "/\n"} {
		same(t, e.ok("logs", "at", "-c", name), want)
		same(t, e.ok("exec", "at", "-c", name, "--", "pwd"), want)
	}
}
