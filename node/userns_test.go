package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/hint"
)

// Without newuidmap, or without ranges, the user alone is mapped.
func TestLaunchWithoutHelpers(t *testing.T) {
	if os.Geteuid() == 0 {
		return // root needs no user namespace
	}
	t.Setenv("PATH", t.TempDir())
	in := newInstance(t)
	in.launch()
	if got, want := in.facts().Namespace, (Namespace{Rootless: true, SingleID: true, Size: 1}); got != want {
		t.Errorf("namespace %+v, want %+v", got, want)
	}
}

// A helper that fails half way: the users' map is written, the groups' is not.
func TestLaunchWithOneHelper(t *testing.T) {
	if os.Geteuid() == 0 {
		return
	}
	real, err := exec.LookPath("newuidmap")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(real, filepath.Join(dir, "newuidmap")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "newgidmap"), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/bin")
	in := newInstance(t)
	in.launch()
	if got := in.facts().Namespace; !got.SingleID {
		t.Errorf("namespace %+v, want a single ID", got)
	}
}

func TestStartErrorArrives(t *testing.T) {
	for _, test := range []struct{ name, variable, value, err, mend string }{
		{"reported", failVariable, "cannot open the store: it is newer", "cannot start the node: cannot open the store: it is newer", "mend it"},
		{"panic", dieVariable, "1", "cannot start the node: it died without a word: panic: nobody heard me", "see "},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv(test.variable, test.value)
			in := newInstance(t)
			for range 2 { // the first leaves nothing that hinders the second
				err := Launch(context.Background(), in.p)
				if err == nil || err.Error() != test.err || !strings.HasPrefix(hint.Of(err), test.mend) {
					t.Errorf("error %q; %q: want %q; %q", err, hint.Of(err), test.err, test.mend)
				}
			}
			if err := os.Unsetenv(test.variable); err != nil {
				t.Fatal(err)
			}
			in.launch()
		})
	}
}

func TestLaunchCancelled(t *testing.T) {
	in := newInstance(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("had enough")
	cancel(why)
	if err := Launch(ctx, in.p); !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
	in.launch()
}

// A user who is not let have a user namespace is told which switch forbids it.
func TestUserNamespacesForbidden(t *testing.T) {
	const variable = "PODRUN_NODE_TEST_FORBIDDEN"
	if os.Getenv(variable) != "" {
		in := newInstance(t)
		err := Launch(context.Background(), in.p)
		var refused *NamespaceError
		if !errors.As(err, &refused) || refused.Err != unix.ENOSPC {
			t.Errorf("Launch: %v, want a NamespaceError with ENOSPC", err)
		}
		if mend := hint.Of(err); !strings.Contains(mend, "sudo sysctl -w user.max_user_namespaces=") {
			t.Errorf("mend %q", mend)
		}
		checks := Probe(context.Background())
		if len(checks) == 0 || checks[0].OK || checks[0].Mend != hint.Of(err) {
			t.Errorf("checks %+v, want the first to say the same", checks)
		}
		return
	}
	if os.Geteuid() != 0 {
		return // the namespace below needs many IDs
	}
	// In a user namespace where there may be none below, as a user in it.
	dir, err := os.MkdirTemp("", "podrun-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "node.test")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(exe, b, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --reuid 1000 --regid 1000 --clear-groups "+
		exe+" -test.run=^TestUserNamespacesForbidden$ -test.v")
	cmd.Env = []string{variable + "=1", asVariable + "=user", "PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100_000, Size: 65_536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestNamespaceMend(t *testing.T) {
	for _, test := range []struct {
		settings map[string]string
		uid      int
		want     string
	}{
		{map[string]string{"user.max_user_namespaces": "0"}, 1000, "sudo sysctl -w user.max_user_namespaces=15000"},
		{map[string]string{"kernel.unprivileged_userns_clone": "0"}, 1000, "sudo sysctl -w kernel.unprivileged_userns_clone=1"},
		{map[string]string{"kernel.apparmor_restrict_unprivileged_userns": "1"}, 1000, "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		{map[string]string{"user.max_mnt_namespaces": "0"}, 1000, "sudo sysctl -w user.max_mnt_namespaces=15000"},
		{nil, 0, "CAP_SYS_ADMIN"},
		{nil, 1000, "podrun doctor"},
	} {
		got := namespaceMend(test.uid, func(name string) string { return test.settings[name] })
		if !strings.Contains(got, test.want) {
			t.Errorf("%v: %q, want %q in it", test.settings, got, test.want)
		}
	}
}

func TestSubIDs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subuid")
	const content = "# made by hand\nann:100000:65536\nbob:200000:1000\n1000:300000:10\nann:400000:5\nann:x:5\nann:1:0\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(subIDs(file, "ann", 1000))
	if want := "[{100000 65536} {300000 10} {400000 5}]"; got != want {
		t.Errorf("ranges %s, want %s", got, want)
	}
	if got := subIDs(file+".missing", "ann", 1000); got != nil {
		t.Errorf("ranges %v of a missing file", got)
	}
}

func TestProbe(t *testing.T) {
	in := newInstance(t)
	if err := in.p.create(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	checks := Probe(ctx)
	byName := map[string]Check{}
	for _, c := range checks {
		byName[c.Name] = c
		if !c.OK && (c.Detail == "" || c.Mend == "") {
			t.Errorf("%+v says not enough", c)
		}
	}
	want := []string{"user namespace", "overlay", "seccomp"}
	if os.Geteuid() != 0 {
		want = append(want, "newuidmap", "subordinate IDs")
	}
	for _, name := range want {
		if !byName[name].OK {
			t.Errorf("%s: %+v", name, byName[name])
		}
	}
	// It left nothing, and makes no node.
	left, err := filepath.Glob(filepath.Join(in.p.Data, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("files %v are left", left)
	}
	if os.Geteuid() != 0 {
		t.Setenv("PATH", t.TempDir())
		for _, c := range Probe(ctx) {
			if c.Name == "newuidmap" && (c.OK || !strings.Contains(c.Mend, "apt-get install uidmap")) {
				t.Errorf("without helpers: %+v", c)
			}
		}
	}
}

// A launcher that dies, or gives up, before the node runs leaves no process.
func TestLauncherDies(t *testing.T) {
	in := newInstance(t)
	if err := in.p.create(); err != nil {
		t.Fatal(err)
	}
	log, err := openLog(in.p.Log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	var reaper int
	why := errors.New("gave up")
	_, err = enter(context.Background(), launchMode(nil), in.p.State, nil, log, []*os.File{nil, nil, nil}, func(pid int) error {
		reaper = pid
		return why
	})
	if !errors.Is(err, why) || reaper == 0 {
		t.Fatalf("enter: %v, reaper %d", err, reaper)
	}
	in.eventually("the reaper goes", func() error {
		if unix.Kill(reaper, 0) == nil && !zombie(reaper) {
			return errors.New("it is there")
		}
		return nil
	})
}
