// Package integration drives the built binary as a user does, against a real
// kernel and a real registry. See README.md.
package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/integration/registry"
	"get.podrun.dev/podrun/internal/need"
)

var (
	// podrunBinary is the program under test, $PODRUN_BIN or bin/podrun.
	podrunBinary string
	// images is the registry that all tests share. Those that need one of
	// their own, to end it, start one.
	images *registry.Registry
)

func TestMain(m *testing.M) {
	need.Main()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	// The registry ends with the thread that started it.
	runtime.LockOSThread()
	// What a test leaves behind without a parent falls to us, so that it is
	// found, and is no zombie where nobody reaps.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	podrunBinary = os.Getenv("PODRUN_BIN")
	if podrunBinary == "" {
		var err error
		if podrunBinary, err = filepath.Abs("../bin/podrun"); err != nil {
			return 0, err
		}
	}
	if out, err := exec.Command(podrunBinary, "version", "--client").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%s does not run (\"make build\" makes it): %w: %s", podrunBinary, err, out)
	}
	dir, err := os.MkdirTemp("", "registry")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if images, err = registry.Start(dir, registry.Options{}); err != nil {
		return 0, err
	}
	defer images.Stop()
	if err := pushImages(images); err != nil {
		return 0, err
	}
	// A slow machine takes minutes for what a few tests want.
	if os.Getenv("PODRUN_TEST_KNOWN") != "no" {
		if err := images.PushKnown(context.Background()); err != nil {
			return 0, err
		}
	}
	return m.Run(), nil
}

// pushImages gives a registry what most tests use: busybox.
func pushImages(r *registry.Registry) error {
	busybox, err := registry.Busybox()
	if err != nil {
		return err
	}
	return r.Push(context.Background(), "library/busybox:latest", busybox)
}
