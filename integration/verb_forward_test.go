package integration

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// servers is a pod that serves HTTP on its loopback address only, and echoes on
// every address.
const servers = `apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: http
    image: busybox
    command: [sh, -c, 'mkdir /www; hostname >/www/index.html; exec httpd -f -p 127.0.0.1:80 -h /www']
    ports: [{name: http, containerPort: 80}]
  - name: echo
    image: busybox
    command: [nc, -ll, -p, "7", -e, cat]
    ports: [{name: syslog, containerPort: 514, protocol: UDP}]
`

// fetch reads a page until it can.
func (e *env) fetch(t *testing.T, address string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	page := ""
	e.eventually("page of "+address, func() string {
		r, err := client.Get("http://" + address)
		if err != nil {
			return err.Error()
		}
		defer func() { _ = r.Body.Close() }()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return err.Error()
		}
		page = string(b)
		return ""
	})
	return page
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return c.(*net.TCPConn)
}

func TestPortForward(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(servers, "web")

	s := e.begin(t, "port-forward", "pod/web", ":http", ":7")
	m := s.expect(`(?s)Forwarding from (127\.0\.0\.1:(\d+)) -> 80\n(?:Forwarding from \[::1\]:\d+ -> 80\n)?Forwarding from (127\.0\.0\.1:\d+) -> 7\n`)
	page, echo := m[1], m[3]

	t.Run("a server on the pod's loopback", func(t *testing.T) {
		same(t, e.fetch(t, page), "web\n")
		s.expect(`Handling connection for ` + m[2] + "\n")
	})
	t.Run("half-close", func(t *testing.T) {
		c := dial(t, echo)
		_, _ = io.WriteString(c, "hello")
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("100 MB there and back", func(t *testing.T) {
		c := dial(t, echo)
		const size = 100 << 20
		sent := sha256.New()
		go func() {
			_, _ = io.Copy(io.MultiWriter(c, sent), io.LimitReader(rand.NewChaCha8([32]byte{1}), size))
			_ = c.CloseWrite()
		}()
		got := sha256.New()
		n, err := io.Copy(got, c)
		if err != nil || n != size || fmt.Sprintf("%x", got.Sum(nil)) != fmt.Sprintf("%x", sent.Sum(nil)) {
			t.Errorf("got %d bytes, %v: not what was sent", n, err)
		}
	})
	t.Run("nothing listens", func(t *testing.T) {
		s := e.begin(t, "port-forward", "web", ":81")
		c := dial(t, s.expect(`Forwarding from (127\.0\.0\.1:\d+) -> 81`)[1])
		if got, _ := io.ReadAll(c); len(got) > 0 {
			t.Errorf("got %q", got)
		}
		s.expectError(`(?m)^error: an error occurred forwarding \d+ -> 81: nothing listens on port 81 of pod "web": connection refused$`)
	})
	t.Run("kill -9 of the node cuts nothing", func(t *testing.T) {
		c := dial(t, echo)
		ping := func(what string) {
			t.Helper()
			buf := make([]byte, len(what))
			_, _ = io.WriteString(c, what)
			if _, err := io.ReadFull(c, buf); err != nil || string(buf) != what {
				t.Fatalf("got %q, %v; want %q", buf, err, what)
			}
		}
		ping("before")
		e.killNode()
		ping("after")
		same(t, e.fetch(t, page), "web\n")
	})
	t.Run("restart of the group", func(t *testing.T) {
		e.ok("stop", "-t", "0", "web/http")
		e.restarted("web", 1)
		same(t, e.fetch(t, page), "web\n")
	})
	t.Run("the end of the pod", func(t *testing.T) {
		e.ok("delete", "pod", "web", "--now")
		if code := s.end(); code != 1 {
			t.Errorf("got exit code %d, want 1", code)
		}
		same(t, lastLine(s.errors()), "error: lost connection to pod\n")
	})
}

// TestPortForwardEnds: an interrupt is its usual end, a kill leaves nothing.
func TestPortForwardEnds(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(servers, "web")
	s := e.begin(t, "port-forward", "--address", "127.0.0.1", "web", ":7")
	c := dial(t, s.expect(`Forwarding from (127\.0\.0\.1:\d+) -> 7\n$`)[1])
	_, _ = io.WriteString(c, "x")
	_, _ = io.ReadFull(c, make([]byte, 1))
	_ = s.command.Process.Signal(unix.SIGINT)
	if code := s.end(); code != 0 || s.errors() != "" {
		t.Errorf("got exit code %d, %q", code, s.errors())
	}
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("the connection was not ended: %v", err)
	}
	s = e.begin(t, "port-forward", "web", ":7")
	c = dial(t, s.expect(`Forwarding from (127\.0\.0\.1:\d+) -> 7`)[1])
	_, _ = io.WriteString(c, "x")
	_, _ = io.ReadFull(c, make([]byte, 1))
	s.kill()
	e.eventually("end of the server's side", func() string {
		if out := e.ok("exec", "web", "-c", "echo", "--", "ps"); runs(out, "cat") {
			return out
		}
		return ""
	})
}

func TestPortForwardRefusals(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(servers, "web")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, taken, _ := net.SplitHostPort(l.Addr().String())
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no port", []string{"web"}, "error: TYPE/NAME and list of ports are required for port-forward\nSee 'podrun port-forward --help' for usage.\n"},
		{"no such pod", []string{"nosuch", "80"}, "Error from server (NotFound): pods \"nosuch\" not found\n"},
		{"no such name", []string{"web", "https"}, "error: Pod 'web' does not have a named port 'https'\n"},
		{"three parts", []string{"web", "1:2:3"}, "error: invalid port format '1:2:3'\n"},
		{"no remote port", []string{"web", "80:"}, "error: remote port cannot be empty\n"},
		{"port 0", []string{"web", "80:0"}, "error: remote port must be > 0\n"},
		{"large port", []string{"web", "8080:65536"}, "error: error parsing remote port '65536': strconv.ParseUint: parsing \"65536\": value out of range\n"},
		{"local name", []string{"web", "http:80"}, "error: error parsing local port 'http': strconv.ParseUint: parsing \"http\": invalid syntax\n"},
		{"UDP", []string{"web", "syslog"}, "error: UDP protocol is not supported for syslog\n"},
		{"UDP by number", []string{"web", "514"}, "error: UDP protocol is not supported for 514\n"},
		{"address", []string{"--address", "example.org", "web", "80"}, "error: example.org is not a valid IP\n"},
		{"taken", []string{"--address", "127.0.0.1", "web", taken + ":80"}, "Unable to listen on port " + taken + ": Listeners failed to create with the following errors: [unable to create listener: Error listen tcp4 127.0.0.1:" + taken + ": bind: address already in use]\nerror: unable to listen on any of the requested ports: [{" + taken + " 80}]\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			same(t, e.fails(1, append([]string{"port-forward"}, tt.args...)...), tt.want)
		})
	}
	e.apply(podYAML("done", "restartPolicy: Never", "c=true"))
	e.when("done", "done", func(p *corev1.Pod) bool { return p.Status.Phase == "Succeeded" })
	same(t, e.fails(1, "port-forward", "done", "80"), "error: unable to forward port because pod is not running. Current status=Succeeded\n")
}
