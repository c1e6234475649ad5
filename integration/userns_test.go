package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// openUp lets others enter the directory of e, as they may enter /run: root's
// pods with users of their own have to.
func (e *env) openUp() {
	e.t.Helper()
	if err := os.Chmod(e.dir, 0o711); err != nil {
		e.t.Fatal(err)
	}
}

// users are the first IDs on the host of the users and groups of a container,
// which has 65536 of each.
func (e *env) users(pod, container string) int {
	e.t.Helper()
	first := 0
	for _, file := range []string{"uid_map", "gid_map"} {
		m := regexp.MustCompile(`^ *0 +(\d+) +65536\n$`).FindStringSubmatch(e.sh(pod, container, "cat /proc/self/"+file).out)
		if m == nil {
			e.t.Fatalf("%s of %s: %v", file, pod, e.sh(pod, container, "cat /proc/self/"+file))
		}
		first, _ = strconv.Atoi(m[1])
	}
	return first
}

// TestHostUsersFalse: a pod of root's has users of its own, which are nobody on
// the host, and files belong to whom they belong elsewhere.
func TestHostUsersFalse(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // every pod of an ordinary user's is in a user namespace: TestKubernetesIO has it
	}
	e := newEnv(t)
	manifest := func(name string) string {
		return `
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  securityContext: {fsGroup: 2000, sysctls: [{name: net.core.somaxconn, value: "99"}]}
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: host, hostPath: {path: ` + e.home + `/host}}
  - {name: config, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
  - {name: image, image: {reference: busybox}}
  initContainers:
  - {name: init, image: busybox, command: [sh, -c, 'touch /disk/root; chown 1000:1000 /disk/root; echo init'], volumeMounts: [{name: disk, mountPath: /disk}]}
  containers:
  - name: c
    image: busybox
    command: [sh, -c, 'echo out; echo err >&2; exec sleep 3600']
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: memory, mountPath: /memory}
    - {name: host, mountPath: /host}
    - {name: config, mountPath: /config}
    - {name: image, mountPath: /image}
  - {name: other, image: busybox, command: [sleep, "3600"], securityContext: {runAsUser: 1000, runAsGroup: 3000}, volumeMounts: [{name: disk, mountPath: /disk, subPath: sub}]}
`
	}
	if err := os.Mkdir(filepath.Join(e.home, "host"), 0o755); err != nil {
		t.Fatal(err)
	}
	// Its containers' root has to get as far as its root file system.
	e.write("pod.yml", manifest("one"))
	mustContain(t, e.fails(1, "apply", "-f", "pod.yml"), "spec.hostUsers: Forbidden: podrun as root cannot give the pod users of its own: others than root may not enter "+e.dir+" (mode 0700); set PODRUN_STATE")
	e.openUp()
	e.start(manifest("one")+"---\n"+manifest("two")+"---\n"+podYAML("usual", "", "c=exec sleep 3600"), "one", "two", "usual")

	one, two := e.users("one", "c"), e.users("two", "c")
	if one == 0 || one%65536 != 0 || two == one || e.users("one", "other") != one {
		t.Errorf("users from %d and %d on", one, two)
	}
	pid := e.initPID(ids(e.pod("one"))["c"])
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err != nil || !strings.Contains(string(status), fmt.Sprintf("Uid:\t%d\t", one)) {
		t.Errorf("%v: %s", err, status)
	}
	for _, script := range []string{"readlink /proc/self/ns/user", "cat /proc/sys/net/core/somaxconn"} {
		if e.sh("one", "c", script).out == e.sh("usual", "c", script).out {
			t.Errorf("%s: the same as elsewhere", script)
		}
	}
	// Whose files are whose, in there.
	same(t, e.sh("one", "c", "id -u; stat -c %u:%g /bin /etc/hosts /etc/passwd /dev/shm /disk/root /config/name /host").out, "0\n0:0\n0:0\n0:0\n0:0\n1000:1000\n0:2000\n0:0\n")
	if r := e.sh("one", "c", "touch /disk/f /memory/f /host/f /new /dev/shm/f && chown 5:6 /host/f /new && rm -r /var && echo x >>/etc/hosts && stat -c %u:%g /host/f /new"); r.out != "5:6\n5:6\n" {
		t.Error(r)
	}
	same(t, e.sh("one", "other", "id; touch /disk/f && stat -c %u:%g /disk/f").out, "uid=1000 gid=3000 groups=2000,3000\n1000:2000\n")
	mustContain(t, e.sh("one", "c", "cat /image/etc/passwd").out, "nobody")
	// And on the host: a host path has the same owners, what is the pod's own its.
	info, err := os.Stat(filepath.Join(e.home, "host/f"))
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 5 || st.Gid != 6 {
		t.Errorf("%d:%d on the host", st.Uid, st.Gid)
	}
	uppers, _ := filepath.Glob(filepath.Join(e.data, "containers", ids(e.pod("one"))["c"], "upper", "new"))
	if len(uppers) != 1 {
		t.Fatalf("%v", uppers)
	}
	info, err = os.Stat(uppers[0])
	if st := info.Sys().(*syscall.Stat_t); err != nil || int(st.Uid) != one+5 || int(st.Gid) != one+6 {
		t.Errorf("%v: %d:%d on the host, root is %d", err, st.Uid, st.Gid, one)
	}
	// What root may do in there, and what it may not.
	if r := e.sh("one", "c", "hostname"); r.out != "one\n" {
		t.Error(r)
	}
	for _, script := range []string{"echo 1 >/proc/sys/kernel/panic", "mknod /tmp/x c 1 5", "kill -0 " + strconv.Itoa(pid)} {
		if r := e.sh("one", "c", script); r.code == 0 {
			t.Errorf("%s: %v", script, r)
		}
	}
	// The verbs.
	same(t, e.ok("logs", "one", "-c", "init"), "init\n")
	e.eventually("output", func() string {
		if out := e.ok("logs", "one", "-c", "c"); !strings.Contains(out, "out\n") || !strings.Contains(out, "err\n") {
			return out
		}
		return ""
	})
	e.write("file", "text")
	e.ok("cp", filepath.Join(e.home, "file"), "one:/tmp-file", "-c", "c")
	same(t, e.sh("one", "c", "cat /tmp-file; stat -c ' %u' /tmp-file").out, "text 0\n")
	e.ok("cp", "one:/tmp-file", filepath.Join(e.home, "back"), "-c", "c")
	terminal := e.beginTerminal(t, "exec", "-it", "one", "-c", "c", "--", "sh")
	terminal.enter("id -u; test -w $(tty) && exit 5\n")
	if code := terminal.end(); code != 5 {
		t.Errorf("exit %d: %s", code, terminal.output())
	}
	if r := e.sh("one", "c", "wget -qO- http://"+e.pod("two").Status.PodIP+":1 2>&1"); !strings.Contains(r.out+r.err, "refused") {
		t.Errorf("no way to the other pod: %v", r)
	}

	// A node that comes later, and a restart of the group, know the users.
	e.killNode()
	e.kill9(e.initPID(ids(e.pod("one"))["other"]))
	e.restarted("one", 1)
	if got := e.users("one", "c"); got != one {
		t.Errorf("users from %d on, were from %d on", got, one)
	}
	same(t, e.sh("one", "c", "cat /host/f; stat -c %u:%g /host/f /disk/root").out, "5:6\n1000:1000\n")
	// What was freed is given again.
	e.ok("delete", "pod", "one", "--now")
	e.start(manifest("three"), "three")
	if got := e.users("three", "c"); got != one {
		t.Errorf("users from %d on, want those that were freed, from %d on", got, one)
	}
	e.ok("delete", "pods", "--all", "--now")
	if left, _ := filepath.Glob(e.state + "-rootfs/*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestHostUsersUnmappable: a volume whose owners the kernel cannot map is
// refused, and what it is is said.
func TestHostUsersUnmappable(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // nothing is mapped: the pods share their user's
	}
	e := newEnv(t)
	e.openUp()
	e.apply(strings.Replace(volumePod("p", "hostPath: {path: /proc/self}", "true", "mountPath: /m"), "spec:", "spec:\n  hostUsers: false", 1))
	p := e.when("p", "refused", func(p *corev1.Pod) bool { return waitingFor(p, "init") == "CreateContainerError" })
	mustContain(t, p.Status.InitContainerStatuses[0].State.Waiting.Message, "failed to set MOUNT_ATTR_IDMAP on /proc/self: invalid argument")
}
