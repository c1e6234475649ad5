package sandbox

// The constructor in pause.c is linked in with this package.

// #cgo CFLAGS: -Wall -Wextra -O2
import "C"

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer/exeseal"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/fault"
)

// A setting is something that the pause process does inside its namespaces:
// key is "hostname", "loopback", "processes", or a file to write value to.
type setting struct {
	key, value string
}

func (s setting) String() string {
	return exchange.Replace(strings.TrimPrefix(s.key, "/proc/sys/")) + "=" + s.value
}

// startPause clones the pause process into new namespaces and has it make the
// settings. started is called with its pid as soon as it exists and before it
// does anything. With CLONE_NEWUSER the IDs from firstID on are those of the new
// namespace; when started or a setting fails the process is gone again. exe is
// the program, "/proc/self/exe" or a copy that nobody can write to.
//
//	node                              pause
//	clone -------------------------->
//	started(pid)
//	KEY NUL VALUE ------------------>  applies it
//	        <------------------------  errno, 0 for done
//	... NUL ------------------------>
//	        <------------------------  0, and closes the socket
//
// A pause that reads the end of the stream exits: then the node died before it
// saved the pid, and nobody would ever find the process.
func startPause(ctx context.Context, exe, name string, flags uintptr, firstID int64, settings []setting, started func(pid int) error) (err error) {
	// One message is one packet, and no message is cut in two.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	// Ours is for Go's poller; the pause process waits in recv(2).
	if err := unix.SetNonblock(pair[1], false); err != nil {
		return errors.Join(err, unix.Close(pair[0]), unix.Close(pair[1]))
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "pause"), os.NewFile(uintptr(pair[1]), "pause")
	defer func() { err = errors.Join(err, ours.Close()) }()

	attr := &syscall.SysProcAttr{Cloneflags: flags}
	if flags&unix.CLONE_NEWUSER != 0 {
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(firstID), Size: idsPerSandbox}}
		attr.UidMappings, attr.GidMappings, attr.GidMappingsEnableSetgroups = ids, ids, true
		attr.Credential = &syscall.Credential{} // root in there
	}
	child, err := os.StartProcess(exe, []string{"podrun-pause", name}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{},
		Files: []*os.File{nil, nil, nil, theirs},
		Sys:   attr,
	})
	_ = theirs.Close()
	if err != nil {
		return fmt.Errorf("new namespaces: %w", err)
	}
	defer func() {
		if err != nil {
			_ = child.Kill()
			_, _ = child.Wait()
			return
		}
		// It is waited for by pidfd when the sandbox is deleted.
		_ = child.Release()
	}()
	if err := fault.Point("sandbox.cloned"); err != nil {
		return err
	}
	if err := started(child.Pid); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = ours.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for _, s := range settings {
		if err := ask(ctx, ours, s.key+"\x00"+s.value); err != nil {
			return fmt.Errorf("set %s: %w", s, err)
		}
	}
	return ask(ctx, ours, "\x00")
}

func ask(ctx context.Context, sock *os.File, message string) error {
	if _, err := sock.Write([]byte(message)); err != nil {
		return unlessDone(ctx, err)
	}
	var answer [4]byte
	if _, err := io.ReadFull(sock, answer[:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return errors.New("the pause process died")
		}
		return unlessDone(ctx, err)
	}
	if errno := syscall.Errno(binary.NativeEndian.Uint32(answer[:])); errno != 0 {
		return errno
	}
	return nil
}

// unlessDone prefers why we stopped to what stopping looked like.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// pauseProgram is what a pause process is to execute. Containers that share a
// pid namespace see its first process, and those that may debug it can open its
// program: that is not ours then, for the user may write to ours
// (CVE-2019-5736). The caller closes f, which may be nil.
func (s *Sandbox) pauseProgram() (path string, f *os.File, err error) {
	if !s.state.SharePID || s.state.HostPID {
		return "/proc/self/exe", nil, nil
	}
	if f, err = exeseal.CloneSelfExe(s.dir); err != nil {
		return "", nil, fmt.Errorf("seal the program: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", f.Fd()), f, nil
}

// settings are what the pause of a sandbox has to do, in order.
func (c *Config) settings(maxGID int64) ([]setting, error) {
	var s []setting
	if c.Hostname != "" && !c.HostNetwork {
		s = append(s, setting{"hostname", c.Hostname})
	}
	sysctls := make(map[string]string)
	if !c.HostNetwork {
		s = append(s, setting{"loopback", "up"})
		// As Docker and containerd do: a container may bind port 80 and send
		// pings without being root.
		sysctls["net.ipv4.ip_unprivileged_port_start"] = "0"
		sysctls["net.ipv4.ping_group_range"] = "0 " + strconv.FormatInt(maxGID, 10)
	}
	for name, value := range c.Sysctls {
		if !c.owns(name) {
			return nil, &SysctlError{Name: name}
		}
		sysctls[SysctlName(name)] = value
	}
	names := make([]string, 0, len(sysctls))
	for name := range sysctls {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		file := path.Join("/proc/sys", exchange.Replace(name))
		s = append(s, setting{file, sysctls[name]})
	}
	if c.SharePID && !c.HostPID {
		s = append(s, setting{"processes", "shared"})
	}
	return s, nil
}

// SysctlError is a sysctl that is not of a sandbox's own namespaces: setting
// it would change the host, or another pod.
type SysctlError struct {
	Name string
}

func (e *SysctlError) Error() string {
	return fmt.Sprintf("sysctl %q is not the sandbox's own", e.Name)
}

// owns says whether a sysctl is of a namespace that the sandbox has for itself.
func (c *Config) owns(name string) bool {
	switch SysctlNamespace(name) {
	case "net":
		return !c.HostNetwork
	case "ipc":
		return !c.HostIPC
	}
	return false
}

// SysctlNamespace tells by which namespace the kernel keeps a sysctl, "net" or
// "ipc", and "" of one that would change the host or other sandboxes. The list
// is Kubernetes'.
func SysctlNamespace(name string) string {
	name = SysctlName(name)
	switch {
	case strings.Contains(name, ".."), strings.Contains(name, "//"), strings.ContainsRune(name, 0):
	case strings.HasPrefix(name, "net."):
		return "net"
	case name == "kernel.sem", strings.HasPrefix(name, "kernel.shm"),
		strings.HasPrefix(name, "kernel.msg"), strings.HasPrefix(name, "fs.mqueue."):
		return "ipc"
	}
	return ""
}

// exchange turns the dots of a name into slashes and back: where dots part the
// words a slash stands for a dot in a word, as in net.ipv4.conf.eth0/100.
var exchange = strings.NewReplacer(".", "/", "/", ".")

// SysctlName is a sysctl's name with dots, in whichever of the two forms that
// sysctl.d(5) allows it is given.
func SysctlName(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' {
		return exchange.Replace(name)
	}
	return name
}
