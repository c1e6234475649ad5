package integration

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// asAnother runs a shell script as another user than the test's: for root as
// nobody, for an ordinary user as one of the user's subordinate IDs. The script
// begins in dir, whoever may enter the directories above it.
func asAnother(t *testing.T, dir, script string) (out string, err error) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	command := exec.Command("sh", "-c", "cd /proc/self/fd/3 && "+script)
	if os.Geteuid() == 0 {
		const nobody = 65534
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	} else {
		command = exec.Command("unshare", append([]string{"--user", "--map-auto", "--map-root-user", "--",
			"setpriv", "--reuid=1", "--regid=1", "--clear-groups", "--"}, command.Args...)...)
	}
	command.ExtraFiles = []*os.File{f}
	command.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	b, err := command.CombinedOutput()
	return string(b), err
}

// TestAnotherUser: another user of the machine reads nothing of a node's and
// does not reach its socket; and if it could, would be refused by it.
func TestAnotherUser(t *testing.T) {
	t.Parallel()
	e := newHostileEnv(t)
	e.start(hostilePod("a", "volumes: [{name: v, emptyDir: {}}]", "command: [sh, -c, 'echo said; exec sleep 3600'], volumeMounts: [{name: v, mountPath: /v}]"), "a")
	// Up to here everybody may come; what follows is podrun's.
	if err := os.Chmod(e.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := asAnother(t, e.dir, "ls"); err != nil || out != "data\nhome\nstate\n" {
		t.Fatalf("the other user cannot come near: %v: %s", err, out)
	}
	for _, script := range []string{
		"ls state", "ls data", "cat data/store.db", "cat state/node.log", "cat state/node.lock", "echo >state/new", "echo >data/new",
		"ls data/volumes", "ls data/logs", "ls state/sandboxes", "ls data/images",
	} {
		if out, err := asAnother(t, e.dir, script); err == nil || !strings.Contains(out, "Permission denied") {
			t.Errorf("%s: %v: %s", script, err, out)
		}
	}
	// Not our paths, but those of processes.
	for p := range e.session() {
		for _, file := range []string{"environ", "mem", "fd/1", "root/etc/passwd", "cwd/x", "exe"} {
			if out, err := asAnother(t, "/proc", fmt.Sprintf("dd if=%d/%s bs=1 count=1 2>&1", p.pid, file)); err == nil {
				t.Errorf("the other user reads /proc/%d/%s: %s", p.pid, file, out)
			}
		}
	}
	app := filepath.Join(os.Getenv("PODRUN_TEST_IMAGES"), "app")
	ask := app + " attack socket state/node.sock"
	if out, err := asAnother(t, e.dir, ask); err == nil || !strings.Contains(out, "permission denied") {
		t.Errorf("ask the node: %v: %s", err, out)
	}
	// The file's mode is not all that keeps others out.
	open := func(state, socket os.FileMode) {
		for path, mode := range map[string]os.FileMode{e.state: state, filepath.Join(e.state, "node.sock"): socket} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	open(0o755, 0o666)
	out, err := asAnother(t, e.dir, ask)
	open(0o700, 0o600)
	if mustContain(t, out, "403 Forbidden", "this node belongs to another user than"); err != nil || strings.Contains(out, "PodList") {
		t.Errorf("the node answers: %v: %s", err, out)
	}
	// Nor is there a socket without a file, which has no mode.
	for _, pid := range []int{e.nodePID(), e.reaperPID()} {
		if found := abstractSockets(t, pid); len(found) > 0 {
			t.Errorf("process %d has abstract sockets: %v", pid, found)
		}
	}
}

// abstractSockets are the names of the abstract unix sockets that a process of
// the host's network has open.
func abstractSockets(t *testing.T, pid int) (names []string) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	name := map[string]string{} // by inode
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) == 8 && strings.HasPrefix(f[7], "@") {
			name["socket:["+f[6]+"]"] = f[7]
		}
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		link, _ := os.Readlink(filepath.Join(dir, entry.Name()))
		if name[link] != "" {
			names = append(names, name[link])
		}
	}
	return names
}

// TestPrivateFromBirth: with a umask that forbids nothing, the directories and
// the socket of a node are never open to others, from the first moment that one
// can see, and files that hold what is private are not either.
func TestPrivateFromBirth(t *testing.T) {
	t.Parallel()
	e := newHostileEnv(t)
	want := map[string]os.FileMode{
		e.state: 0o700, e.data: 0o700, filepath.Join(e.state, "node.sock"): 0o600, filepath.Join(e.state, "node.new"): 0o600, filepath.Join(e.state, "reaper.sock"): 0o600,
		filepath.Join(e.data, "store.db"): 0o600, filepath.Join(e.state, "node.log"): 0o600, filepath.Join(e.state, "node.lock"): 0o600,
	}
	stop := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			for path, mode := range want {
				if info, err := os.Lstat(path); err == nil && info.Mode().Perm() != mode {
					t.Errorf("%s was seen with mode %v, want %v", path, info.Mode(), mode)
				}
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	manifest := e.write("pod.yml", "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {key: value}}\n---\n"+
		hostilePod("a", "volumes: [{name: s, secret: {secretName: s}}, {name: v, emptyDir: {}}]", "stdin: true, command: [sh, -c, 'echo said; exec sleep 3600'], volumeMounts: [{name: s, mountPath: /s}, {name: v, mountPath: /v}]"))
	command := e.command()
	command.Path, command.Args = "/bin/sh", []string{"sh", "-c", `umask 0; exec "$@"`, "sh", e.binary, "apply", "-f", manifest}
	out, err := command.CombinedOutput()
	close(stop)
	watcher.Wait()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	e.ready("a")
	for path, mode := range want {
		info, err := os.Lstat(path)
		if name := filepath.Base(path); name == "node.new" || name == "reaper.sock" {
			continue // the one has become node.sock, the other is gone with the node's connection
		}
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want %v", path, info, err, mode)
		}
	}
	e.checkPrivate(e.state, "sandboxes", "volumes", "pods", "cni/addresses")
	e.checkPrivate(e.data, "images", "containers", "volumes", "claims")
	// Of the sandboxes what is ours: the rest is mounted.
	files, err := filepath.Glob(filepath.Join(e.state, "sandboxes", "*", "*.json"))
	more, merr := filepath.Glob(filepath.Join(e.state, "sandboxes", "*", "containers", "*", "*"))
	if err != nil || merr != nil || len(files) == 0 || len(more) < 4 {
		t.Fatalf("no files of a sandbox: %v %v, %v %v", files, more, err, merr)
	}
	for _, file := range append(files, more...) {
		if info, err := os.Lstat(file); err != nil || !info.IsDir() && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
}

// checkPrivate fails the test for each file below dir that others may read or
// write, but for those in the directories that are without.
func (e *env) checkPrivate(dir string, without ...string) {
	e.t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		for _, name := range without {
			if path == filepath.Join(dir, name) {
				return fs.SkipDir
			}
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return nil // just gone
		}
		if entry.Type() != fs.ModeSymlink && st.Mode&0o077 != 0 {
			e.t.Errorf("%s has mode %o", path, st.Mode)
		}
		return nil
	})
	if err != nil {
		e.t.Error(err)
	}
}

