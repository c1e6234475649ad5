package integration

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// big writes a file of 100 MB in the user's home and returns its sum.
func (e *env) big(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(e.home, name))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, sum), io.LimitReader(rand.NewChaCha8([32]byte{2}), 100<<20))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// content is that of a file in the user's home.
func (e *env) content(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(e.home, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const copyPods = `apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - {name: root, image: busybox, command: [sleep, "3600"], workingDir: /srv, volumeMounts: [{name: v, mountPath: /v}]}
  - {name: user, image: busybox, command: [sleep, "3600"], securityContext: {runAsUser: 1000, runAsGroup: 2000}, volumeMounts: [{name: v, mountPath: /v}]}
  - {name: fixed, image: busybox, command: [sleep, "3600"], securityContext: {readOnlyRootFilesystem: true}}
`

func TestCopy(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(copyPods, "a")
	sh := func(container, script string) string {
		t.Helper()
		return e.ok("exec", "a", "-c", container, "--", "sh", "-c", script)
	}
	e.write("f", "hello\n")
	if err := os.Chmod(filepath.Join(e.home, "f"), 0o750); err != nil {
		t.Fatal(err)
	}

	t.Run("a file there", func(t *testing.T) {
		same(t, e.ok("cp", "f", "a:/tmp/g", "-c", "root"), "")
		same(t, sh("root", "cat /tmp/g; stat -c '%a %u:%g' /tmp/g"), "hello\n750 0:0\n")
		e.ok("cp", "f", "default/a:/tmp", "-c", "root", "--no-preserve")
		same(t, sh("root", "cat /tmp/f; stat -c %a /tmp/f"), "hello\n644\n")
		// From the working directory on.
		e.ok("cp", "f", "a:here", "-c", "root")
		same(t, sh("root", "cat /srv/here"), "hello\n")
		// In place: who has the file open sees it.
		e.write("f2", "other\n")
		same(t, sh("root", "ls -i /tmp/g | cut -d' ' -f1 >/tmp/inode; echo"), "\n")
		e.ok("cp", "f2", "a:/tmp/g", "-c", "root")
		same(t, sh("root", "cat /tmp/g; [ $(cat /tmp/inode) = $(ls -i /tmp/g | cut -d' ' -f1) ] && echo same"), "other\nsame\n")
	})
	t.Run("a file back", func(t *testing.T) {
		e.ok("cp", "a:/tmp/g", "back", "-c", "root")
		same(t, e.content(t, "back"), "other\n")
		e.ok("cp", "a:/tmp/f", ".", "-c", "root")
		same(t, e.content(t, "f"), "hello\n")
		e.ok("cp", "a:/proc/1/comm", "new/comm", "-c", "root")
		same(t, e.content(t, "new/comm"), "sleep\n")
	})
	t.Run("another user", func(t *testing.T) {
		e.ok("cp", "f", "a:/v/mine", "-c", "user")
		same(t, sh("user", "stat -c '%a %u:%g' /v/mine"), "750 1000:2000\n")
		mustContain(t, e.fails(1, "cp", "f", "a:/etc/f", "-c", "user"), "Error from server (BadRequest): cannot copy default/a:/etc/f: open /etc/f: permission denied")
		sh("root", "echo secret >/v/secret; chmod 600 /v/secret")
		mustContain(t, e.fails(1, "cp", "a:/v/secret", "x", "-c", "user"), "permission denied")
	})
	t.Run("a directory there and back", func(t *testing.T) {
		for name, text := range map[string]string{"d/a": "A", "d/sub/b": "B", "d/sub/deep/c": strings.Repeat("C", 100000)} {
			if err := os.MkdirAll(filepath.Join(e.home, filepath.Dir(name)), 0o755); err != nil {
				t.Fatal(err)
			}
			e.write(name, text)
		}
		if err := os.Mkdir(filepath.Join(e.home, "d/empty"), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("sub/b", filepath.Join(e.home, "d/link")); err != nil {
			t.Fatal(err)
		}
		e.ok("cp", "d", "a:/new", "-c", "root")
		same(t, sh("root", "cd /new; find . | sort; cat link; stat -c %a empty"), ".\n./a\n./empty\n./link\n./sub\n./sub/b\n./sub/deep\n./sub/deep/c\nB750\n")
		e.ok("cp", "d", "a:/tmp", "-c", "root")
		same(t, sh("root", "cat /tmp/d/sub/b"), "B")
		e.ok("cp", "./d/", "a:/tmp/d", "-c", "root") // into the directory that is there
		same(t, sh("root", "cat /tmp/d/d/a"), "A")

		r := e.run("cp", "a:/new", "out", "-c", "root")
		if r.code != 0 || r.out != "" || r.err != `warning: skipping symlink: "out/link" -> "sub/b" (consider using "podrun exec -n "default" "a" -- tar cf - "/new" | tar xf -")`+"\n" {
			t.Errorf("got %v", r)
		}
		same(t, e.content(t, "out/sub/deep/c"), strings.Repeat("C", 100000))
		if info, err := os.Stat(filepath.Join(e.home, "out/empty")); err != nil || !info.IsDir() {
			t.Errorf("got %v, %v", info, err)
		}
	})
	t.Run("100 MB there and back", func(t *testing.T) {
		sum := e.big(t, "big")
		e.ok("cp", "big", "a:/v/big", "-c", "root")
		same(t, sh("root", "sha256sum /v/big"), sum+"  /v/big\n")
		e.ok("cp", "a:/v/big", "big2", "-c", "root")
		f, err := os.Open(filepath.Join(e.home, "big2"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		got := sha256.New()
		_, _ = io.Copy(got, f)
		same(t, fmt.Sprintf("%x", got.Sum(nil)), sum)
	})
	t.Run("kill -9 in the middle", func(t *testing.T) {
		before := e.pod("a")
		s := e.begin(t, "cp", "big", "a:/v/cut", "-c", "root")
		e.eventually("a beginning", func() string {
			if sh("root", "[ -s /v/cut ] && echo yes || true") == "" {
				return "none"
			}
			return ""
		})
		s.kill()
		s = e.begin(t, "cp", "a:/v/big", "cut", "-c", "root")
		e.killNode()
		if code := s.end(); code != 0 && !strings.Contains(s.errors(), "the node ended the connection") {
			t.Errorf("got exit code %d: %s", code, s.errors())
		}
		if after := e.pod("a"); ids(after)["root"] != ids(before)["root"] {
			t.Error("the container is another")
		}
	})
	t.Run("read-only root", func(t *testing.T) {
		mustContain(t, e.fails(1, "cp", "f", "a:/tmp/f", "-c", "fixed"), "read-only file system")
		e.ok("cp", "a:/etc/passwd", "passwd", "-c", "fixed")
	})
}

// TestCopyStaysInside: nothing that a container does to its links leads a copy
// out of it (docker's CVE-2018-15664 and CVE-2019-14271, kubectl's
// CVE-2019-1002101 with its followers; those about archives are in cmd/podrun).
func TestCopyStaysInside(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(strings.Replace(copyPods, "command: [sleep, \"3600\"], workingDir: /srv,", "command: [sh, -c, 'mkdir -p /w/real; echo inside >/w/real/secret; while :; do rm -f /w/x; ln -s "+e.home+" /w/x; rm -f /w/x; ln -s /w/real /w/x; done'],", 1), "a")
	e.write("secret", "outside\n")
	e.write("f", "evil\n")
	sh := func(script string) string {
		t.Helper()
		return e.ok("exec", "a", "-c", "root", "--", "sh", "-c", script)
	}
	sh("ln -s / /up; ln -s " + e.home + " /host; ln -s " + e.home + "/secret /leak; ln -s /proc/self/root /magic; ln -s /proc/1/root /magic1; ln -s ../../../../../../../.." + e.home + " /dots; mkdir /d; ln -s " + e.home + " /d/l; mkfifo /d/fifo; ln -s /host/new /dangling; mkfifo /fifo")

	for _, path := range []string{"/host/secret", "/leak", "/up" + e.home + "/secret", "/dots/secret", "/../../../.." + e.home + "/secret", "/magic" + e.home + "/secret", "/magic1" + e.home + "/secret", "/proc/self/root" + e.home + "/secret"} {
		t.Run("out of "+strings.TrimPrefix(path, "/"), func(t *testing.T) {
			text := e.fails(1, "cp", "a:"+path, "got", "-c", "root")
			if !strings.Contains(text, "no such file or directory") && !strings.Contains(text, "too many levels of symbolic links") {
				t.Errorf("got %q", text)
			}
			if _, err := os.Stat(filepath.Join(e.home, "got")); err == nil {
				t.Errorf("got %q", e.content(t, "got"))
			}
		})
		t.Run("into "+strings.TrimPrefix(path, "/"), func(t *testing.T) {
			e.run("cp", "f", "a:"+path, "-c", "root")
			same(t, e.content(t, "secret"), "outside\n")
		})
	}
	t.Run("a link to a new file outside", func(t *testing.T) {
		e.fails(1, "cp", "f", "a:/dangling", "-c", "root")
		if _, err := os.Stat(filepath.Join(e.home, "new")); err == nil {
			t.Error("it was written outside")
		}
	})
	t.Run("links below a directory are not followed", func(t *testing.T) {
		r := e.run("cp", "a:/d", "d", "-c", "root")
		if r.code != 0 {
			t.Fatalf("got %v", r)
		}
		mustContain(t, r.err, `warning: skipping symlink: "d/l" -> "`+e.home+`"`, `warning: skipping special file: "d/fifo"`)
		entries, _ := os.ReadDir(filepath.Join(e.home, "d"))
		if len(entries) != 0 {
			t.Errorf("got %v", entries)
		}
	})
	t.Run("a FIFO hangs nobody", func(t *testing.T) {
		mustContain(t, e.fails(1, "cp", "a:/fifo", "got", "-c", "root"), "neither a file nor a directory")
		e.fails(1, "cp", "f", "a:/fifo", "-c", "root")
	})
	t.Run("a link that changes all the time", func(t *testing.T) {
		for range 40 {
			if r := e.run("cp", "a:/w/x/secret", "got", "-c", "root"); r.code == 0 {
				same(t, e.content(t, "got"), "inside\n")
			}
			e.run("cp", "f", "a:/w/x/secret2", "-c", "root")
		}
		if _, err := os.Stat(filepath.Join(e.home, "secret2")); err == nil {
			t.Error("it was written outside")
		}
	})
	t.Run("no program of the image is run", func(t *testing.T) {
		sh("mkdir /b; cp /bin/busybox /b/; printf '#!/b/busybox sh\\necho run >>/ran\\n' >/evil; chmod 755 /evil; for p in tar cat test sh; do /b/busybox rm /bin/$p; /b/busybox cp /evil /bin/$p; done")
		e.ok("cp", "f", "a:/last", "-c", "root")
		e.ok("cp", "a:/last", "last", "-c", "root")
		same(t, e.content(t, "last"), "evil\n")
		mustContain(t, e.fails(1, "cp", "a:/ran", "ran", "-c", "root"), "no such file or directory")
	})
}

func TestCopyRefusals(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(copyPods, "a")
	e.write("f", "")
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"one argument", []string{"f"}, "error: source and destination are required\n"},
		{"two pods", []string{"a:/x", "b:/y"}, "error: one of src or dest must be a local file specification\n"},
		{"no pod", []string{"f", "g"}, "error: one of src or dest must be a remote file specification\n"},
		{"no path", []string{"f", "a:"}, "error: filepath can not be empty\n"},
		{"no pod's name", []string{"f", ":x"}, "error: filespec must match the canonical format: [[namespace/]pod:]file/path\n"},
		{"three parts", []string{"f", "a/b/c:x"}, "error: filespec must match the canonical format: [[namespace/]pod:]file/path\n"},
		{"no such file", []string{"nosuch", "a:/x"}, "error: nosuch doesn't exist in local filesystem\n"},
		{"no such pod", []string{"f", "nosuch:/x"}, "Error from server (NotFound): pods \"nosuch\" not found\n"},
		{"no such namespace", []string{"f", "nosuch/a:/x"}, "Error from server (NotFound): pods \"a\" not found\n"},
		{"no such container", []string{"f", "a:/x", "-c", "nosuch"}, "Error from server (BadRequest): container nosuch is not valid for pod a\n"},
		{"no such file there", []string{"a:/nosuch", "x", "-c", "root"}, "Error from server (BadRequest): cannot copy default/a:/nosuch: open /nosuch: no such file or directory\n"},
		{"no such directory there", []string{"f", "a:/nosuch/f", "-c", "root"}, "Error from server (BadRequest): cannot copy default/a:/nosuch/f: open /nosuch/f: no such file or directory\n"},
		{"no directory there", []string{"f", "a:/nosuch/", "-c", "root"}, "Error from server (BadRequest): cannot copy default/a:/nosuch/: copy to /nosuch/: not a directory\n"},
		{"a directory over a file", []string{".", "a:/etc/passwd", "-c", "root"}, "Error from server (BadRequest): cannot copy default/a:/etc/passwd: open /etc/passwd: not a directory\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			same(t, e.fails(1, append([]string{"cp"}, tt.args...)...), tt.want)
		})
	}
}
