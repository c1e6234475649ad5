package node

// #include "reaper.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/internal/linux"
)

// Check is one thing that podrun needs of the machine, and whether it is there.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // what was found, or what is lost without it
	Mend   string `json:"mend,omitempty"`   // what a person can do when it is not OK
}

// Probe tries what a node needs, by doing it: from outside as Launch would, or
// inside the namespaces of a node. Only the first check being OK is needed for
// a node to run. It leaves nothing behind.
func Probe(ctx context.Context) []Check {
	ns, err := CurrentNamespace()
	inside := err == nil && ns.Rootless && os.Geteuid() == 0 && mayMount()
	var checks []Check
	switch {
	case err != nil:
		checks = append(checks, Check{Name: "user namespace", Detail: err.Error()})
	case !inside && mayMount():
		checks = append(checks, Check{Name: "user namespace", OK: true, Detail: "not needed by root"}, checkOverlay())
	case inside:
		checks = append(checks, Check{Name: "user namespace", OK: true, Detail: "entered"})
		checks = append(checks, checkIDs(outerUID(), ns)...)
		checks = append(checks, checkOverlay())
	default:
		return append(append(probeNamespace(ctx), checkSeccomp(), checkTUN()), checkSettings()...)
	}
	return append(append(checks, checkCgroup("self", inside || !mayMount()), checkSeccomp(), checkTUN()), checkSettings()...)
}

// checkSettings reads network.toml, of which there is nothing to say unless it
// keeps the next node from starting.
func checkSettings() []Check {
	_, err := cni.ReadSettings(networkSettings()...)
	if err == nil {
		return nil
	}
	return []Check{{Name: "network.toml", Detail: "the next node cannot start: " + err.Error(), Mend: hint.Of(err)}}
}

// outerUID is who root of this namespace is outside.
func outerUID() int {
	var inside, outside int
	b, err := os.ReadFile("/proc/self/uid_map")
	if err == nil {
		_, err = fmt.Sscan(string(b), &inside, &outside)
	}
	if err != nil {
		return os.Geteuid()
	}
	return outside
}

// probeNamespace makes a user namespace, with a cgroup as a node would get it,
// and tries in them.
func probeNamespace(ctx context.Context) []Check {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return []Check{{Name: "user namespace", Detail: err.Error()}}
	}
	defer func() { _ = null.Close() }()
	var ns Namespace
	var limits Check
	e, err := enter(ctx, C.REAPER_MODE_USER, "", nil, null, []*os.File{nil, nil, nil}, func(pid int) (err error) {
		refused := delegate(ctx, pid)
		limits = checkCgroup(strconv.Itoa(pid), true)
		if refused != nil && !limits.OK {
			limits.Detail = refused.Error() + "; " + limits.Detail
		}
		ns, err = namespaceOf(strconv.Itoa(pid))
		return err
	})
	if err != nil {
		return []Check{{Name: "user namespace", Detail: err.Error(), Mend: hint.Of(err)}, checkCgroup("self", true)}
	}
	defer func() { _ = e.conn.Close() }()
	checks := []Check{{Name: "user namespace", OK: true, Detail: "can be made"}}
	checks = append(checks, checkIDs(os.Geteuid(), ns)...)
	return append(checks, overlayResult(e.tryOverlay(ctx)), limits)
}

// tryOverlay has the process of a probe mount an overlay in the data directory.
func (e *entry) tryOverlay(ctx context.Context) error {
	dir, err := overlayDir()
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, "overlay-probe-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(tmp, d), 0o700); err != nil {
			return err
		}
	}
	if _, err := e.conn.Write([]byte(tmp)); err != nil {
		return err
	}
	return e.expect(ctx, "overlay")
}

