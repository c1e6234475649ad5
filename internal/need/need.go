// Package need says what a test needs of the machine, finds out by doing it,
// and fails the test when it is missing.
//
// An unmet need is a failure, not a skip, unless it is waived by name:
//
//	PODRUN_TEST_WITHOUT=overlay,cgroup make test
//
// Strict is the default, so that a variable lost on the way into a virtual
// machine cannot turn tests off. A need that is waived and met all the same is
// used: the test runs.
package need

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// probed keeps what each probe said: the machine does not change under a test.
var (
	mu     sync.Mutex
	probed = map[string]error{}
)

// meet fails or, if it is waived, skips t when probe says that the machine does
// not have what name stands for.
func meet(t testing.TB, name, mend string, probe func() error) {
	t.Helper()
	mu.Lock()
	err, done := probed[name]
	if !done {
		err = probe()
		probed[name] = err
	}
	mu.Unlock()
	switch {
	case err == nil:
	case waived(name):
		t.Skipf("waived: %s: %v", name, err)
	default:
		t.Fatalf("this machine lacks %s: %v; %s, or waive it by PODRUN_TEST_WITHOUT=%s", name, err, mend, name)
	}
}

func waived(name string) bool {
	return slices.Contains(strings.Split(os.Getenv("PODRUN_TEST_WITHOUT"), ","), name)
}

// That needs what name stands for of a machine that only the caller can probe,
// such as one that it has started. mend says how to come by it. What probe said
// is kept by name.
func That(t testing.TB, name, mend string, probe func() error) {
	t.Helper()
	meet(t, name, mend, probe)
}

// probeVariable names, in a process that run starts, what that process is to do.
const probeVariable = "PODRUN_NEED_PROBE"

// probes run as root of a user namespace of their own, in a process of their
// own.
var probes = map[string]func() error{
	"userns":  func() error { return nil },
	"overlay": mountOverlay,
	"netns":   makeNetNS,
	"tun":     openTun,
}

// Main runs a probe if this process was started for one; it does not return
// then. Every TestMain of a package that uses probes calls it first.
func Main() {
	probe, ok := probes[os.Getenv(probeVariable)]
	if !ok {
		return
	}
	if err := probe(); err != nil {
		fmt.Fprint(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run does the named probe in namespaces of its own.
func run(name string) error {
	command := exec.Command("/proc/self/exe")
	command.Env = append(os.Environ(), probeVariable+"="+name)
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	}
	out, err := command.CombinedOutput()
	if err != nil && len(out) > 0 {
		return fmt.Errorf("%s", out)
	}
	return err
}

// UserNS needs user namespaces for whoever runs the test.
func UserNS(t testing.TB) {
	t.Helper()
	meet(t, "userns", `see "podrun doctor"`, func() error { return run("userns") })
}

// SubIDs needs newuidmap and newgidmap and ranges for the user. Root has all
// IDs anyway.
func SubIDs(t testing.TB) {
	t.Helper()
	meet(t, "subids", "install uidmap and give the user ranges in /etc/subuid and /etc/subgid", func() error {
		if os.Geteuid() == 0 {
			return nil
		}
		out, err := exec.Command("unshare", "--map-auto", "--map-root-user", "chown", "-h", "1:1", "/dev/null").CombinedOutput()
		// /dev/null is not ours to give away: it is enough that 1 is mapped.
		if err != nil && !strings.Contains(string(out), "Operation not permitted") {
			return fmt.Errorf("unshare --map-auto: %w: %s", err, out)
		}
		return nil
	})
}

// Overlay needs overlay mounts in a user namespace.
func Overlay(t testing.TB) {
	t.Helper()
	meet(t, "overlay", "a kernel of 5.13 or later has it", func() error { return run("overlay") })
}

func mountOverlay() error {
	dir, err := os.MkdirTemp("", "need-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return err
		}
	}
	data := fmt.Sprintf("userxattr,lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	if err := unix.Mount("overlay", filepath.Join(dir, "merged"), "overlay", 0, data); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return unix.Unmount(filepath.Join(dir, "merged"), unix.MNT_DETACH)
}

// NetNS needs network namespaces.
func NetNS(t testing.TB) {
	t.Helper()
	meet(t, "netns", "set user.max_net_namespaces above 0 as root", func() error { return run("netns") })
}

func makeNetNS() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	return nil
}

// Tun needs a TAP device in a network namespace of the user's: the way out of
// the pod network.
func Tun(t testing.TB) {
	t.Helper()
	meet(t, "tun", "chmod 666 /dev/net/tun as root", func() error { return run("tun") })
}

func openTun() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// Cgroup needs a cgroup that the user may put processes below with limits.
func Cgroup(t testing.TB) {
	t.Helper()
	meet(t, "cgroup", "run in a session of systemd with delegation, on pure cgroup v2", func() error {
		var st unix.Statfs_t
		if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
			return err
		}
		if st.Type != unix.CGROUP2_SUPER_MAGIC {
			return fmt.Errorf("/sys/fs/cgroup is not cgroup v2")
		}
		own, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			return err
		}
		_, path, _ := strings.Cut(strings.TrimSpace(string(own)), "::")
		dir := filepath.Join("/sys/fs/cgroup", path, "podrun-need")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		return os.Remove(dir)
	})
}
