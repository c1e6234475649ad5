package cni_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"get.podrun.dev/podrun/cni"
)

var voluntary = regexp.MustCompile(`(?m)^voluntary_ctxt_switches:\s*(\d+)$`)

// wakeUps counts how often threads of this process have gone to sleep.
func wakeUps(t *testing.T) (n int) {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile("/proc/self/task/" + thread.Name() + "/status")
		if m := voluntary.FindSubmatch(status); err == nil && m != nil {
			k, _ := strconv.Atoi(string(m[1]))
			n += k
		}
	}
	return n
}

// TestIdleNetworkSleeps: with pods that have done something and are idle now,
// neither the uplink nor DNS nor host ports wake up.
func TestIdleNetworkSleeps(t *testing.T) {
	n := openNetwork(t, stateDir(t), nil)
	serve(t, "", "127.0.0.1:7100", "from the host")
	for i := range 20 {
		r, path := podWithPorts(t, n, fmt.Sprint("pod", i))
		peers(t, path, ":80")
		port := uint16(8100 + i)
		openPorts(t, n, fmt.Sprint("pod", i), target(r, path), cni.HostPort{Protocol: "tcp", Port: port, PodPort: 80}, cni.HostPort{Protocol: "udp", Port: port, PodPort: 80})
		if got, err := ask(t, path, at(r.HostIP, 7100)); err != nil || got != "from the host" {
			t.Fatalf("pod %d: %q, %v", i, got, err)
		}
		for _, network := range []string{"tcp4", "udp4"} {
			if _, _, err := seenBy(network, fmt.Sprint("127.0.0.1:", port)); err != nil {
				t.Fatal(err)
			}
		}
	}
	// What has just ended has a moment; then several looks, for what the Go
	// runtime does now and then is not ours.
	const most = 20
	least := 0
	for range 5 {
		before := wakeUps(t)
		time.Sleep(2 * time.Second)
		if least = wakeUps(t) - before; least <= most {
			return
		}
	}
	t.Errorf("%d wake-ups in 2 s of 20 idle pods, want at most %d", least, most)
}
