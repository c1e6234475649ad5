package integration

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What a soak does when it is part of all tests; "make soak" does more, for
// longer.
const (
	soakFor  = 12 * time.Second
	soakPods = 10
	longPods = 200
)

// TestSoak starts and stops pods again and again: some have ports of the host,
// some are restarted, and every fourth time the node is killed. After each round
// the node has exactly the goroutines and descriptors that it had after the
// first, and there is no address, link or file of a pod.
func TestSoak(t *testing.T) {
	t.Parallel()
	length, count := soakFor, soakPods
	if d, err := time.ParseDuration(os.Getenv("PODRUN_SOAK")); err == nil {
		length, count = d, longPods
	}
	e := newEnv(t)
	var before *holdings
	rounds := 0
	for end := time.Now().Add(length); rounds < 2 || time.Now().Before(end); rounds++ {
		kill := rounds%4 == 3
		e.soakRound(count, kill)
		node := e.nodePID()
		e.checkIdle(node)
		switch {
		case kill:
			before = nil // the new node has started no pod yet, which opens what it keeps
			continue
		case before == nil:
			before = e.holdings(node)
			continue
		}
		var after *holdings
		e.soon("what the node holds", func() []string {
			after = e.holdings(node)
			return after.beyond(before)
		})
		if t.Failed() {
			t.Fatalf("after round %d", rounds+1)
		}
		if rounds%10 == 0 {
			t.Logf("round %d: %s", rounds+1, after)
		}
	}
	t.Logf("%d pods in %d rounds; at the end %s", rounds*count, rounds, e.holdings(e.nodePID()))
}

// soakRound starts and stops count pods.
func (e *env) soakRound(count int, kill bool) {
	e.t.Helper()
	var manifest strings.Builder
	var ports []string
	for i := range count {
		name := fmt.Sprintf("p%d", i)
		if i%10 == 0 {
			port := freePort(e.t)
			ports = append(ports, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			manifest.WriteString("---\n" + peerPod(name, port, ""))
			continue
		}
		manifest.WriteString("---\n" + podYAML(name, "terminationGracePeriodSeconds: 0", "c=exec sleep 3600"))
	}
	e.apply(manifest.String())
	e.listed(count, " Running ")
	for _, at := range ports {
		e.asked("tcp4", at)
		e.asked("udp4", at)
	}
	e.ok("stop", "-t", "0", "p1/c")
	e.restarted("p1", 1)
	if kill {
		e.killNode()
		for _, at := range ports {
			e.asked("tcp4", at)
		}
	}
	e.ok("delete", "pods", "--all", "--now")
}

// holdings are what a node without pods has.
type holdings struct {
	goroutines map[string]int // by where they were started
	node       map[string]int // descriptors, by what they are of
	reaper     map[string]int
	memory     string // resident
}

func (h *holdings) String() string {
	sum := func(m map[string]int) (n int) {
		for _, count := range m {
			n += count
		}
		return n
	}
	return fmt.Sprintf("%d goroutines, %d descriptors of the node, %d of the reaper, %s resident", sum(h.goroutines), sum(h.node), sum(h.reaper), h.memory)
}

// beyond says what h has more than before.
func (h *holdings) beyond(before *holdings) (more []string) {
	compare := func(what string, now, was map[string]int) {
		for _, of := range slices.Sorted(maps.Keys(now)) {
			if now[of] > was[of] {
				more = append(more, fmt.Sprintf("%d %s of %s, were %d", now[of], what, of, was[of]))
			}
		}
	}
	compare("goroutines", h.goroutines, before.goroutines)
	compare("descriptors of the node", h.node, before.node)
	compare("descriptors of the reaper", h.reaper, before.reaper)
	return more
}

var createdBy = regexp.MustCompile(`(?m)^created by (\S+)`)

func (e *env) holdings(node int) *holdings {
	e.t.Helper()
	h := &holdings{goroutines: map[string]int{}}
	for _, m := range createdBy.FindAllStringSubmatch(e.goroutines(), -1) {
		if !strings.HasPrefix(m[1], "net/http.") { // of who asks
			h.goroutines[m[1]]++
		}
	}
	h.node, h.reaper = openFiles(e.t, node), openFiles(e.t, e.reaperPID())
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", node))
	if m := regexp.MustCompile(`VmRSS:\s*(.*)`).FindStringSubmatch(string(status)); m != nil {
		h.memory = m[1]
	}
	return h
}

// openFiles counts the descriptors of a process by what they are of, such as
// "socket:" or a file's path.
func openFiles(t *testing.T, pid int) map[string]int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]int{}
	for _, entry := range entries {
		if link, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil {
			of, _, _ := strings.Cut(link, "[")
			files[of]++
		}
	}
	return files
}

// goroutines are the stacks of the node.
func (e *env) goroutines() string {
	e.t.Helper()
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(e.state, "node.sock"))
		},
		DisableKeepAlives: true,
	}}
	r, err := client.Get("http://node/podrun/v1/goroutines")
	if err != nil {
		e.t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		e.t.Fatalf("goroutines: %s, %v: %s", r.Status, err, b)
	}
	return string(b)
}
