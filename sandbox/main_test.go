package sandbox_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The tests run as root in namespaces of their own: TestMain starts this
// binary again, once for each way in which podrun can be root.
const (
	modeVariable = "PODRUN_SANDBOX_TEST_MODE"
	dirVariable  = "PODRUN_SANDBOX_TEST_DIR"

	modeUserNS   = "user namespace" // with many IDs mapped
	modeSingleID = "single ID"      // a user namespace with one
	modeRoot     = "real root"
)

var (
	mode    = os.Getenv(modeVariable)
	testDir = os.Getenv(dirVariable) // a tmpfs of the process's own
)

func TestMain(m *testing.M) {
	if helper := os.Getenv(helperVariable); helper != "" {
		os.Exit(runHelper(helper))
	}
	// What is fuzzed asks nothing of the system.
	if slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.fuzz") && a != "-test.fuzz=" }) {
		os.Exit(m.Run())
	}
	if mode == "" {
		os.Exit(inAllModes())
	}
	if err := enter(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", mode, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func inAllModes() int {
	modes := []string{modeUserNS, modeSingleID}
	if os.Geteuid() == 0 {
		modes = append(modes, modeRoot)
	}
	if only := os.Getenv("PODRUN_SANDBOX_TEST_ONLY"); only != "" {
		modes = []string{only}
	}
	code := 0
	for _, m := range modes {
		fmt.Println("=== as", m)
		if err := inMode(m); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", m, err)
			code = 1
		}
	}
	return code
}

func inMode(m string) (err error) {
	dir, err := os.MkdirTemp("", "podrun-sandbox-test-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// A user namespace may not be let into the directory that go test built in.
	exe := filepath.Join(dir, "sandbox.test")
	if err := copyFile("/proc/self/exe", exe); err != nil {
		return err
	}
	var args []string
	for _, a := range os.Args[1:] {
		if !strings.HasPrefix(a, "-test.testlogfile") {
			args = append(args, a)
		}
	}
	cmd := exec.Command(exe, args...)
	tmp := filepath.Join(dir, "tmp") // which it, unlike ours, is let into
	cmd.Env = append(os.Environ(), modeVariable+"="+m, dirVariable+"="+tmp, "TMPDIR="+tmp)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	if m == modeRoot {
		return cmd.Run()
	}
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
	const outside, count = 100_000, 65_536
	uid, gid := os.Geteuid(), os.Getegid()
	switch {
	case m == modeSingleID && uid != 0:
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: gid, Size: 1}}
		return cmd.Run()
	case uid != 0:
		return runMapped(cmd, uid, gid)
	}
	size := count
	if m == modeSingleID {
		size = 1
	}
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: outside, Size: size}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: outside, Size: size}}
	cmd.SysProcAttr.GidMappingsEnableSetgroups = m != modeSingleID
	cmd.SysProcAttr.Credential = &syscall.Credential{}
	cmd.SysProcAttr.Credential.NoSetGroups = m == modeSingleID
	if err := chownTree(dir, outside); err != nil {
		return err
	}
	return cmd.Run()
}

// runMapped runs cmd with an ordinary user's subordinate IDs, by newuidmap.
func runMapped(cmd *exec.Cmd, uid, gid int) error {
	hold, release, err := os.Pipe()
	if err != nil {
		return err
	}
	// The shell waits for the maps, then becomes root and the test.
	cmd.Args = append([]string{"sh", "-c", `read -r _ <&3; exec 3<&-; exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.ExtraFiles = []*os.File{hold}
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = hold.Close()
	pid := strconv.Itoa(cmd.Process.Pid)
	u, err := user.Current()
	if err != nil {
		return err
	}
	for _, m := range []struct {
		tool, ranges string
		id           int
	}{{"newuidmap", "/etc/subuid", uid}, {"newgidmap", "/etc/subgid", gid}} {
		first, count, err := subordinate(m.ranges, u)
		if err != nil {
			return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
		}
		out, err := exec.Command(m.tool, pid, "0", strconv.Itoa(m.id), "1", "1", first, count).CombinedOutput()
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w: %s", m.tool, err, out), cmd.Process.Kill(), cmd.Wait())
		}
	}
	_, err = release.Write([]byte("\n"))
	return errors.Join(err, release.Close(), cmd.Wait())
}

func subordinate(file string, u *user.User) (first, count string, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) == 3 && (f[0] == u.Username || f[0] == u.Uid) {
			return f[1], f[2], nil
		}
	}
	return "", "", fmt.Errorf("%s has no range for %s", file, u.Username)
}

func chownTree(dir string, id int) error {
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, id, id)
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// enter makes the mount namespace usable and builds the root filesystem that
// all containers of the tests share as a lower layer.
func enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", testDir, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	root := lowerDir()
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "home/web"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile("/usr/bin/busybox", filepath.Join(root, "bin/busybox")); err != nil {
		return fmt.Errorf("busybox-static is needed: %w", err)
	}
	for _, applet := range strings.Fields("sh cat echo sleep true false id hostname nc kill ls stat test mount grep head tail wc dd ps readlink touch mkdir ipcs ipcmk env tty stty head ping mknod seq date chmod") {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/home/web:/bin/sh\n",
		"etc/group":  "root:x:0:\nweb:x:33:\nlog:x:44:web\ntty:x:5:\n",
		"etc/script": "not a program\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func lowerDir() string { return filepath.Join(testDir, "lower") }
