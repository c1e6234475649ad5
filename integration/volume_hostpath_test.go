package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
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
