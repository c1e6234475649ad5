package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// fakeSystemd serves one connection as a manager does on its private socket:
// the handshake, then answer for every call. It returns the socket and the
// calls that came.
func fakeSystemd(t *testing.T, answer func(call *dbus.Message) *dbus.Message) (string, <-chan *dbus.Message) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "private")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	calls := make(chan *dbus.Message, 8)
	go func() {
		defer close(calls)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		in := bufio.NewReader(conn)
		if _, err := in.ReadByte(); err != nil {
			return
		}
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			switch words := strings.Fields(line); {
			case len(words) == 1 && words[0] == "AUTH":
				fmt.Fprint(conn, "REJECTED EXTERNAL\r\n")
			case words[0] == "AUTH":
				fmt.Fprint(conn, "OK 0123456789abcdef0123456789abcdef\r\n")
			case words[0] == "BEGIN":
				line = ""
			default:
				fmt.Fprint(conn, "ERROR\r\n")
			}
			if line == "" {
				break
			}
		}
		for {
			call, err := dbus.DecodeMessage(in)
			if err != nil {
				return
			}
			calls <- call
			if reply := answer(call); reply != nil {
				if reply.EncodeTo(conn, binary.LittleEndian) != nil {
					return
				}
			}
		}
	}()
	return socket, calls
}

func reply(call *dbus.Message, kind dbus.Type, body any) *dbus.Message {
	m := &dbus.Message{Type: kind, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()),
		dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf(body)),
	}, Body: []any{body}}
	if kind == dbus.TypeError {
		m.Headers[dbus.FieldErrorName] = dbus.MakeVariant("org.freedesktop.DBus.Error.AccessDenied")
	}
	return m
}

func job(call *dbus.Message) *dbus.Message {
	return reply(call, dbus.TypeMethodReply, dbus.ObjectPath("/org/freedesktop/systemd1/job/1"))
}

// moves has a process be in its scope after a number of looks.
func moves(t *testing.T, looks int) {
	before := inScope
	t.Cleanup(func() { inScope = before })
	inScope = func(int, string) (bool, error) {
		looks--
		return looks < 0, nil
	}
}

func TestScope(t *testing.T) {
	moves(t, 3)
	socket, calls := fakeSystemd(t, job)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := startScope(ctx, socket, 4711, scopeName(4711)); err != nil {
		t.Fatal(err)
	}
	call := <-calls
	if member := call.Headers[dbus.FieldMember].Value(); member != "StartTransientUnit" {
		t.Errorf("called %v", member)
	}
	if got := call.Headers[dbus.FieldSignature].String(); got != `"ssa(sv)a(sa(sv))"` && got != `@g "ssa(sv)a(sa(sv))"` {
		t.Errorf("signature %s", got)
	}
	var name, mode string
	var properties []property
	var others []auxiliary
	if err := dbus.Store(call.Body, &name, &mode, &properties, &others); err != nil {
		t.Fatal(err)
	}
	if name != "podrun-4711.scope" || mode != "fail" || len(others) != 0 {
		t.Errorf("name %q, mode %q, others %v", name, mode, others)
	}
	got := map[string]string{}
	for _, p := range properties {
		got[p.Name] = p.Value.String()
	}
	if got["Delegate"] != "true" || got["TasksMax"] != "@t 18446744073709551615" || got["PIDs"] != "@au [4711]" || got["CollectMode"] != `"inactive-or-failed"` ||
		got["TimeoutStopUSec"] != "@t 10000000" || got["Before"] != `["podrun.service"]` {
		t.Errorf("properties %v", got)
	}
}

func TestScopeRefused(t *testing.T) {
	socket, _ := fakeSystemd(t, func(call *dbus.Message) *dbus.Message {
		return reply(call, dbus.TypeError, "Access denied")
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := startScope(ctx, socket, 1, "x.scope"); err == nil || err.Error() != "Access denied" {
		t.Errorf("got %v", err)
	}
}

// TestScopeLate: a manager that does not answer, or whose job does not end, does
// not hold a start up.
func TestScopeLate(t *testing.T) {
	moves(t, 1<<30)
	for name, answer := range map[string]func(*dbus.Message) *dbus.Message{
		"no answer": func(*dbus.Message) *dbus.Message { return nil },
		"no end":    job,
	} {
		t.Run(name, func(t *testing.T) {
			socket, _ := fakeSystemd(t, answer)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if err := startScope(ctx, socket, 1, "x.scope"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestScopeSilent: who does not even shake hands does not hold a start up.
func TestScopeSilent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "private")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := startScope(ctx, socket, 1, "x.scope"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestScopeCut: a manager that ends within a message is an error, wherever it
// ends.
func TestScopeCut(t *testing.T) {
	var whole bytes.Buffer
	signal := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/systemd1")),
		dbus.FieldInterface: dbus.MakeVariant("org.freedesktop.systemd1.Manager"),
		dbus.FieldMember:    dbus.MakeVariant("UnitNew"),
		dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf("")),
	}, Body: []any{"podrun-1.scope"}}
	if err := signal.EncodeTo(&whole, binary.LittleEndian); err != nil {
		t.Fatal(err)
	}
	for n := range whole.Len() {
		if m, err := readMessage(bytes.NewReader(whole.Bytes()[:n])); err == nil {
			t.Fatalf("%d of %d bytes are %v", n, whole.Len(), m)
		}
	}
	if _, err := readMessage(&whole); err != nil {
		t.Error(err)
	}
}

// TestSystemdSocket: a manager is the caller's own, and named by an absolute
// path, whatever the environment says.
func TestSystemdSocket(t *testing.T) {
	uid := os.Geteuid()
	session := t.TempDir()
	found := session + "/systemd/private"
	other := ""
	if dir := "/run/user/" + strconv.Itoa(uid); owned(dir, uid) {
		other = dir + "/systemd/private"
	}
	if uid == 0 {
		found, other = "/run/systemd/private", "/run/systemd/private"
	}
	for dir, want := range map[string]string{session: found, "": other, "here": other, "/proc": other} {
		t.Setenv("XDG_RUNTIME_DIR", dir)
		if got := systemdSocket(); got != want {
			t.Errorf("XDG_RUNTIME_DIR=%s: %q, want %q", dir, got, want)
		}
	}
}

func TestInScope(t *testing.T) {
	if in, err := inScope(os.Getpid(), "podrun-none.scope"); in || err != nil {
		t.Errorf("got %v, %v", in, err)
	}
	if _, err := inScope(1<<22+1, "x.scope"); err == nil {
		t.Error("a process that nobody has is no error")
	}
}