// overlayDir is the data directory, or the nearest one above it that is there.
func overlayDir() (string, error) {
	p, err := LocatePaths()
	if err != nil {
		return "", err
	}
	dir := p.Data
	for dir != "/" {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir, nil
}

func checkOverlay() Check {
	dir, err := overlayDir()
	if err == nil {
		err = linux.Overlay(dir)
	}
	return overlayResult(err)
}

func overlayResult(err error) Check {
	if err != nil {
		return Check{
			Name: "overlay", Detail: fmt.Sprintf("not mounted: %v: every container copies its image", err),
			Mend: "have a kernel of 5.11 or newer, and the data directory (" + dataVariable + ") on ext4, xfs, btrfs or tmpfs",
		}
	}
	return Check{Name: "overlay", OK: true, Detail: "mounted"}
}

// checkIDs says whether images can own files by other users than root. ns is
// what Launch's way to map IDs led to.
func checkIDs(uid int, ns Namespace) []Check {
	helpers := Check{Name: "newuidmap", OK: true, Detail: "newuidmap and newgidmap are there"}
	ranges := Check{Name: "subordinate IDs", OK: true, Detail: fmt.Sprintf("%d IDs are mapped", ns.Size)}
	name := userName(uid)
	var none []string
	for _, k := range idKinds() {
		path, err := exec.LookPath(k.helper)
		if err != nil {
			helpers = Check{
				Name: "newuidmap", Detail: k.helper + " is not installed: all users of an image become one",
				Mend: "run: sudo apt-get install uidmap (Fedora: sudo dnf install shadow-utils)",
			}
		} else if !privileged(path) && helpers.OK {
			helpers = Check{
				Name: "newuidmap", Detail: path + " is not set-user-ID: all users of an image become one",
				Mend: "run: sudo chmod u+s " + path,
			}
		}
		if len(subIDs(k.file, name, uid)) == 0 {
			none = append(none, k.file)
		}
	}
	switch {
	case len(none) > 0:
		ranges.OK = false
		ranges.Detail = fmt.Sprintf("%s gives no IDs to user %d: all users of an image become one", strings.Join(none, " and "), uid)
		first := freeSubIDs()
		ranges.Mend = fmt.Sprintf("run: sudo usermod --add-subuids %[1]d-%[2]d --add-subgids %[1]d-%[2]d %[3]s", first, first+65535, name)
		if name == "" {
			ranges.Mend = fmt.Sprintf("give user %d an entry in /etc/passwd, and IDs with usermod --add-subuids and --add-subgids", uid)
		}
	case ns.SingleID && helpers.OK:
		helpers.OK = false
		helpers.Detail = "newuidmap or newgidmap refuses the ranges of /etc/subuid and /etc/subgid: all users of an image become one"
		helpers.Mend = "try: unshare --user --map-auto true; it prints what they say"
	case ns.SingleID:
		ranges.Detail = "assigned, but not mapped"
	}
	return []Check{helpers, ranges}
}

// privileged says whether a helper may write other people's ID maps.
func privileged(path string) bool {
	st, err := os.Stat(path)
	if err != nil {
		return false
	}
	if st.Mode()&os.ModeSetuid != 0 {
		return true
	}
	n, err := unix.Getxattr(path, "security.capability", nil)
	return err == nil && n > 0
}

// freeSubIDs is the first ID above all that are given to somebody.
func freeSubIDs() int64 {
	next := int64(100_000)
	for _, k := range idKinds() {
		b, err := os.ReadFile(k.file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if name, _, ok := strings.Cut(line, ":"); ok {
				for _, r := range subIDs(k.file, name, -1) {
					next = max(next, r.first+r.count)
				}
			}
		}
	}
	return next
}

// limitsCheck is the name of the check of resource limits.
const limitsCheck = "resource limits"

// checkCgroup says whether memory, processor time and processes of containers
// can be limited by a node in the cgroup of process.
func checkCgroup(process string, rootless bool) Check {
	c := Check{Name: limitsCheck, OK: true, Detail: "cpu, memory and pids are delegated"}
	fail := func(detail, mend string) Check {
		return Check{Name: c.Name, Detail: detail + ": limits of containers have no effect", Mend: mend}
	}
	const root = "/sys/fs/cgroup"
	own, err := cgroupsOf(process)
	if err != nil {
		return fail(err.Error(), "")
	}
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return fail("no cgroups at "+root, "mount them: mount -t cgroup2 none "+root)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		if rootless {
			return fail("cgroup v1 is not for users", "boot with systemd.unified_cgroup_hierarchy=1, or use podrun as root")
		}
		if err := tryMkdir(filepath.Join(root, "memory", own["memory"])); err != nil {
			return fail(err.Error(), "mount /sys/fs/cgroup/memory writable")
		}
		c.Detail = "cgroup v1, and root"
		return c
	}
	dir := filepath.Join(root, own[""])
	if filepath.Base(dir) == "podrun-node" { // where sandbox puts a node that owns its cgroup
		dir = filepath.Dir(dir)
	}
	if !rootless {
		dir = root
	}
	if err := tryMkdir(dir); err != nil {
		return fail(fmt.Sprintf("cgroup %s is not ours", own[""]),
			"have a systemd of your own, which podrun asks for one: log in, as by ssh, or run: sudo loginctl enable-linger $USER")
	}
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fail(err.Error(), "")
	}
	have := " " + strings.TrimSpace(string(b)) + " "
	var missing []string
	for _, controller := range []string{"cpu", "memory", "pids"} {
		if !strings.Contains(have, " "+controller+" ") {
			missing = append(missing, controller)
		}
	}
	if len(missing) > 0 {
		return fail(strings.Join(missing, ", ")+" not delegated",
			`put "[Service]" and "Delegate=cpu memory pids" into /etc/systemd/system/user@.service.d/delegate.conf, and log in again`)
	}
	return c
}

// cgroupsOf are the cgroups of the process that /proc knows by that name, by
// controller; "" is version 2's.
func cgroupsOf(process string) (map[string]string, error) {
	b, err := os.ReadFile("/proc/" + process + "/cgroup")
	if err != nil {
		return nil, err
	}
	own := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			for controller := range strings.SplitSeq(f[1], ",") {
				own[controller] = f[2]
			}
		}
	}
	return own, nil
}

func tryMkdir(parent string) error {
	dir, err := os.MkdirTemp(parent, "podrun-probe-")
	if err != nil {
		return err
	}
	return os.Remove(dir)
}

// checkSeccomp asks the kernel for the one answer that our filters give.
func checkSeccomp() Check {
	const getActionAvail = 2 // seccomp(2), SECCOMP_GET_ACTION_AVAIL, 4.14
	action := uint32(unix.SECCOMP_RET_ERRNO)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, getActionAvail, 0, uintptr(unsafe.Pointer(&action)))
	if errno != 0 {
		return Check{Name: "seccomp", Detail: errno.Error(), Mend: "have a kernel with CONFIG_SECCOMP_FILTER"}
	}
	return Check{Name: "seccomp", OK: true, Detail: "filters work"}
}

func checkTUN() Check {
	const path = "/dev/net/tun"
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		return Check{Name: path, OK: f.Close() == nil, Detail: "can be opened"}
	}
	c := Check{Name: path, Detail: fmt.Sprintf("%v: pods reach each other, but nothing outside", errors.Unwrap(err))}
	switch {
	case errors.Is(err, fs.ErrPermission):
		c.Mend = "run: sudo chmod 666 " + path
	default:
		c.Mend = "run: sudo modprobe tun"
	}
	return c
}
