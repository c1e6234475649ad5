package node

// #include "reaper.h"
import "C"

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/hint"
)

// Namespace says what the calling process's user namespace lets it do.
type Namespace struct {
	Rootless bool  // it is not the machine's own: root here is not root there
	SingleID bool  // one user or one group ID is mapped: files cannot be given to others
	Size     int64 // how many IDs are mapped, the lesser of users and groups
}

// CurrentNamespace reads the ID maps of the calling process.
func CurrentNamespace() (Namespace, error) {
	return namespaceOf("self")
}

// namespaceOf is that of the process that /proc knows by that name.
func namespaceOf(process string) (Namespace, error) {
	users, err := readMap("/proc/" + process + "/uid_map")
	if err != nil {
		return Namespace{}, err
	}
	groups, err := readMap("/proc/" + process + "/gid_map")
	if err != nil {
		return Namespace{}, err
	}
	size := min(users.size, groups.size)
	return Namespace{Rootless: !users.all, SingleID: size == 1, Size: size}, nil
}

type mapSize struct {
	size int64
	all  bool // every ID is mapped to itself
}

func readMap(path string) (mapSize, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return mapSize{}, err
	}
	var m mapSize
	for line := range strings.Lines(string(b)) {
		var inside, outside, count int64
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil {
			return mapSize{}, fmt.Errorf("%s: cannot be understood: %q", path, line)
		}
		m.size += count
		const every = 1<<32 - 1
		m.all = m.all || inside == 0 && outside == 0 && count == every
	}
	return m, nil
}

// A NamespaceError is a step into the namespaces that the kernel refused.
type NamespaceError struct {
	Step string // what was asked for, a noun phrase
	Err  unix.Errno
}

func (e *NamespaceError) Error() string { return e.Step + ": " + e.Err.Error() }

// Unwrap returns the errno.
func (e *NamespaceError) Unwrap() error { return e.Err }

// An entry is one process that enters, or makes, the namespaces of a node; the
// C side of the exchange is in reaper.c. Each message is a packet.
//
//	launcher                                reaper
//	clone, exec -------------------------->  forks; its parent exits
//	        <------------------------------  "namespaces" ERRNO PID
//	writes the ID maps, saves PID
//	"go" --------------------------------->  becomes root, cuts mount propagation
//	        <------------------------------  "mounts" ERRNO PID
//	                                        (probing: directory ->, <- "overlay" ERRNO PID, end)
//	        <------------------------------  "state" ERRNO PID: signals and files
//	                                        starts the node, which goes on here
//	        <------------------------------  node: report (report.go)
//	        <------------------------------  end: the node is up, or died
type entry struct {
	conn *net.UnixConn
	pid  int
}

// enter starts a reaper and takes it through "mounts". mode is one of the
// REAPER_MODE words, state the state directory, or "" to try the namespaces
// only. files are the descriptors from REAPER_LOCK on and stay the caller's.
// prepared is called with the pid of the new process when its IDs are mapped
// and before it goes on. After an error no process is left; after none, the
// caller closes the entry's connection.
func enter(ctx context.Context, mode, state string, env []string, log *os.File, files []*os.File, prepared func(pid int) error) (_ *entry, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "reaper")
	conn, err := packetConn(os.NewFile(uintptr(pair[0]), "reaper"))
	if err != nil {
		return nil, errors.Join(err, theirs.Close())
	}
	e := &entry{conn: conn}
	defer func() {
		if err != nil {
			_ = conn.Close() // the reaper reads the end and exits
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	child, err := startReaper(mode, state, env, append([]*os.File{log, log, theirs}, files...))
	_ = theirs.Close()
	if err != nil {
		return nil, err
	}
	// What we started exits as soon as it has forked the reaper.
	if _, err := child.Wait(); err != nil {
		return nil, err
	}
	if err := e.expect(ctx, "namespaces"); err != nil {
		return nil, err
	}
	if mode == C.REAPER_MODE_USER {
		if err := mapIDs(ctx, e.pid); err != nil {
			return nil, err
		}
	}
	if err := prepared(e.pid); err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte("go")); err != nil {
		return nil, err
	}
	return e, e.expect(ctx, "mounts")
}

func startReaper(mode, state string, env []string, files []*os.File) (*os.Process, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer func() { _ = null.Close() }()
	return os.StartProcess("/proc/self/exe", []string{reaperName, mode, state}, &os.ProcAttr{
		Env: env, Files: append([]*os.File{null}, files...),
	})
}

// packetConn takes f over.
func packetConn(f *os.File) (*net.UnixConn, error) {
	defer func() { _ = f.Close() }()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// expect reads the result of the next step, which must be the one named.
func (e *entry) expect(ctx context.Context, step string) error {
	var b [64]byte
	n, err := e.conn.Read(b[:])
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("the reaper died before it had its %s: %w", step, err)
	}
	var got string
	var errno int
	if _, err := fmt.Sscan(string(b[:n]), &got, &errno, &e.pid); err != nil || got != step {
		return fmt.Errorf("internal error: the reaper said %q instead of %q", b[:n], step)
	}
	if errno != 0 {
		return refused(step, unix.Errno(errno))
	}
	return nil
}

