package sandbox_test

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/linux"
	"get.podrun.dev/podrun/sandbox"
)

const (
	helperVariable = "PODRUN_SANDBOX_TEST_HELPER"
)

func runHelper(string) int { return 2 }

func newRuntime(t testing.TB) *sandbox.Runtime {
	t.Helper()
	dir, err := os.MkdirTemp(testDir, "state-")
	if err != nil {
		t.Fatal(err)
	}
	r, err := sandbox.New(options(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() }) // its cgroups go when its containers have gone
	return r
}

func options(dir string) sandbox.Options {
	o := sandbox.Options{StateDir: dir, Rootless: mode != modeRoot, SingleID: mode == modeSingleID}
	if os.Getenv("PODRUN_SANDBOX_TEST_LOG") != "" {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return o
}

// rootfs returns an overlay on the shared lower layer.
func rootfs(t testing.TB) linux.Mount {
	t.Helper()
	dir, err := os.MkdirTemp(testDir, "layer-")
	if err != nil {
		t.Fatal(err)
	}
	m, err := overlay(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func overlay(dir string) (linux.Mount, error) {
	for _, d := range []string{"upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return linux.Mount{}, err
		}
	}
	return linux.Mount{
		Source: "overlay", Type: "overlay",
		Data: fmt.Sprintf("lowerdir=%s,upperdir=%[2]s/upper,workdir=%[2]s/work,userxattr", lowerDir(), dir),
	}, nil
}

func newID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func newSandbox(t testing.TB, r *sandbox.Runtime, change ...func(*sandbox.Config)) *sandbox.Sandbox {
	t.Helper()
	c := sandbox.Config{ID: "pod-" + newID()[:12], Name: "default/pod", Hostname: "web"}
	for _, f := range change {
		f(&c)
	}
	s, err := r.CreateSandbox(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Delete(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func sh(script string) sandbox.ContainerConfig {
	return sandbox.ContainerConfig{ID: newID(), Name: "main", Args: []string{"sh", "-c", script}}
}

func run(t testing.TB, s *sandbox.Sandbox, c sandbox.ContainerConfig) *sandbox.Container {
	t.Helper()
	if c.Rootfs.Type == "" && c.Rootfs.Source == "" {
		c.Rootfs = rootfs(t)
	}
	made, err := s.CreateContainer(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return made
}

// outcome waits for the container and returns what it wrote.
func outcome(t testing.TB, c *sandbox.Container) (stdout, stderr string, exit sandbox.Exit) {
	t.Helper()
	o, e, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	defer e.Close()
	for _, f := range []*os.File{o, e} {
		if err := f.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	out, err := io.ReadAll(o)
	if err != nil {
		t.Fatal(err)
	}
	errs, err := io.ReadAll(e)
	if err != nil {
		t.Fatal(err)
	}
	exit, err = c.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(out), string(errs), exit
}

func TestExit(t *testing.T) {
	r := newRuntime(t)
	s := newSandbox(t, r)
	for _, test := range []struct {
		name, script string
		code, signal int
	}{
		{"zero", "exit 0", 0, 0},
		{"one", "exit 1", 1, 0},
		{"255", "exit 255", 255, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := run(t, s, sh(test.script))
			_, _, exit := outcome(t, c)
			if exit.Code != test.code || exit.Signal != test.signal || exit.Unknown {
				t.Errorf("exit = %+v, want code %d, signal %d", exit, test.code, test.signal)
			}
			if err := c.Reap(); err != nil {
				t.Error(err)
			}
			if err := c.Delete(t.Context()); err != nil {
				t.Error(err)
			}
			if err := c.Delete(t.Context()); err != nil {
				t.Errorf("second Delete: %v", err)
			}
		})
	}
	t.Run("killed", func(t *testing.T) {
		c := run(t, s, sh("sleep 1000"))
		if err := c.Signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, _, exit := outcome(t, c); exit.Code != 137 || exit.Signal != 9 {
			t.Errorf("exit = %+v, want 137 by signal 9", exit)
		}
	})
}

func TestExecSmoke(t *testing.T) {
	s := newSandbox(t, newRuntime(t))
	c := run(t, s, sh("echo hello; sleep 1000"))
	p, err := c.Exec(t.Context(), sandbox.ExecConfig{Args: []string{"sh", "-c", "hostname; exit 7"}, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	if exit, _ := p.Wait(); exit.Code != 7 {
		t.Errorf("exit = %+v, want 7", exit)
	}
	p, err = c.Exec(t.Context(), sandbox.ExecConfig{Args: []string{"sh", "-c", "tty; stty size"}, TTY: true, Rows: 30, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(p.Console())
	if exit, _ := p.Wait(); exit.Code != 0 || !strings.Contains(string(b), "30 100") {
		t.Errorf("exit = %+v, output %q", exit, b)
	}
	p.Console().Close()
}
