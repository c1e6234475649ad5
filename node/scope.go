package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// scopeEnd is what the processes of a scope have from SIGTERM to SIGKILL when the
// machine goes down, or the user's last session: docker's time for containers.
const scopeEnd = 10 * time.Second

// scopePatience bounds what a start waits for systemd, once a session. It
// answers within milliseconds, but while a machine boots or is short of
// processor time, seconds; whoever does not wait then has no limits for as long
// as the node lives. It is less than what other commands wait for this start.
const scopePatience = startPatience * 2 / 3

// delegate asks systemd, where there is one, for a cgroup of our own for a new
// reaper and all that it will start: a transient scope with Delegate=yes. Only
// in such a one can a user limit containers. It is there as long as a process
// in it, so that a node started again after a crash finds itself in it. nil
// means that it is so, or that there is nobody to ask; pods run in any case.
func delegate(ctx context.Context, pid int) error {
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC || delegated(pid) {
		return nil
	}
	socket := systemdSocket()
	if _, err := os.Stat(socket); err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, scopePatience)
	defer cancel()
	if err := startScope(ctx, socket, pid, scopeName(pid)); err != nil {
		return fmt.Errorf("ask systemd for a scope: %w", err)
	}
	return nil
}

// systemdSocket is where systemctl reaches the manager of the caller's units;
// no bus is needed for it. "" when it cannot be there.
func systemdSocket() string {
	if os.Geteuid() == 0 {
		return "/run/systemd/private"
	}
	dir := runtimeDir(os.Geteuid())
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "systemd/private")
}

// scopeName is the name of a scope. Package sandbox knows it by its beginning.
func scopeName(pid int) string { return "podrun-" + strconv.Itoa(pid) + ".scope" }

// delegated tells whether we were started, and have started the reaper pid, in a
// cgroup that is ours alone, as by a unit with Delegate=yes: one that systemd, from 251 on, has marked so, before
// one that we may write to. A cgroup with a process in it that is not ours, such
// as the shell that we were called from, can have no limits below it.
func delegated(pid int) bool {
	own, err := cgroupsOf("self")
	if err != nil || filepath.Base(own[""]) == unitName {
		// Our own unit may be started again under its pods. Before version 254
		// systemd puts the new process where they are, which the kernel refuses
		// of a cgroup that has controllers for its children.
		return false
	}
	dir := filepath.Join("/sys/fs/cgroup", own[""])
	mark := make([]byte, 1)
	if n, err := unix.Getxattr(dir, "user.delegate", mark); err == nil {
		if n != 1 || mark[0] != '1' {
			return false
		}
	} else if unix.Access(filepath.Join(dir, "cgroup.subtree_control"), unix.W_OK) != nil {
		return false
	}
	pids, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	return err == nil && !slices.ContainsFunc(strings.Fields(string(pids)), func(p string) bool {
		return p != strconv.Itoa(os.Getpid()) && p != strconv.Itoa(pid)
	})
}

// property is a setting of a unit, as org.freedesktop.systemd1 takes it.
type property struct {
	Name  string
	Value dbus.Variant
}

// auxiliary is a unit to be started beside another; there is none.
type auxiliary struct {
	Name       string
	Properties []property
}

// startScope has the manager at socket move pid into a new scope, and waits
// until it is there.
func startScope(ctx context.Context, socket string, pid int, name string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	err = callManager(conn, "StartTransientUnit", name, "fail", []property{
		{"Description", dbus.MakeVariant("podrun's node and its pods")},
		{"PIDs", dbus.MakeVariant([]uint32{uint32(pid)})},
		{"Delegate", dbus.MakeVariant(true)},
		{"TasksMax", dbus.MakeVariant(uint64(math.MaxUint64))}, // containers have theirs
		{"CollectMode", dbus.MakeVariant("inactive-or-failed")},
		{"TimeoutStopUSec", dbus.MakeVariant(uint64(scopeEnd.Microseconds()))},
		{"Before", dbus.MakeVariant([]string{unitName})}, // see unitName
	}, []auxiliary{})
	if err != nil {
		return unlessLate(ctx, err)
	}
	// The answer is a job, not its end.
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		in, err := inScope(pid, name)
		if in || err != nil {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%s has not got process %d: %w", name, pid, context.Cause(ctx))
		}
	}
}

// callManager calls a method of the manager at the other end of conn and waits
// for its answer. A dbus.Conn would do it, but its goroutine panics when the
// connection is closed while one of the manager's many signals comes in.
func callManager(conn io.ReadWriter, method string, args ...any) error {
	const manager = "org.freedesktop.systemd1"
	call := dbus.Message{Type: dbus.TypeMethodCall, Body: args, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(manager),
		dbus.FieldPath:        dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/systemd1")),
		dbus.FieldInterface:   dbus.MakeVariant(manager + ".Manager"),
		dbus.FieldMember:      dbus.MakeVariant(method),
		dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf(args...)),
	}}
	var out bytes.Buffer
	if err := call.EncodeTo(&out, binary.LittleEndian); err != nil {
		return err
	}
	const serial, serialAt = uint32(1), 8 // only a dbus.Conn can set it in the message
	binary.LittleEndian.PutUint32(out.Bytes()[serialAt:], serial)

	in := bufio.NewReader(conn)
	if _, err := fmt.Fprintf(conn, "\x00AUTH EXTERNAL %x\r\n", strconv.Itoa(os.Geteuid())); err != nil {
		return err
	}
	line, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, "OK ") {
		return fmt.Errorf("authentication: %s", strings.TrimSpace(line))
	}
	if _, err := io.WriteString(conn, "BEGIN\r\n"+out.String()); err != nil {
		return err
	}
	for {
		m, err := readMessage(in)
		if err != nil {
			return err
		}
		to, _ := m.Headers[dbus.FieldReplySerial].Value().(uint32)
		switch {
		case to != serial: // a signal
		case m.Type == dbus.TypeError:
			name, _ := m.Headers[dbus.FieldErrorName].Value().(string)
			return dbus.Error{Name: name, Body: m.Body}
		default:
			return nil
		}
	}
}

// readMessage makes an error of the panic that is the decoder's answer to an
// end within a message.
func readMessage(in io.Reader) (m *dbus.Message, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("incomplete message: %v", r)
		}
	}()
	return dbus.DecodeMessage(in)
}

// inScope is replaced by tests, which have no systemd.
var inScope = func(pid int, name string) (bool, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("process %d: %w", pid, unix.ESRCH)
	}
	return strings.Contains(string(b), "/"+name), err
}

// unlessLate prefers why we stopped to what stopping looked like.
func unlessLate(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
