package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/integration/registry"
)

// victims are pods v0, v1 and so on, of one container each, that try to start
// while another pod is at work on what they mount. spec and more are as for
// hostilePod; %d in them is the pod's number.
func victims(n int, spec, more string) string {
	var all []string
	number := func(s string, i int) string { return strings.ReplaceAll(s, "%d", fmt.Sprint(i)) }
	for i := range n {
		all = append(all, hostilePod(fmt.Sprintf("v%d", i), "restartPolicy: Never\n"+number(spec, i), number(more, i)))
	}
	return strings.Join(all, "---\n")
}

// renamed gives victims another prefix than v.
func renamed(prefix, manifest string) string {
	return strings.ReplaceAll(manifest, "\n  name: v", "\n  name: "+prefix)
}

// outcomes waits until each pod, prefix0 and so on, has run to its end, or could not be started,
// and returns what those that ran have printed, by name.
func (e *env) outcomes(prefix string, n int) map[string]string {
	e.t.Helper()
	printed := map[string]string{}
	for i := range n {
		name := fmt.Sprint(prefix, i)
		p := e.when(name, "run or refused", func(p *corev1.Pod) bool {
			if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
				return true
			}
			for _, s := range p.Status.ContainerStatuses {
				if w := s.State.Waiting; w != nil && strings.HasPrefix(w.Reason, "Create") && w.Message != "" {
					e.t.Logf("%s: %s", name, w.Message)
					return true
				}
			}
			return false
		})
		if t := p.Status.ContainerStatuses[0].State.Terminated; t != nil && t.Reason != "StartError" && t.Reason != "ContainerCannotRun" {
			printed[name] = e.ok("logs", name)
		} else if t != nil {
			e.t.Logf("%s: %s", name, t.Message)
		}
	}
	return printed
}

const sharedClaim = `apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shared}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
`

const claimVolume = "{name: v, persistentVolumeClaim: {claimName: shared}}"

// TestVolumeSwappedInStart: CVE-2021-30465. A directory of a volume that is a
// link at every other moment leads no mount below it out of the container.
func TestVolumeSwappedInStart(t *testing.T) {
	t.Parallel()
	e := newHostileEnv(t)
	const text = "for the user's eyes only"
	e.write("secret", text)
	e.start(sharedClaim+hostilePod("a", "volumes: ["+claimVolume+"]",
		"command: [sh, -c, 'mkdir -p /v/x/deep && ln -s "+e.home+" /v/y && exec app attack swap /v/x /v/y'], volumeMounts: [{name: v, mountPath: /v}]"), "a")
	const n = 10
	e.apply(victims(n, "volumes: ["+claimVolume+", {name: w, emptyDir: {}}]",
		"command: [app, attack, files, "+filepath.Join(e.home, "secret")+", "+text+"], volumeMounts: [{name: v, mountPath: /v}, {name: w, mountPath: /v/x/deep}, {name: w, mountPath: /v/x}]"))
	printed := e.outcomes("v", n)
	for name, out := range printed {
		if held(t, name, out); !strings.HasSuffix(out, "done\n") {
			t.Errorf("%s: got %q", name, out)
		}
	}
	t.Logf("%d of %d started", len(printed), n)
	e.homeIs("secret")
	defer e.ok("delete", "pod,pvc", "--all", "--now")
	if found := mounts(fmt.Sprint(e.nodePID()), e.home); len(found) > 0 {
		t.Errorf("mounts in the user's home: %v", found)
	}
}

// homeIs fails the test when the user's home holds anything but these.
func (e *env) homeIs(want ...string) {
	e.t.Helper()
	entries, err := os.ReadDir(e.home)
	if err != nil {
		e.t.Fatal(err)
	}
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	same(e.t, strings.Join(got, " "), strings.Join(want, " "))
}

