package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/integration/registry"
)

// Hostile programs in containers, of which docs/security.md says that they
// reach nothing. What they do is integration/app's "attack".

// hostileImage pushes test/hostile, busybox with app.
var hostileImage = sync.OnceValue(func() error {
	image, err := registry.Part(v1.Config{Cmd: []string{"sh"}})
	if err != nil {
		return err
	}
	return images.Push(context.Background(), "test/hostile:latest", image)
})

// newHostileEnv is newEnv for tests of that image.
func newHostileEnv(t *testing.T, vars ...string) *env {
	t.Helper()
	if err := hostileImage(); err != nil {
		t.Fatal(err)
	}
	return newEnv(t, vars...)
}

// hostilePod is a pod with container c of the image test/hostile. It sleeps, unless the
// command is said in more, where fields of the container go; so does spec for
// the pod's.
func hostilePod(name, spec, more string) string {
	if !strings.Contains(more, "command:") {
		more = strings.TrimSuffix("command: [sleep, '3600'], "+more, ", ")
	}
	return podYAML(name, spec) + "  - {name: c, image: test/hostile, " + more + "}\n"
}

// allPowers is a container with every capability and no filter, but without
// the devices that privileged has.
const allPowers = "securityContext: {capabilities: {add: [ALL]}, seccompProfile: {type: Unconfined}}"

// attack has container c of a pod attack, and returns what it printed when it
// came to its end.
func (e *env) attack(pod string, args ...string) string {
	e.t.Helper()
	r := e.run(append([]string{"exec", pod, "-c", "c", "--", "app", "attack"}, args...)...)
	if r.code != 0 || !strings.HasSuffix(r.out, "done\n") {
		e.t.Fatalf("the attack did not come to its end: %v", r)
	}
	return r.out
}

// held fails the test for each thing that an attack says worked.
func held(t *testing.T, what, out string) {
	t.Helper()
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "ESCAPED") {
			t.Errorf("%s: %s", what, strings.TrimSpace(line))
		}
	}
}

// TestNoWayToTheHost: a file of the user's is not to be found from a container,
// whatever it may do and whose processes it sees.
func TestNoWayToTheHost(t *testing.T) {
	t.Parallel()
	e := newHostileEnv(t)
	const text = "for the user's eyes only"
	e.write("secret", text)
	secret := filepath.Join(e.home, "secret")
	e.start(hostilePod("usual", "", "")+"---\n"+
		hostilePod("powers", "", allPowers)+"---\n"+
		hostilePod("debugger", "shareProcessNamespace: true", "securityContext: {capabilities: {add: [SYS_PTRACE]}}")+"---\n"+
		hostilePod("sharing", "shareProcessNamespace: true", allPowers)+"---\n"+
		hostilePod("given", "volumes: [{name: v, hostPath: {path: "+e.home+"}}]", "volumeMounts: [{name: v, mountPath: /given}]"),
		"usual", "powers", "debugger", "sharing", "given")
	for _, pod := range []string{"usual", "powers", "debugger", "sharing"} {
		held(t, pod, e.attack(pod, "files", secret, text))
	}
	// The attack finds what there is to be found.
	mustContain(t, e.attack("given", "files", "/given/secret", text), "ESCAPED")
	// Nor does a program see the node's directories among its mounts.
	for _, pod := range []string{"usual", "powers", "debugger", "sharing"} {
		for _, pid := range []string{"self", "1"} {
			mounts := e.ok("exec", pod, "-c", "c", "--", "cat", "/proc/"+pid+"/mountinfo")
			for _, dir := range []string{e.state + "/netns", e.state + "/sandboxes"} {
				if strings.Contains(mounts, " "+dir) {
					t.Errorf("%s: process %s sees mounts below %s:\n%s", pod, pid, dir, mounts)
				}
			}
		}
	}
}

