package node

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The tests launch reapers and nodes from the test binary itself: the reaper's
// constructor is linked in, and what a reaper executes as "podrun node" is
// testNode. Run by root, everything runs once as root and once as a user.
const asVariable = "PODRUN_NODE_TEST_AS"

func TestMain(m *testing.M) {
	if slices.Equal(os.Args, []string{"podrun", "node"}) {
		os.Exit(testNode())
	}
	if path := os.Getenv(connectVariable); path != "" {
		os.Exit(connectInherited(path))
	}
	as := os.Getenv(asVariable)
	if as != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	fmt.Println("=== as root")
	code := m.Run()
	fmt.Println("=== as an ordinary user")
	if err := runAsUser(); err != nil {
		fmt.Fprintf(os.Stderr, "as an ordinary user: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

// runAsUser runs the tests as the first user that /etc/subuid gives IDs to.
func runAsUser() error {
	u, err := userWithSubIDs()
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	// The user may not enter the directory that go test built in.
	dir, err := os.MkdirTemp("", "podrun-node-test-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	exe := filepath.Join(dir, "node.test")
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		return err
	}
	var args []string
	for _, a := range os.Args[1:] {
		if !strings.HasPrefix(a, "-test.testlogfile") && !strings.HasPrefix(a, "-test.coverprofile") {
			args = append(args, a)
		}
	}
	cmd := exec.Command(exe, args...)
	cmd.Dir = dir
	cmd.Env = []string{asVariable + "=user", "HOME=" + dir, "PATH=" + os.Getenv("PATH"), "USER=" + u.Username}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return cmd.Run()
}

func userWithSubIDs() (*user.User, error) {
	f, err := os.Open("/etc/subuid")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	for s := bufio.NewScanner(f); s.Scan(); {
		name, _, _ := strings.Cut(s.Text(), ":")
		if u, err := user.Lookup(name); err == nil && u.Uid != "0" {
			return u, nil
		}
	}
	return nil, fmt.Errorf("/etc/subuid gives IDs to no user; make one: useradd -m podrun-test && " +
		"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 podrun-test")
}