// TestDevicesSwappedInStart: CVE-2025-31133, 52565 and 52881. With a volume for
// /dev in which null and console are links at every other moment, a container is
// not started, or what lies over hidden files of /proc is the real null, and no
// file of /proc is mounted where it does not belong.
func TestDevicesSwappedInStart(t *testing.T) {
	t.Parallel()
	e := newHostileEnv(t)
	// Real root makes the device that is looked for.
	swap := func(name, device, to string) string {
		return "rm -rf /v/" + name + "; mknod /v/" + name + " " + device + " || touch /v/" + name + "; ln -s " + to + " /v/" + name + ".link; app attack swap /v/" + name + " /v/" + name + ".link"
	}
	e.start(sharedClaim+hostilePod("a", "volumes: ["+claimVolume+"]",
		"command: [sh, -c, '("+swap("null", "c 1 3", "/proc/sys/kernel/core_pattern")+") & ("+swap("console", "c 5 1", "/proc/sysrq-trigger")+") & wait'], volumeMounts: [{name: v, mountPath: /v}]"), "a")
	const n = 6
	const look = "command: [sh, -c, 'app attack mounts /proc; app attack kernel']"
	e.apply(victims(n, "volumes: ["+claimVolume+"]",
		look+", volumeMounts: [{name: v, mountPath: /dev}]") + "---\n" +
		renamed("w", victims(n, "volumes: ["+claimVolume+"]", "tty: true, "+look+", volumeMounts: [{name: v, mountPath: /dev}]")))
	defer e.ok("delete", "pod,pvc", "--all", "--now")
	printed := e.outcomes("v", n)
	for name, out := range e.outcomes("w", n) {
		printed[name] = out
	}
	for name, out := range printed {
		out = strings.ReplaceAll(out, "\r", "")
		if held(t, name, out); strings.Count(out, "done\n") != 2 {
			t.Errorf("%s: got %q", name, out)
		}
		over, _, _ := strings.Cut(out, "done\n")
		for line := range strings.Lines(over) {
			f := strings.Fields(line)
			root, at, kind := f[0], f[1], f[2]
			switch {
			case kind == "proc" && root == strings.TrimPrefix(at, "/proc"), at == "/proc" && root == "/":
			case kind == "tmpfs" && root == "/", len(f) > 3 && f[3] == "null":
			default:
				t.Errorf("%s: %s of %s is mounted at %s", name, root, kind, at)
			}
		}
	}
	t.Logf("%d of %d started", len(printed), 2*n)
}

// TestVolumesOverProc: nothing of a pod's is mounted over /proc, where a runtime
// writes labels and limits by fixed names, nor by a link of the image to it.
func TestVolumesOverProc(t *testing.T) {
	t.Parallel()
	e := newHostileEnv(t)
	image, err := registry.Part(v1.Config{}, registry.File{Name: "kernel", Link: "/proc/sys/kernel"}, registry.File{Name: "self", Link: "/proc/self"})
	if err != nil {
		t.Fatal(err)
	}
	if err := images.Push(t.Context(), "test/proc:latest", image); err != nil {
		t.Fatal(err)
	}
	paths := []string{"/proc", "/proc/self/attr", "/proc/sys/kernel", "/proc/sysrq-trigger", "/kernel", "/self/attr"}
	var all []string
	for i, p := range paths {
		all = append(all, strings.ReplaceAll(hostilePod(fmt.Sprintf("v%d", i), "restartPolicy: Never\nvolumes: [{name: v, emptyDir: {}}]",
			"command: [app, attack, mounts, /proc], volumeMounts: [{name: v, mountPath: "+p+"}]"), "test/hostile", "test/proc"))
	}
	e.apply(strings.Join(all, "---\n"))
	for name, out := range e.outcomes("v", len(paths)) {
		t.Errorf("%s runs: %s", name, out)
	}
}

// TestWorkingDirThroughDescriptors: CVE-2024-21626. A working directory that is
// a descriptor of the program that starts a container, or becomes one before a
// program is started beside it, is refused or leads nowhere.
func TestWorkingDirThroughDescriptors(t *testing.T) {
	t.Parallel()
	e := newHostileEnv(t)
	const text, n = "for the user's eyes only", 10
	e.write("secret", text)
	secret := filepath.Join(e.home, "secret")
	e.apply(hostilePod("a", "", "workingDir: /srv, command: [sh, -c, 'cd / && rmdir /srv; while :; do for i in 3 4 5 6 7 8 9 10 11 12; do ln -sfn /proc/self/fd/$i /srv; sleep 0.02; done; done']") + "---\n" +
		victims(n, "", "workingDir: /proc/self/fd/1%d, command: [app, attack, files, "+secret+", "+text+"]") + "---\n" +
		renamed("w", victims(n, "", "workingDir: /proc/self/fd/%d, command: [app, attack, files, "+secret+", "+text+"]")))
	e.ready("a")
	for range n {
		r := e.run("exec", "a", "--", "app", "attack", "files", secret, text)
		held(t, "exec", r.out)
	}
	for name, out := range e.outcomes("v", n) {
		held(t, name, out)
	}
	for name, out := range e.outcomes("w", n) {
		held(t, name, out)
	}
}