// TestSecretsStaySecret: the values of a Secret are in no log, event or
// description, and in the arguments and environment of no process but the
// containers that are given them.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	e := newHostileEnv(t, "PODRUN_DEBUG=1")
	const value, password = "s3cr3t-of-the-test-4711", "p4ssw0rd-of-the-test-4711"
	login := `{"auths": {"registry.example": {"auth": "` + base64.StdEncoding.EncodeToString([]byte("me:"+password)) + `"}}}`
	e.apply("{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {key: " + value + "}}\n---\n" +
		"{apiVersion: v1, kind: Secret, metadata: {name: pull}, type: kubernetes.io/dockerconfigjson, data: {.dockerconfigjson: " + base64.StdEncoding.EncodeToString([]byte(login)) + "}}\n---\n" +
		hostilePod("a", "imagePullSecrets: [{name: pull}]\nvolumes: [{name: s, secret: {secretName: s}}]",
			"command: [sleep, '3600'], env: [{name: KEY, valueFrom: {secretKeyRef: {name: s, key: key}}}], envFrom: [{secretRef: {name: s}}], volumeMounts: [{name: s, mountPath: /s}], "+
				"livenessProbe: {exec: {command: [sh, -c, 'exit 1']}, periodSeconds: 1, failureThreshold: 1000}, lifecycle: {postStart: {exec: {command: [sh, -c, 'true']}}}") + "---\n" +
		hostilePod("broken", "volumes: [{name: s, secret: {secretName: s}}]", "env: [{name: KEY, valueFrom: {secretKeyRef: {name: s, key: key}}}], command: [/nosuch, $(KEY)], volumeMounts: [{name: s, mountPath: /s}]"))
	e.ready("a")
	e.failedOnce("broken")
	hidden := func(what, text string) {
		t.Helper()
		for _, s := range []string{value, password} {
			for _, form := range []string{s, base64.StdEncoding.EncodeToString([]byte(s)), base64.StdEncoding.EncodeToString([]byte("me:" + s))} {
				if strings.Contains(text, form) {
					t.Errorf("%s shows a secret:\n%s", what, text)
				}
			}
		}
	}
	for _, args := range [][]string{
		{"get", "pods", "-o", "wide"}, {"get", "pods", "-o", "yaml"}, {"get", "secrets"}, {"describe", "pods"}, {"describe", "secrets"}, {"describe", "ns", "default"},
		{"events"}, {"get", "events", "-o", "yaml"}, {"logs", "a"}, {"ps", "-a"}, {"exec", "a", "--", "ps"},
	} {
		r := e.run(args...)
		hidden("podrun "+strings.Join(args, " "), r.out+r.err)
	}
	for _, name := range []string{"node.log", "exits", "userns"} {
		text, err := os.ReadFile(filepath.Join(e.state, name))
		if err != nil && name == "node.log" {
			t.Fatal(err)
		}
		hidden(name, string(text))
	}
	container := e.initPID(ids(e.pod("a"))["c"])
	seen := 0
	for p, what := range e.session() {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
		hidden("the arguments of "+what, string(args))
		if s, ok := readStat(p.pid); p.pid == container || !ok || s.ppid == container {
			continue
		}
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid))
		if !strings.HasPrefix(string(args), "podrun") && !strings.Contains(what, "podrun") {
			continue // a probe's program has the container's environment
		}
		seen++
		hidden("the environment of "+what, string(environ))
	}
	if seen < 3 {
		t.Errorf("looked at %d processes of podrun's", seen)
	}
	// It is there for whom it is meant for.
	same(t, e.ok("exec", "a", "--", "sh", "-c", "echo $KEY $key; cat /s/key"), value+" "+value+"\n"+value)
	mustContain(t, e.ok("get", "secret", "s", "-o", "yaml"), base64.StdEncoding.EncodeToString([]byte(value)))
}

// failedOnce waits until a pod's container c has failed to start once.
func (e *env) failedOnce(name string) {
	e.t.Helper()
	e.eventually("failure of "+name, func() string {
		if out := e.ok("describe", "pod", name); !strings.Contains(out, "nosuch") || !strings.Contains(out, "Failed") {
			return out
		}
		return ""
	})
}
