package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// volumePod is a pod whose init container ran script, with the volume v at /v,
// and whose containers have mounts of v, in YAML.
func volumePod(name, source, script string, mounts ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  volumes: [{name: v, %s}]
  initContainers:
  - {name: init, image: busybox, command: [sh, -c, %q], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
`, name, source, script)
	for i, m := range mounts {
		fmt.Fprintf(&b, "  - {name: c%d, image: busybox, command: [sleep, \"3600\"], env: [{name: WHO, value: me}], volumeMounts: [{name: v, %s}]}\n", i, m)
	}
	return b.String()
}

func (e *env) sh(pod, container, script string) result {
	e.t.Helper()
	return e.run("exec", pod, "-c", container, "--", "sh", "-c", script)
}

// TestSubPath: a container gets a part of a volume, made if it is not there.
func TestSubPath(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(volumePod("parts", "emptyDir: {}", "mkdir -p /v/dir; echo file >/v/dir/f; ln -s dir /v/link; ln -s dir/f /v/flink",
		"mountPath: /m, subPath: dir", "mountPath: /m, subPath: link", "mountPath: /m, subPath: flink", "mountPath: /m, subPath: new/er",
		`mountPath: /m, subPathExpr: "of-$(WHO)"`, "mountPath: /m, subPath: dir, readOnly: true", "mountPath: /v"), "parts")
	same(t, e.sh("parts", "c0", "cat /m/f").out, "file\n")
	same(t, e.sh("parts", "c1", "cat /m/f").out, "file\n")
	same(t, e.sh("parts", "c2", "cat /m").out, "file\n")
	same(t, e.sh("parts", "c3", "echo new >/m/n; ls /m").out, "n\n")
	same(t, e.sh("parts", "c4", "echo me >/m/n; ls /m").out, "n\n")
	if r := e.sh("parts", "c5", "cat /m/f && echo x >/m/f"); r.out != "file\n" || !strings.Contains(r.err, "Read-only file system") {
		t.Error(r)
	}
	same(t, e.sh("parts", "c6", "cd /v; cat new/er/n of-me/n; stat -c %a new new/er").out, "new\nme\n777\n777\n")
	// What making them needed is gone.
	if left := mounts(fmt.Sprint(e.nodePID()), e.state+"/volumes"); len(left) > 0 {
		t.Errorf("mounts %q", left)
	}
}

// TestSubPathEscape: no link leads a subPath out of its volume.
func TestSubPathEscape(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	hint := filepath.Join(e.home, "host-file")
	if err := os.WriteFile(hint, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, link := range map[string]string{
		"root": "ln -s / /v/x", "home": "ln -s " + e.home + " /v/x", "up": "ln -s ../../../../../../.. /v/x", "proc": "ln -s /proc/1/root /v/x",
		"file": "ln -s " + hint + " /v/x", "chain": "mkdir /v/d; ln -s ../.. /v/d/l; ln -s d/l /v/x",
	} {
		e.apply(volumePod(name, "emptyDir: {}", link, "mountPath: /m, subPath: x"))
	}
	for _, name := range []string{"root", "home", "up", "proc", "file", "chain"} {
		p := e.when(name, "refused", func(p *corev1.Pod) bool { return waitingFor(p, "c0") == "CreateContainerConfigError" })
		same(t, p.Status.ContainerStatuses[0].State.Waiting.Message,
			`failed to prepare subPath for volumeMount "v" of container "c0": open x: it leads out of the volume`)
	}
}

// waitingFor is why a container waits.
func waitingFor(p *corev1.Pod, container string) string {
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if s.Name == container && s.State.Waiting != nil {
			return s.State.Waiting.Reason
		}
	}
	return ""
}

// TestMountPropagation: what one container mounts in a volume others see, as
// far as both ask for it, and recursively read-only reaches it.
func TestMountPropagation(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - name: early
    image: busybox
    command: [sh, -c, mkdir -p /v/early /v/late && mount -t tmpfs early /v/early && touch /v/early/file]
    securityContext: {privileged: true}
    volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]
  containers:
  - name: both
    image: busybox
    command: [sleep, "3600"]
    securityContext: {privileged: true}
    volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]
  - name: host
    image: busybox
    command: [sleep, "3600"]
    volumeMounts: [{name: v, mountPath: /v, mountPropagation: HostToContainer}]
  - name: none
    image: busybox
    command: [sleep, "3600"]
    volumeMounts: [{name: v, mountPath: /v}]
  - name: readonly
    image: busybox
    command: [sleep, "3600"]
    volumeMounts: [{name: v, mountPath: /v, readOnly: true}]
  - name: recursive
    image: busybox
    command: [sleep, "3600"]
    volumeMounts: [{name: v, mountPath: /v, readOnly: true, recursiveReadOnly: Enabled}]
`, "p")
	// Mounted before they were made: all have it.
	for _, c := range []string{"both", "host", "none", "readonly", "recursive"} {
		same(t, e.sh("p", c, "ls /v/early").out, "file\n")
	}
	if r := e.sh("p", "both", "mount -t tmpfs late /v/late && touch /v/late/file"); r.code != 0 {
		t.Fatal(r)
	}
	for c, want := range map[string]string{"both": "file\n", "host": "file\n", "none": "", "recursive": ""} {
		if got := e.sh("p", c, "ls /v/late").out; got != want {
			t.Errorf("container %s sees %q, want %q", c, got, want)
		}
	}
	for c, want := range map[string]string{"readonly": "", "recursive": "Read-only file system"} {
		if r := e.sh("p", c, "touch /v/early/new"); !strings.Contains(r.err, want) || (r.code == 0) != (want == "") {
			t.Errorf("%s: %v", c, r)
		}
		if r := e.sh("p", c, "touch /v/new"); !strings.Contains(r.err, "Read-only file system") {
			t.Errorf("%s: %v", c, r)
		}
	}
	for _, s := range e.pod("p").Status.ContainerStatuses {
		want := map[string]string{"readonly": "Disabled", "recursive": "Enabled"}[s.Name]
		got := ""
		if len(s.VolumeMounts) == 1 && s.VolumeMounts[0].RecursiveReadOnly != nil {
			got = string(*s.VolumeMounts[0].RecursiveReadOnly)
		}
		if got != want || len(s.VolumeMounts) != 1 || s.VolumeMounts[0].MountPath != "/v" {
			t.Errorf("status of %s: %+v", s.Name, s.VolumeMounts)
		}
	}
}

