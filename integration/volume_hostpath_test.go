package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHostPath: every type, in the kubelet's words, and who owns what a
// container makes on the host.
func TestHostPath(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	in := func(name string) string { return filepath.Join(e.home, name) }
	e.write("file", "from the host")
	socket, err := net.Listen("unix", in("s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()

	var volumes, mounts strings.Builder
	for i, v := range []struct{ path, kind string }{
		{in("any"), ""}, {in("made/dir"), "DirectoryOrCreate"}, {e.home, "Directory"}, {in("madefile"), "FileOrCreate"}, {in("file"), "File"},
		{in("s"), "Socket"}, {"/dev/null", "CharDevice"},
	} {
		fmt.Fprintf(&volumes, "  - {name: v%d, hostPath: {path: %s, type: %q}}\n", i, v.path, v.kind)
		fmt.Fprintf(&mounts, "    - {name: v%d, mountPath: /v%d}\n", i, i)
	}
	e.start("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  volumes:\n"+volumes.String()+
		"  containers:\n  - name: c\n    image: busybox\n    command: [sleep, \"3600\"]\n    volumeMounts:\n"+mounts.String(), "p")
	same(t, e.sh("p", "c", "cat /v4; touch /v0/f /v1/f; echo text >/v3; test -S /v5 && test -c /v6 && echo -ok").out, "from the host-ok\n")
	for _, name := range []string{"any/f", "made/dir/f"} {
		info, err := os.Stat(in(name))
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Getuid() {
			t.Errorf("%s belongs to %d: root in the container is the user on the host", name, owner)
		}
	}
	if text, err := os.ReadFile(in("madefile")); err != nil || string(text) != "text\n" {
		t.Errorf("%q, %v", text, err)
	}

	for i, c := range []struct{ path, kind, want string }{
		{in("none"), "Directory", "is not a directory"}, {in("file"), "Directory", "is not a directory"}, {in("none"), "File", "is not a file"}, {e.home, "File", "is not a file"},
		{in("file"), "Socket", "is not a socket file"}, {in("file"), "CharDevice", "is not a character device"}, {"/dev/null", "BlockDevice", "is not a block device"},
	} {
		name := fmt.Sprintf("bad%d", i)
		e.apply(volumePod(name, fmt.Sprintf("hostPath: {path: %s, type: %s}", c.path, c.kind), "true", "mountPath: /m"))
		want := fmt.Sprintf(`MountVolume.SetUp failed for volume "v" : hostPath type check failed: %s %s`, c.path, c.want)
		e.eventually(want, func() string {
			if out := e.ok("describe", "pod", name); !strings.Contains(out, want) || !strings.Contains(out, "FailedMount") {
				return "not said"
			}
			return ""
		})
	}
}

// inNode runs a command where the node is: in its mount namespace, and as root
// of its user namespace.
func (e *env) inNode(args ...string) {
	e.t.Helper()
	enter := []string{"--target", strconv.Itoa(e.nodePID()), "--mount"}
	if os.Geteuid() != 0 {
		enter = append(enter, "--user", "--preserve-credentials")
	}
	if out, err := exec.Command("nsenter", append(append(enter, "--"), args...)...).CombinedOutput(); err != nil {
		e.t.Fatalf("%v: %v: %s", args, err, out)
	}
}

// TestHostPathPropagation: what is mounted on a host path later is there for
// the containers that ask for it, and what one of them mounts for the others and
// the node.
func TestHostPathPropagation(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Parallel() // root's mount on the host would be in the nodes of other tests
	}
	e := newEnv(t)
	dir := filepath.Join(e.home, "host")
	for _, name := range []string{"early", "late", "back", "sub/late"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		// A mount of the host that passes on what is mounted below it: the
		// node's own mount namespace, and what it shares, receive that.
		for _, m := range []struct {
			source string
			flags  uintptr
		}{{dir, unix.MS_BIND}, {"", unix.MS_SHARED}} {
			if err := unix.Mount(m.source, dir, "", m.flags, ""); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	}
	// Somebody has to hold the node's mounts.
	e.start(podYAML("first", "", "c=exec sleep 3600"), "first")
	if os.Geteuid() != 0 {
		e.inNode("mount", "--bind", "--make-shared", dir, dir)
	}
	e.inNode("mount", "-t", "tmpfs", "early", dir+"/early")
	e.start(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, hostPath: {path: `+dir+`, type: Directory}}]
  containers:
  - {name: both, image: busybox, command: [sleep, "3600"], securityContext: {privileged: true}, volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]}
  - {name: host, image: busybox, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v, mountPropagation: HostToContainer}]}
  - {name: part, image: busybox, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v, subPath: sub, mountPropagation: HostToContainer}]}
  - {name: none, image: busybox, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v, mountPropagation: None}]}
`, "p")
	sees := func(place string, want map[string]string) {
		t.Helper()
		for c, types := range want {
			if got := strings.TrimSpace(e.sh("p", c, "awk '$2 == \"/v/"+place+"\" { print $3 }' /proc/mounts").out); got != types {
				t.Errorf("/v/%s of container %s is %q, want %q", place, c, got, types)
			}
		}
	}
	// What was there when they were made, all have.
	sees("early", map[string]string{"both": "tmpfs", "host": "tmpfs", "none": "tmpfs"})
	mount := func(place string) {
		t.Helper()
		if os.Geteuid() == 0 {
			if err := unix.Mount("late", filepath.Join(dir, place), "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			return
		}
		e.inNode("mount", "-t", "tmpfs", "late", filepath.Join(dir, place))
	}
	mount("late")
	mount("sub/late")
	sees("late", map[string]string{"both": "tmpfs", "host": "tmpfs", "part": "tmpfs", "none": ""})
	// Backwards only from a container that asks for both ways.
	if r := e.sh("p", "both", "mount -t tmpfs back /v/back && touch /v/back/file"); r.code != 0 {
		t.Fatal(r)
	}
	sees("back", map[string]string{"both": "tmpfs", "host": "tmpfs", "none": ""})
	seen := len(mounts(strconv.Itoa(e.nodePID()), dir+"/back")) > 0
	if seen != (os.Geteuid() != 0) {
		t.Errorf("the node sees it at the host's path: %v", seen)
	}
	if len(mounts("self", dir+"/back")) > 0 {
		t.Error("it came to the host")
	}
	// And an unmounting goes the same way.
	if os.Geteuid() == 0 {
		_ = unix.Unmount(dir+"/late", 0)
	} else {
		e.inNode("umount", dir+"/late")
	}
	sees("late", map[string]string{"both": "", "host": "", "none": ""})
	e.ok("delete", "pod", "p", "--now")
	e.inNode("umount", "-l", dir)
}
