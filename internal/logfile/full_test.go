package logfile_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/logfile"
	"get.podrun.dev/podrun/internal/need"
)

func TestMain(m *testing.M) {
	need.Main()
	os.Exit(m.Run())
}

// TestDiskFull fills the disk, a tmpfs in namespaces of a child's own, under a
// log: what is printed then is lost, nobody waits, and the log goes on when
// there is space, with whole lines only.
func TestDiskFull(t *testing.T) {
	if dir := os.Getenv("LOGFILE_FULL_CHILD"); dir != "" {
		fullChild(t, dir)
		return
	}
	need.UserNS(t)
	child := exec.Command("/proc/self/exe", "-test.run=^TestDiskFull$", "-test.v")
	child.Env = append(os.Environ(), "LOGFILE_FULL_CHILD="+t.TempDir())
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestDiskFull") {
		t.Fatalf("%v: %s", err, out)
	}
}

func fullChild(t *testing.T, dir string) {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "log")
	type loss struct {
		bytes int64
		err   error
	}
	losses := make(chan loss, 10)
	w, err := logfile.OpenWriter(path, logfile.WriterOptions{MaxBytes: 8 << 10, MaxFiles: 3,
		Lost: func(_ string, bytes int64, err error) { losses <- loss{bytes, err} }})
	if err != nil {
		t.Fatal(err)
	}
	in, out := io.Pipe()
	copied := make(chan error, 1)
	go func() { copied <- w.Copy("stdout", in) }()
	n := 0
	lines := func(count int) {
		for range count {
			n++
			if _, err := fmt.Fprintf(out, "line %d %s\n", n, strings.Repeat("x", 100)); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill := filepath.Join(dir, "fill")
	lines(5)
	if err := os.WriteFile(fill, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	lines(500) // several files' worth
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	lines(10)
	if err := errors.Join(out.Close(), <-copied, w.Close()); err != nil {
		t.Fatal(err)
	}
	if l := <-losses; !errors.Is(l.err, unix.ENOSPC) || l.bytes < 10_000 || l.bytes > 100_000 {
		t.Errorf("told of %d lost bytes, %v", l.bytes, l.err)
	}
	var text strings.Builder
	if err := logfile.Read(t.Context(), path, logfile.ReadOptions{Tail: -1, Done: closed()}, &text); err != nil {
		t.Fatal(err)
	}
	last := 0
	for line := range strings.Lines(text.String()) {
		var number int
		var rest string
		if _, err := fmt.Sscanf(line, "line %d %s", &number, &rest); err != nil || len(rest) != 100 || number <= last {
			t.Fatalf("after line %d: %q, %v", last, line, err)
		}
		last = number
	}
	if last != n || !strings.HasPrefix(text.String(), "line 1 ") {
		t.Errorf("the log ends with line %d of %d and begins with %.20q", last, n, text.String())
	}
}

// TestRotationFails: a log goes on when what was in the way of a rotation is
// gone.
func TestRotationFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	lost := int64(0)
	w, err := logfile.OpenWriter(path, logfile.WriterOptions{MaxBytes: 100, MaxFiles: 3, Lost: func(_ string, bytes int64, _ error) { lost += bytes }})
	if err != nil {
		t.Fatal(err)
	}
	obstacle := filepath.Join(path+".1", "x")
	if err := os.MkdirAll(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path+".2", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	print := func(text string) {
		if err := w.Copy("stdout", strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	print(strings.Repeat("first ", 10) + "\n")
	print(strings.Repeat("lost ", 10) + "\n")
	if err := errors.Join(os.RemoveAll(path+".1"), os.RemoveAll(path+".2")); err != nil {
		t.Fatal(err)
	}
	print(strings.Repeat("last ", 10) + "\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := logfile.Read(t.Context(), path, logfile.ReadOptions{Tail: -1, Done: closed()}, &text); err != nil {
		t.Fatal(err)
	}
	if want := strings.Repeat("first ", 10) + "\n" + strings.Repeat("last ", 10) + "\n"; text.String() != want || lost == 0 {
		t.Errorf("got %q, %d bytes lost; want %q", text.String(), lost, want)
	}
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
