package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func listen(t *testing.T) (Paths, net.Listener) {
	t.Helper()
	dir, err := os.MkdirTemp("", "podrun-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := newPaths(dir, dir)
	l, err := Listen(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return p, l
}

func TestListenReplacesStaleSocket(t *testing.T) {
	p, first := listen(t)
	second, err := Listen(p) // as if the first had been killed
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(p.State, "*"))
	if err != nil || len(names) != 1 {
		t.Errorf("files %v, want the socket alone", names)
	}
	st, err := os.Stat(p.Socket)
	if err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %v, %v; want 0600", st.Mode(), err)
	}
	if c, err := net.Dial("unix", p.Socket); err != nil {
		t.Error(err)
	} else {
		_ = c.Close()
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(p.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket of a closed listener is still there: %v", err)
	}
	_ = first.(*listener).UnixListener.Close()
}

// TestListenLeavesTheSuccessorsSocket: a node that outlives the removal of its
// directories ends without taking its successor's socket along, or the want of
// its own for an error.
func TestListenLeavesTheSuccessorsSocket(t *testing.T) {
	p, first := listen(t)
	if err := os.Remove(p.Socket); err != nil {
		t.Fatal(err)
	}
	second, err := Listen(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Errorf("close of the first: %v", err)
	}
	if c, err := net.Dial("unix", p.Socket); err != nil {
		t.Errorf("the successor's socket: %v", err)
	} else {
		_ = c.Close()
	}
	if err := os.Remove(p.Socket); err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Errorf("close without a socket: %v", err)
	}
}

// TestPeerReset: a client that goes without having read its answer is an error
// of 0 bytes; net/http's reader panics at fewer.
func TestPeerReset(t *testing.T) {
	p, l := listen(t)
	client, err := net.Dial("unix", p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("nobody reads this")); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	if n, err := c.Read(make([]byte, 16)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read = %d, %v; want 0, %v", n, err, syscall.ECONNRESET)
	}
}

func TestPeerOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		// Only root can become another user; TestLaunch shows that the
		// user's own connections are accepted in the user's namespace.
		return
	}
	p, l := listen(t)
	accepted := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_ = c.Close()
			err = errors.New("it was accepted")
		}
		accepted <- err
	}()
	// The other user is let through to the socket by somebody's mistake.
	if err := os.Chmod(p.State, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p.Socket, 0o666); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	// SO_PEERCRED is of the moment of connect(2): a child makes it.
	f := os.NewFile(uintptr(fd), "socket")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), connectVariable+"="+p.Socket, asVariable+"=connect")
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c, err := packetConn(f)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusForbidden || !strings.Contains(string(body), "12345") {
		t.Errorf("answer %s %s, %v; want 403 that names the user", answer.Status, body, err)
	}
	_ = l.Close()
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
}

const connectVariable = "PODRUN_NODE_TEST_CONNECT"

// connectInherited connects descriptor 3, as the user that this process is.
func connectInherited(path string) int {
	if err := unix.Connect(3, &unix.SockaddrUnix{Name: path}); err != nil {
		_, _ = io.WriteString(os.Stderr, err.Error())
		return 1
	}
	return 0
}

func TestFilesOfRequests(t *testing.T) {
	p, l := listen(t)
	server := &http.Server{ConnContext: ConnContext, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		files := ConnFiles(r.Context())
		defer closeFiles(files...)
		if again := ConnFiles(r.Context()); len(again) != 0 {
			t.Errorf("the second ConnFiles returned %d", len(again))
		}
		_, _ = io.Copy(io.Discard, r.Body)
		for _, f := range files {
			b, _ := io.ReadAll(io.NewSectionReader(f, 0, 100))
			_, _ = w.Write(b)
		}
		_, _ = io.WriteString(w, ".")
	})}
	go func() { _ = server.Serve(l) }()
	defer func() { _ = server.Shutdown(context.Background()) }()

	dir := t.TempDir()
	var files []*os.File
	for _, content := range []string{"a", "b", "c"} {
		f, err := os.Create(filepath.Join(dir, content))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		if _, err := f.WriteString(content); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	before := openFiles(t)
	nc, err := net.Dial("unix", p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	c := nc.(*net.UnixConn)
	r := bufio.NewReader(c)
	body := strings.Repeat("x", 100_000)
	for _, test := range []struct {
		files []*os.File
		want  string
	}{{files, "abc."}, {nil, "."}, {files[:1], "a."}, {nil, "."}} {
		if len(test.files) > 0 {
			if err := SendFiles(c, test.files...); err != nil {
				t.Fatal(err)
			}
		}
		request, err := http.NewRequest("POST", "http://podrun/", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if err := request.Write(c); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(r, request)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(answer.Body); string(b) != test.want {
			t.Errorf("answer %q (%v), want %q", b, err, test.want)
		}
	}
	// Too many, and nobody takes them.
	many := make([]*os.File, maxFiles+5)
	for i := range many {
		many[i] = files[0]
	}
	if err := SendFiles(c, many...); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	in := &instance{t: t}
	in.eventually("no descriptor is left open", func() error {
		if n := openFiles(t); n > before {
			return fmt.Errorf("%d files are open, %d were", n, before)
		}
		return nil
	})
}

func openFiles(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}