// TestImageVolume: the files of an image as a volume that nobody can change or
// run.
func TestImageVolume(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(volumePod("image", "image: {reference: busybox, pullPolicy: IfNotPresent}", "ls /v >/dev/null",
		"mountPath: /m", "mountPath: /m, subPath: etc"), "image")
	mustContain(t, e.sh("image", "c0", "cat /m/etc/passwd").out, "nobody")
	mustContain(t, e.sh("image", "c1", "cat /m/passwd").out, "nobody")
	for script, want := range map[string]string{"touch /m/x": "Read-only file system", "/m/bin/busybox true": "Permission denied"} {
		if r := e.sh("image", "c0", script); r.code == 0 || !strings.Contains(r.err, want) {
			t.Errorf("%s: %v", script, r)
		}
	}
	if err := e.fails(1, "rmi", "busybox"); !strings.Contains(err, "image") {
		t.Errorf("an image that a volume shows: %s", err)
	}
	// A restart keeps it, and so does the next node.
	e.killNode()
	e.ok("stop", "-t", "0", "image/c0")
	e.restarted("image", 1)
	mustContain(t, e.sh("image", "c0", "cat /m/etc/passwd").out, "nobody")

	e.apply(volumePod("none", "image: {reference: nosuch, pullPolicy: Never}", "true", "mountPath: /m"))
	p := e.when("none", "refused", func(p *corev1.Pod) bool { return waitingFor(p, "c0") == "ErrImageNeverPull" })
	mustContain(t, p.Status.ContainerStatuses[0].State.Waiting.Message, `volume "v": `)
}

// TestFSGroup: a pod's group owns its volumes, and its containers have the
// group.
func TestFSGroup(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(strings.Replace(volumePod("group", "emptyDir: {}", "touch /v/f; mkdir /v/d", "mountPath: /m"),
		"spec:", "spec:\n  securityContext: {runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000}", 1), "group")
	same(t, e.sh("group", "c0", "id -G; stat -c %u:%g:%a /m; stat -c %u:%g /m/f; stat -c %u:%g:%a /m/d; touch /m/f /m/d/x && echo ok").out,
		"3000 2000\n0:2000:2777\n1000:2000\n1000:2000:2755\nok\n")
}

// TestFSGroupChangePolicy: a claim's files are given to a second pod's group,
// unless its policy is content with the directory's.
func TestFSGroupChangePolicy(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n")
	pod := func(name string, group int, policy, script string) string {
		return strings.Replace(volumePod(name, "persistentVolumeClaim: {claimName: data}", script, "mountPath: /m"),
			"spec:", fmt.Sprintf("spec:\n  securityContext: {fsGroup: %d, fsGroupChangePolicy: %s}", group, policy), 1)
	}
	owners := func(name string) string { return e.sh(name, "c0", "cd /m && stat -c %g:%a . f d d/f").out }
	e.start(pod("first", 2000, "OnRootMismatch", "cd /v; umask 077; touch f; mkdir d; touch d/f; chgrp 0 f d d/f; chmod g-s d"), "first")
	same(t, owners("first"), "2000:2777\n0:600\n0:700\n0:600\n")
	e.start(pod("content", 2000, "OnRootMismatch", "true"), "content")
	same(t, owners("content"), "2000:2777\n0:600\n0:700\n0:600\n")
	e.start(pod("always", 2000, "Always", "true"), "always")
	same(t, owners("always"), "2000:2777\n2000:660\n2000:2770\n2000:660\n")
	e.start(pod("other", 3000, "OnRootMismatch", "true"), "other")
	same(t, owners("other"), "3000:2777\n3000:660\n3000:2770\n3000:660\n")
	e.ok("delete", "pods", "--all", "--now")
	e.ok("delete", "pvc", "data")
}

// TestSizeLimit: memory is limited by the kernel; a pod whose directory on disk
// grew too large is evicted.
func TestSizeLimit(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(volumePod("memory", "emptyDir: {medium: Memory, sizeLimit: 1Mi}", "true", "mountPath: /m", "mountPath: /m"), "memory")
	if r := e.sh("memory", "c0", "echo shared >/m/f; dd if=/dev/zero of=/m/big bs=64k count=32"); !strings.Contains(r.err, "No space left on device") {
		t.Error(r)
	}
	same(t, e.sh("memory", "c1", "cat /m/f").out, "shared\n")

	e.start(volumePod("disk", "emptyDir: {sizeLimit: 1Mi}", "true", "mountPath: /m"), "disk")
	if r := e.sh("disk", "c0", "dd if=/dev/zero of=/m/big bs=64k count=32"); r.code != 0 {
		t.Error(r)
	}
	p := e.when("disk", "evicted", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	same(t, p.Status.Reason, "Evicted")
	same(t, p.Status.Message, `Usage of EmptyDir volume "v" exceeds the limit "1Mi".`)
	mustContain(t, e.ok("describe", "pod", "disk"), "Evicted", p.Status.Message)
}