// refused says why the kernel may have refused a step, and what would help.
func refused(step string, errno unix.Errno) error {
	nouns := map[string]string{
		"namespaces": "a user namespace with its own mounts",
		"mounts":     "the mounts of the new namespace",
		"overlay":    "an overlay with user.* attributes",
		"state":      "the state directory",
	}
	err := &NamespaceError{Step: nouns[step], Err: errno}
	if step == "state" || step == "overlay" {
		return err
	}
	return hint.Wrap(err, namespaceMend(os.Geteuid(), readSysctl))
}

// namespaceMend names the first switch that forbids user namespaces, by the
// command that turns it.
func namespaceMend(uid int, sysctl func(name string) string) string {
	permanent := func(setting string) string {
		return fmt.Sprintf("run: sudo sysctl -w %s (and: echo %s | sudo tee /etc/sysctl.d/60-podrun.conf, to keep it over a reboot)", setting, setting)
	}
	switch {
	case sysctl("user.max_user_namespaces") == "0":
		return permanent("user.max_user_namespaces=15000")
	case sysctl("kernel.unprivileged_userns_clone") == "0": // Debian's
		return permanent("kernel.unprivileged_userns_clone=1")
	case sysctl("kernel.apparmor_restrict_unprivileged_userns") == "1": // Ubuntu's, from 23.10
		return permanent("kernel.apparmor_restrict_unprivileged_userns=0")
	case sysctl("user.max_mnt_namespaces") == "0":
		return permanent("user.max_mnt_namespaces=15000")
	case uid == 0:
		return "give root CAP_SYS_ADMIN (docker run --privileged), or run podrun as an ordinary user"
	}
	return "in a container or a chroot, let it make user namespaces (docker run --security-opt seccomp=unconfined); see \"podrun doctor\""
}

// readSysctl returns "" for a setting that this kernel does not have.
func readSysctl(name string) string {
	b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// idRange is a line of /etc/subuid: count IDs from first on are the user's.
type idRange struct{ first, count int64 }

// subIDs reads the ranges that file gives to a user, who may be named by name
// or number. A file that is not there gives none.
func subIDs(file, name string, uid int) []idRange {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var ranges []idRange
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != name && f[0] != strconv.Itoa(uid) {
			continue
		}
		first, err := strconv.ParseInt(f[1], 10, 64)
		count, cerr := strconv.ParseInt(f[2], 10, 64)
		if err == nil && cerr == nil && count > 0 {
			ranges = append(ranges, idRange{first, count})
		}
	}
	return ranges
}

// idKind is what differs between user and group IDs.
type idKind struct {
	helper, file, mapFile string
	own                   int
}

func idKinds() [2]idKind {
	return [2]idKind{
		{"newuidmap", "/etc/subuid", "uid_map", os.Geteuid()},
		{"newgidmap", "/etc/subgid", "gid_map", os.Getegid()},
	}
}

// mapIDs maps the user to root in the user namespace of process pid and, as
// far as /etc/subuid and /etc/subgid allow, further IDs behind it. Where they
// do not, or their helper is missing or fails, the user alone is mapped: that
// is not an error, and doctor says what is missing.
func mapIDs(ctx context.Context, pid int) error {
	name := userName(os.Geteuid())
	kinds := idKinds()
	var failed [len(kinds)]error
	done := make(chan struct{}, len(kinds))
	for i, k := range kinds {
		go func() { // a helper takes 5 ms
			failed[i] = mapMany(ctx, k, pid, subIDs(k.file, name, os.Geteuid()))
			done <- struct{}{}
		}()
	}
	for range kinds {
		<-done
	}
	for i, k := range kinds {
		if failed[i] == nil {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := mapOne(k, pid); err != nil {
			return hint.Wrap(fmt.Errorf("map the user's IDs: %w", err), namespaceMend(os.Geteuid(), readSysctl))
		}
	}
	return nil
}

// userName returns "" for a user without an entry in the password file.
func userName(uid int) string {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return ""
	}
	return u.Username
}

// errNoRange says that a user was given no IDs beside their own.
var errNoRange = errors.New("no range")

func mapMany(ctx context.Context, k idKind, pid int, ranges []idRange) error {
	if len(ranges) == 0 {
		return errNoRange
	}
	path, err := exec.LookPath(k.helper)
	if err != nil {
		return err
	}
	args := []string{strconv.Itoa(pid), "0", strconv.Itoa(k.own), "1"}
	next := int64(1)
	for _, r := range ranges {
		args = append(args, strconv.FormatInt(next, 10), strconv.FormatInt(r.first, 10), strconv.FormatInt(r.count, 10))
		next += r.count
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{}
	// It is set-user-ID: what a terminal sends must not end it half way.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", k.helper, err, bytes.TrimSpace(out))
	}
	return nil
}

// mapOne maps k.own to root, and nothing else. The kernel lets everybody do
// that, once nobody in the namespace can leave a group.
func mapOne(k idKind, pid int) error {
	dir := "/proc/" + strconv.Itoa(pid) + "/"
	if k.mapFile == "gid_map" {
		if err := os.WriteFile(dir+"setgroups", []byte("deny"), 0); err != nil {
			return err
		}
	}
	return os.WriteFile(dir+k.mapFile, []byte("0 "+strconv.Itoa(k.own)+" 1"), 0)
}