// TestHostileImage: an image whose directories are links to the host's leads
// nothing that is mounted, made or read for a container there. (CVE-2025-9566
// was podman's, of ConfigMaps and Secrets.)
func TestHostileImage(t *testing.T) {
	t.Parallel()
	e := newHostileEnv(t)
	const text = "for the user alone"
	e.write("secret", text)
	e.write("passwd", "evil:x:0:0::/:/bin/sh\n")
	up := "../../../../../../../.." + e.home
	image, err := registry.Part(v1.Config{},
		registry.File{Name: "config", Link: e.home}, registry.File{Name: "secret", Link: filepath.Join(e.home, "secret")}, registry.File{Name: "data", Link: up},
		registry.File{Name: "magic", Link: "/proc/self/root" + e.home}, registry.File{Name: "srv", Link: up},
	)
	if err != nil {
		t.Fatal(err)
	}
	special, err := registry.Part(v1.Config{}, registry.File{Name: "dev", Link: e.home}, registry.File{Name: "sys", Link: up}, registry.File{Name: "proc", Link: e.home}, registry.File{Name: "etc", Link: e.home})
	if err != nil {
		t.Fatal(err)
	}
	for name, image := range map[string]v1.Image{"test/links:latest": image, "test/links:special": special} {
		if err := images.Push(t.Context(), name, image); err != nil {
			t.Fatal(err)
		}
	}
	mountsOf := []string{"/config", "/config/sub", "/secret", "/data", "/data/sub", "/magic", "/etc", "/srv/sub"}
	volumes := "volumes: [{name: c, configMap: {name: c}}, {name: s, secret: {secretName: s}}, {name: e, emptyDir: {}}]"
	all := []string{"{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {secret: evil, authorized_keys: evil}}",
		"{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {secret: evil, passwd: evil}}"}
	for i, at := range mountsOf {
		var mount []string
		for _, v := range []string{"c", "s", "e"} {
			mount = append(mount, "{name: "+v+", mountPath: "+at+"/"+v+"}")
		}
		mount[i%3] = "{name: " + []string{"c", "s", "e"}[i%3] + ", mountPath: " + at + "}"
		all = append(all, strings.ReplaceAll(hostilePod(fmt.Sprintf("v%d", i), "restartPolicy: Never\n"+volumes,
			"workingDir: /srv, command: [sh, -c, 'echo evil >/config/new; echo evil >>/secret; app attack files "+filepath.Join(e.home, "secret")+" \""+text+"\"'], volumeMounts: ["+strings.Join(mount, ", ")+"]"),
			"test/hostile", "test/links"))
	}
	all = append(all, strings.ReplaceAll(hostilePod(fmt.Sprintf("v%d", len(mountsOf)), "restartPolicy: Never", "command: [app, attack, files, "+filepath.Join(e.home, "secret")+", "+text+"]"),
		"test/hostile", "test/links:special"))
	e.apply(strings.Join(all, "\n---\n"))
	printed := e.outcomes("v", len(mountsOf)+1)
	for name, out := range printed {
		held(t, name, out)
	}
	t.Logf("%d of %d started", len(printed), len(mountsOf)+1)
	e.homeIs("passwd", "secret")
	for name, want := range map[string]string{"secret": text, "passwd": "evil:x:0:0::/:/bin/sh\n"} {
		if b, err := os.ReadFile(filepath.Join(e.home, name)); err != nil || string(b) != want {
			t.Errorf("%s: got %q, %v", name, b, err)
		}
	}
}