// TestPauseIsNoWayOut: the first process of a shared pid namespace is ours. It
// has no rights, no files, and nobody can debug it.
func TestPauseIsNoWayOut(t *testing.T) {
	t.Parallel()
	e := newHostileEnv(t)
	e.start(hostilePod("a", "shareProcessNamespace: true", allPowers), "a")
	status := e.status("a")
	same(t, status["Name"], "podrun-pause")
	for _, set := range []string{"CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		same(t, set+" "+status[set], set+" 0000000000000000")
	}
	same(t, status["NoNewPrivs"], "1")
	if r := e.in("a", "ls -A /proc/1/root/ /proc/1/cwd/ /proc/1/fd"); r.out != "/proc/1/cwd/:\n\n/proc/1/fd:\n\n/proc/1/root/:\n" {
		t.Errorf("the pause process has files: %v", r)
	}
	// So it is where the pod has users of its own.
	e.openUp()
	e.start(hostilePod("own", "hostUsers: false\nshareProcessNamespace: true", allPowers), "own")
	same(t, e.status("own")["CapEff"], "0000000000000000")
	if r := e.in("own", "ls -A /proc/1/root/ /proc/1/cwd/ /proc/1/fd"); r.out != "/proc/1/cwd/:\n\n/proc/1/fd:\n\n/proc/1/root/:\n" {
		t.Errorf("with users of its own the pause process has files: %v", r)
	}
	e.start(hostilePod("b", "shareProcessNamespace: true", ""), "b")
	for _, look := range []string{"ls /proc/1/root/", "ls /proc/1/cwd/", "readlink /proc/1/exe", "cat /proc/1/environ", "cat /proc/1/mem"} {
		if r := e.in("b", look); r.code == 0 || r.out != "" {
			t.Errorf("a container sees into the pause process: %v", r)
		}
	}
}

// TestPauseAndFirstProcess: of the two processes that a shared pid namespace has
// of ours, neither outlives the other, and the pod recovers from the end of
// either.
func TestPauseAndFirstProcess(t *testing.T) {
	t.Parallel()
	e := newHostileEnv(t)
	e.start(hostilePod("a", "shareProcessNamespace: true", ""), "a")
	pauses := func() (outer, inner stat) {
		t.Helper()
		all := processes()
		for p := range e.session() {
			s := all[p.pid]
			if s.name != "podrun-pause" {
				continue
			}
			if all[s.ppid].name == "podrun-pause" {
				inner = s
			} else {
				outer = s
			}
		}
		if outer.pid == 0 || inner.ppid != outer.pid {
			t.Fatalf("no two pause processes: %v", e.session())
		}
		return outer, inner
	}
	for i := range 2 {
		outer, inner := pauses()
		e.kill9([]int{inner.pid, outer.pid}[i])
		e.restarted("a", i+1)
		for _, old := range []stat{outer, inner} {
			e.eventually("end of both", func() string {
				if old.alive() {
					return fmt.Sprint(old.pid, " there")
				}
				return ""
			})
		}
	}
}

// TestKeysOfTheUser: a container has none of the user's keys (keyrings(7)), with
// the filter that keeps it from asking, and without.
func TestKeysOfTheUser(t *testing.T) {
	t.Parallel()
	// The node gets its session keyring from the thread that starts it. This one
	// ends with the test.
	runtime.LockOSThread()
	if _, _, errno := unix.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
	key := fmt.Sprintf("podrun-test-%d", os.Getpid())
	if _, err := unix.AddKey("user", key, []byte("for the user alone"), unix.KEY_SPEC_SESSION_KEYRING); err != nil {
		t.Fatal(err)
	}
	e := newHostileEnv(t)
	e.start(hostilePod("usual", "", "")+"---\n"+hostilePod("powers", "", allPowers)+"---\n"+hostilePod("privileged", "", "securityContext: {privileged: true}"), "usual", "powers", "privileged")
	for _, pod := range []string{"usual", "powers", "privileged"} {
		held(t, pod, e.attack(pod, "keys", key))
	}
	// It finds a key where there is one.
	app, err := exec.Command(filepath.Join(os.Getenv("PODRUN_TEST_IMAGES"), "app"), "attack", "keys", key).CombinedOutput()
	if mustContain(t, string(app), "ESCAPED: the session keyring"); err != nil {
		t.Errorf("%v: %s", err, app)
	}
	// Nor do two containers have one keyring.
	ring := func(pod string) string {
		return strings.Fields(e.attack(pod, "keyring"))[0]
	}
	if a, b := ring("powers"), ring("privileged"); a == b {
		t.Errorf("two pods have the session keyring %s", a)
	}
}

