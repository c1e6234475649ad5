package untar_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The tests run as root in namespaces of their own: TestMain starts this binary
// again, once for each way in which podrun can be root.
const (
	modeVariable = "UNTAR_TEST_MODE"

	modeMapped   = "user namespace with many IDs"
	modeSingleID = "user namespace with one ID"
	modeRoot     = "real root"
)

var mode = os.Getenv(modeVariable)

func TestMain(m *testing.M) {
	if mode != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "mount:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	modes := []string{modeSingleID, modeMapped}
	if os.Geteuid() == 0 {
		modes = append(modes, modeRoot)
	}
	// What is fuzzed is the same in all.
	if slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.fuzz") && a != "-test.fuzz=" }) {
		modes = modes[:1]
	}
	code := 0
	for _, mode := range modes {
		fmt.Println("=== in a", mode)
		if err := inMode(mode); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", mode, err)
			code = 1
		}
	}
	os.Exit(code)
}

func inMode(mode string) (err error) {
	dir, err := os.MkdirTemp("", "podrun-untar-test-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// A user namespace may not be let into the directory that go test built in.
	exe := filepath.Join(dir, "untar.test")
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := os.WriteFile(exe, data, 0o755); err != nil {
		return err
	}
	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool { return strings.HasPrefix(a, "-test.testlogfile") })
	cmd := exec.Command(exe, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	ids := func(inside, outside, n int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: inside, HostID: outside, Size: n}}
	}
	switch {
	case mode == modeRoot:
	case mode == modeSingleID:
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = ids(0, os.Geteuid(), 1), ids(0, os.Getegid(), 1)
	case os.Geteuid() == 0:
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = ids(0, 0, 65536), ids(0, 0, 65536)
	default: // util-linux asks newuidmap
		cmd = exec.Command("unshare", append([]string{"--map-auto", "--map-root-user", "--mount", exe}, args...)...)
	}
	tmp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	cmd.Env = append(os.Environ(), modeVariable+"="+mode, "TMPDIR="+tmp)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}
