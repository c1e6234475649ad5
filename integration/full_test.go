package integration

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// small has the node's directory dir on a file system of its own, which options
// of tmpfs(5) make small. The node is started again, and at the end of the test
// again without it.
func (e *env) small(dir, options string) {
	e.t.Helper()
	e.ok("get", "pods") // there is a node, and it has its directories
	e.inNode("mkdir", "-p", dir)
	e.inNode("mount", "-t", "tmpfs", "-o", "mode=700,"+options, "small", dir)
	e.killNode()
	e.t.Cleanup(func() {
		e.inNode("rm", "-rf", filepath.Join(dir, "fill"))
		e.ok("delete", "pods", "--all", "--now")
		e.inNode("umount", "--lazy", dir)
		e.killNode()
	})
}

// fill takes what is left of the file system of dir: every byte, or every inode.
func (e *env) fill(dir string, inodes bool) {
	e.t.Helper()
	script := `mkdir -p "$0/fill"; cat /dev/zero 2>/dev/null >"$0/fill/a"; [ -s "$0/fill/a" ]`
	if inodes {
		script = `mkdir -p "$0/fill"; seq -f "$0/fill/%.0f" 5000 | xargs mkdir 2>/dev/null; [ -e "$0/fill/1" ]`
	}
	e.inNode("sh", "-c", script, dir)
}

// empty gives it back.
func (e *env) empty(dir string) {
	e.t.Helper()
	e.inNode("rm", "-r", filepath.Join(dir, "fill"))
}

// noSpace is how the kernel says it, of bytes and of inodes.
const noSpace = "no space left on"

// TestDiskFull fills the disk of the data directory, its bytes or its inodes,
// under a node with pods. What runs goes on, all can be looked at, what needs
// space says that there is none, what frees some is done, nothing acknowledged
// is lost by a kill of the node, and with space all goes on by itself.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, options string
		inodes        bool
	}{
		{"bytes", "size=64m", false},
		{"inodes", "size=256m,nr_inodes=2000", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.small(e.data, tt.options)
			e.start(podYAML("kept", "terminationGracePeriodSeconds: 0", "a=n=0; while :; do n=$((n+1)); echo line $n; echo $n >/dev/shm/n; sleep 0.05; done", "b="+untilEnd), "kept")
			e.start(podYAML("gone", "", "c="+untilEnd), "gone")
			pushNoise(t, "library/full-"+tt.name, 900)
			before := e.initPIDs(e.pod("kept"))
			e.fill(e.data, tt.inodes)

			// A pull needs both, and says so.
			if r := e.run("pull", "full-"+tt.name); r.code != 1 {
				t.Errorf("a pull to a full disk: %v", r)
			} else {
				mustContain(t, r.err, noSpace, "podrun rmi")
			}
			// Changes are acknowledged and there, or refused and not.
			acknowledged := map[string]bool{}
			for i := range 4 {
				name := fmt.Sprint("cm", i)
				e.stdin = strings.Replace(configMaps(1, 500_000), "cm0", name, 1)
				r := e.run("create", "-f", "-")
				if acknowledged[name] = r.code == 0; r.code != 0 {
					mustContain(t, r.err, noSpace, "free space")
				}
			}
			if !tt.inodes && acknowledged["cm0"] {
				t.Errorf("half a megabyte was stored on a full disk")
			}
			// What frees space is not refused for want of it.
			var little []string
			for !tt.inodes {
				name := fmt.Sprint("little", len(little))
				e.stdin = strings.Replace(configMaps(1, 3000), "cm0", name, 1)
				if r := e.run("create", "-f", "-"); r.code != 0 {
					mustContain(t, r.err, noSpace, "free space")
					break
				}
				little = append(little, name)
			}
			e.ok("delete", "pod", "gone", "--now")
			for _, name := range little {
				e.ok("delete", "configmap", name)
			}
			e.ok("describe", "pod", "kept")
			mustContain(t, e.ok("logs", "kept", "-c", "a", "--tail=1"), "line ")
			// Who prints does not wait for space.
			count := func() int {
				n, _ := strconv.Atoi(strings.TrimSpace(e.ok("exec", "kept", "-c", "a", "--", "cat", "/dev/shm/n")))
				return n
			}
			from := count()
			e.eventually("a thousand bytes printed", func() string {
				if n := count(); n < from+100 {
					return fmt.Sprint(n-from, " lines")
				}
				return ""
			})
			e.killNode()
			samePids(t, before, e.initPIDs(e.pod("kept")))
			e.empty(e.data)
			last := count()
			e.eventually("the log to go on", func() string {
				var n int
				if _, err := fmt.Sscanf(e.ok("logs", "kept", "-c", "a", "--tail=1"), "line %d", &n); err != nil || n <= last {
					return fmt.Sprintf("at line %d of %d, %v", n, last, err)
				}
				return ""
			})

			// The end of a container waits for space, with its restart.
			e.fill(e.data, tt.inodes)
			e.kill9(before["b"])
			e.killNode()
			e.ok("get", "pods")
			e.empty(e.data)
			e.restarted("kept", 1)
			for name, there := range acknowledged {
				if r := e.run("get", "configmap", name); (r.code == 0) != there {
					t.Errorf("%s was acknowledged: %t; %v", name, there, r)
				}
			}
			e.start(podYAML("new", "", "c=exec sleep 3600"), "new")
			e.ok("pull", "full-"+tt.name)
			e.ok("delete", "configmap", "--all")
		})
	}
}

// TestRuntimeDirFull fills the file system of the state directory's parts: a pod
// waits for space, says so, and starts when there is some.
func TestRuntimeDirFull(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"sandboxes", "pods"} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			dir := filepath.Join(e.state, part)
			e.small(dir, "size=4m,nr_inodes=500")
			e.start(podYAML("kept", "terminationGracePeriodSeconds: 0", "c=exec sleep 3600"), "kept")
			e.fill(dir, true)
			e.apply(podYAML("waits", "terminationGracePeriodSeconds: 0", "c=exec sleep 3600"))
			e.described("waits", noSpace)
			e.ok("exec", "kept", "--", "true")
			e.empty(dir)
			e.ready("waits")
			if p := e.pod("waits"); restarts(p) != 0 || p.Status.Phase != corev1.PodRunning {
				t.Errorf("%d restarts, %s", restarts(p), p.Status.Phase)
			}
		})
	}
}