// TestOnlyThreeDescriptors: whatever runs in a container has 0, 1 and 2 open
// and nothing of the node's: a container's program, one beside it with and
// without a terminal, a hook and a probe.
func TestOnlyThreeDescriptors(t *testing.T) {
	t.Parallel()
	e := newHostileEnv(t)
	const look = "app attack descriptors"
	e.start(hostilePod("a", "volumes: [{name: v, emptyDir: {}}]", fmt.Sprintf(
		"command: [app, attack, -stay, descriptors], volumeMounts: [{name: v, mountPath: /v}], "+
			"lifecycle: {postStart: {exec: {command: [sh, -c, '%[1]s >/v/hook']}}}, "+
			"startupProbe: {exec: {command: [sh, -c, '%[1]s >/v/probe']}, periodSeconds: 1}", look)), "a")
	outputs := map[string]string{
		"exec":  e.attack("a", "descriptors"),
		"hook":  e.ok("exec", "a", "--", "cat", "/v/hook"),
		"probe": e.ok("exec", "a", "--", "cat", "/v/probe"),
	}
	e.eventually("log", func() string {
		if outputs["program"] = e.ok("logs", "a"); !strings.HasSuffix(outputs["program"], "done\n") {
			return outputs["program"]
		}
		return ""
	})
	for what, out := range outputs {
		if held(t, what, out); !strings.HasSuffix(out, "done\n") {
			t.Errorf("%s: got %q", what, out)
		}
	}
}

// ownBinary gives e a podrun that its user may write to, and returns its path.
func (e *env) ownBinary() string {
	e.t.Helper()
	program, err := os.ReadFile(podrunBinary)
	if err != nil {
		e.t.Fatal(err)
	}
	e.binary = filepath.Join(e.home, "bin", "podrun")
	if err := os.Mkdir(filepath.Dir(e.binary), 0o700); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(e.binary, program, 0o700); err != nil {
		e.t.Fatal(err)
	}
	return e.binary
}

// TestProgramsAreNotOverwritten: CVE-2019-5736. podrun's own program, and that
// of a process it is about to start in a container, cannot be written from
// there, though the user may write it.
func TestProgramsAreNotOverwritten(t *testing.T) {
	t.Parallel()
	e := newHostileEnv(t)
	program := e.ownBinary()
	before, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	e.start(hostilePod("usual", "", "")+"---\n"+hostilePod("powers", "", allPowers)+"---\n"+hostilePod("sharing", "shareProcessNamespace: true", allPowers), "usual", "powers", "sharing")
	// A program of the container's that is a script of podrun's, and one that is
	// podrun.
	for _, pod := range []string{"usual", "powers", "sharing"} {
		e.ok("exec", pod, "--", "sh", "-c", `printf '#!/proc/self/exe\n' >/bin/script && chmod 755 /bin/script`)
		s := e.begin(t, "exec", pod, "-c", "c", "--", "app", "attack", "programs", "1500ms")
		e.eventually("the attack", func() string {
			if strings.Contains(s.output(), "looking") {
				return ""
			}
			return "not begun"
		})
		for range 5 {
			e.run("exec", pod, "--", "/bin/script")
			e.run("exec", pod, "--", "/proc/self/exe", "version")
			e.run("exec", pod, "--", "true")
		}
		if code := s.end(); code != 0 {
			t.Errorf("%s: exit code %d: %s", pod, code, s.errors())
		}
		held(t, pod, s.output())
		if pod != "usual" && !strings.Contains(s.output(), "opened the program") {
			t.Errorf("%s: the attack saw no program but the image's: %s", pod, s.output())
		}
	}
	after, err := os.ReadFile(program)
	if err != nil || string(after) != string(before) {
		t.Errorf("%s has changed (%v)", program, err)
	}
	same(t, e.ok("exec", "usual", "--", "echo", "still there"), "still there\n")
}

// TestKernelIsOutOfReach: the files by which a root would take the machine
// cannot be written, and the calls are refused.
func TestKernelIsOutOfReach(t *testing.T) {
	t.Parallel()
	e := newHostileEnv(t)
	e.start(hostilePod("usual", "", ""), "usual")
	held(t, "files", e.attack("usual", "kernel"))
	held(t, "calls", e.attack("usual", "calls"))
	for _, write := range []string{"/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"} {
		if r := e.in("usual", "echo x >>"+write); r.code == 0 {
			t.Errorf("%s: %v", write, r)
		}
	}
}
