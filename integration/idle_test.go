package integration

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

var voluntary = regexp.MustCompile(`(?m)^voluntary_ctxt_switches:\s*(\d+)$`)

// wakeUps counts how often the threads of a process have gone to sleep by
// themselves, which is how often they had woken up.
func wakeUps(t *testing.T, pid int) (n int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/task", pid)
	threads, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(dir + "/" + thread.Name() + "/status")
		if m := voluntary.FindSubmatch(status); err == nil && m != nil {
			k, _ := strconv.Atoi(string(m[1]))
			n += k
		}
	}
	return n
}

// TestIdlePods: twenty pods that do nothing, one of them with a host port, do not
// wake up the node, with its uplink and DNS, nor the reaper.
func TestIdlePods(t *testing.T) {
	t.Parallel()
	const (
		count = 20
		look  = 5 * time.Second
		most  = 20 // none, but for what the Go runtime does now and then
	)
	e := newEnv(t)
	var manifest strings.Builder
	manifest.WriteString(peerPod("p0", freePort(t), ""))
	for i := 1; i < count; i++ {
		manifest.WriteString("---\n" + podYAML(fmt.Sprint("p", i), "terminationGracePeriodSeconds: 0", "c=exec sleep 3600"))
	}
	e.apply(manifest.String())
	e.listed(count, " Running ")
	for name, pid := range map[string]int{"node": e.nodePID(), "reaper": e.reaperPID()} {
		n := 0
		// The start has its aftermath, of events and garbage: the best of some.
		for range 4 {
			before := wakeUps(t, pid)
			time.Sleep(look)
			if n = wakeUps(t, pid) - before; n <= most {
				break
			}
		}
		t.Logf("%s: %d wake-ups in %v", name, n, look)
		if n > most {
			t.Errorf("%s: %d wake-ups in %v with %d idle pods, want at most %d", name, n, look, count, most)
		}
	}
}
