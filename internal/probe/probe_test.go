package probe_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"get.podrun.dev/podrun/internal/probe"
)

var dial probe.Dial = new(net.Dialer).DialContext

func hostPort(t *testing.T, address string) (string, int) {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return a.IP.String(), a.Port
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	for _, code := range []int{200, 204, 304, 399, 400, 404, 500} {
		mux.HandleFunc(fmt.Sprintf("/%d", code), func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) })
	}
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s|%s|%s|%s|%s", r.Host, r.UserAgent(), r.Header["Accept"], r.Header["X-Two"], r.URL.RawQuery)
	})
	mux.HandleFunc("/here", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/500", http.StatusFound) })
	mux.HandleFunc("/there", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
	})
	mux.HandleFunc("/round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/round", http.StatusFound) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := fmt.Fprint(w, strings.Repeat("x", 1<<12)); err != nil {
				return
			}
		}
	})
	plain, secure := httptest.NewServer(mux), httptest.NewTLSServer(mux)
	defer plain.Close()
	defer secure.Close()
	header := func(name, value string) corev1.HTTPHeader { return corev1.HTTPHeader{Name: name, Value: value} }
	for _, c := range []struct {
		name, path string
		tls        bool
		headers    []corev1.HTTPHeader
		want       probe.Result
		output     string // a part of it
	}{
		{name: "defaults", path: "/ok?a=b", want: probe.Success, output: "|podrun-probe/1.37|[*/*]|[]|a=b"},
		{name: "headers", path: "/ok", want: probe.Success, output: "www.example.org|mine|[]|[1 2]|", headers: []corev1.HTTPHeader{
			header("Host", "www.example.org"), header("user-agent", "mine"), header("Accept", ""), header("X-Two", "1"), header("x-two", "2"),
		}},
		{name: "any certificate", path: "/ok", tls: true, want: probe.Success, output: "podrun-probe"},
		{name: "no content", path: "/204", want: probe.Success},
		{name: "not modified", path: "/304", want: probe.Warning},
		{name: "last success", path: "/399", want: probe.Warning},
		{name: "first failure", path: "/400", want: probe.Failure, output: "HTTP probe failed with statuscode: 400"},
		{name: "not found", path: "/404", want: probe.Failure, output: "HTTP probe failed with statuscode: 404"},
		{name: "redirect on the same host", path: "/here", want: probe.Failure, output: "HTTP probe failed with statuscode: 500"},
		{name: "redirect to another host", path: "/there", want: probe.Warning, output: "Probe terminated redirects, Response body: "},
		{name: "redirects in a circle", path: "/round", want: probe.Failure, output: "stopped after 10 redirects"},
		{name: "no answer", path: "/slow", want: probe.Failure, output: "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"},
		{name: "an endless answer", path: "/endless", want: probe.Success},
	} {
		t.Run(c.name, func(t *testing.T) {
			server, action := plain, &corev1.HTTPGetAction{Path: c.path, Scheme: "HTTP", HTTPHeaders: c.headers}
			if c.tls {
				server, action.Scheme = secure, "HTTPS"
			}
			host, port := hostPort(t, server.Listener.Addr().String())
			req, err := probe.Request(t.Context(), action, host, port, "probe")
			if err != nil {
				t.Fatal(err)
			}
			timeout := 10 * time.Second
			if c.path == "/slow" {
				timeout = 50 * time.Millisecond
			}
			got := probe.HTTP(dial, req, timeout)
			if got.Result != c.want || !strings.Contains(got.Output, c.output) || len(got.Output) > probe.MaxOutput {
				t.Errorf("got %s %.300q, want %s and %q in it", got.Result, got.Output, c.want, c.output)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	host, port := hostPort(t, address)
	req, err := probe.Request(t.Context(), &corev1.HTTPGetAction{Path: "/x"}, host, port, "probe")
	if err != nil {
		t.Fatal(err)
	}
	refused := fmt.Sprintf("dial tcp %s: connect: connection refused", address)
	for _, c := range []struct {
		name string
		got  probe.Outcome
		want string
	}{
		{"http", probe.HTTP(dial, req, time.Second), fmt.Sprintf("Get \"http://%s/x\": %s", address, refused)},
		{"tcp", probe.TCP(t.Context(), dial, address, time.Second), refused},
		{"grpc", probe.GRPC(t.Context(), dial, address, "", time.Second), fmt.Sprintf("error: failed to connect service at %q: %s", address, refused)},
	} {
		if c.got != (probe.Outcome{Result: probe.Failure, Output: c.want}) {
			t.Errorf("%s: got %+v, want failure %q", c.name, c.got, c.want)
		}
	}
}

// TestLongError: a server that redirects to a long address, where nobody
// listens, does not fill the events with it.
func TestLongError(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1/"+strings.Repeat("x", 4*probe.MaxOutput), http.StatusFound)
	}))
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := probe.HTTP(dial, req, 10*time.Second); got.Result != probe.Failure || len(got.Output) != probe.MaxOutput {
		t.Errorf("got %s of %d bytes, want a failure of %d", got.Result, len(got.Output), probe.MaxOutput)
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if got := probe.TCP(t.Context(), dial, l.Addr().String(), time.Second); got.Result != probe.Success {
		t.Errorf("got %+v, want success", got)
	}
	// The connection is closed when the probe returns.
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("got %d bytes and %v from the probe's connection, want its end", n, err)
	}
}

func TestHook(t *testing.T) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil && r.Header.Get("Authorization") != "" && r.URL.Path == "/fallback" {
			t.Error("credentials were sent in the clear")
		}
		w.WriteHeader(http.StatusInternalServerError)
	})
	plain, secure := httptest.NewServer(answer), httptest.NewTLSServer(answer)
	defer plain.Close()
	defer secure.Close()
	for _, c := range []struct {
		name, scheme, path string
		server             *httptest.Server
		fellBack, fails    bool
	}{
		{name: "any answer will do", scheme: "HTTP", server: plain},
		{name: "over TLS", scheme: "HTTPS", server: secure},
		{name: "HTTP where HTTPS was asked for", scheme: "HTTPS", path: "/fallback", server: plain, fellBack: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			host, port := hostPort(t, c.server.Listener.Addr().String())
			action := &corev1.HTTPGetAction{Path: c.path, Scheme: corev1.URIScheme(c.scheme), HTTPHeaders: []corev1.HTTPHeader{{Name: "Authorization", Value: "secret"}}}
			req, err := probe.Request(t.Context(), action, host, port, "lifecycle")
			if err != nil {
				t.Fatal(err)
			}
			fellBack, err := probe.Hook(dial, req)
			if fellBack != c.fellBack || err != nil {
				t.Errorf("got %v, %v, want %v and no error", fellBack, err, c.fellBack)
			}
		})
	}
}

func TestPort(t *testing.T) {
	container := &corev1.Container{Name: "app", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}, {Name: "80", ContainerPort: 81}}}
	for _, c := range []struct {
		port    intstr.IntOrString
		want    int
		wantErr string
	}{
		{intstr.FromInt32(80), 80, ""},
		{intstr.FromString("web"), 8080, ""},
		{intstr.FromString("80"), 81, ""},
		{intstr.FromString("82"), 82, ""},
		{intstr.FromString("api"), 0, `port "api" not found in container "app"`},
		{intstr.FromInt32(0), 0, "invalid port number: 0"},
		{intstr.FromString("65536"), 0, "invalid port number: 65536"},
	} {
		got, err := probe.Port(c.port, container)
		if text := fmt.Sprint(err); got != c.want || (err != nil || c.wantErr != "") && text != c.wantErr {
			t.Errorf("Port(%s): got %d, %v, want %d, %q", c.port.String(), got, err, c.want, c.wantErr)
		}
	}
}

func TestCounter(t *testing.T) {
	for _, c := range []struct {
		name             string
		success, failure int
		results, want    string // "+" success or verdict, "-" failure, "." none
	}{
		{"first success", 1, 3, "+", "+"},
		{"every further one", 1, 3, "+++", "+++"},
		{"third failure", 1, 3, "----", "..--"},
		{"interrupted", 1, 3, "--+--+---", "..+..+..-"},
		{"two successes", 2, 1, "+-++", ".-.+"},
		{"flapping", 2, 2, "+-+-+-", "......"},
	} {
		counter := probe.Counter{SuccessThreshold: c.success, FailureThreshold: c.failure}
		var got strings.Builder
		for _, r := range c.results {
			verdict := "."
			if counter.Add(r == '+') {
				verdict = string(r)
			}
			got.WriteString(verdict)
		}
		if got.String() != c.want {
			t.Errorf("%s: %s gives %s, want %s", c.name, c.results, got.String(), c.want)
		}
	}
}

func TestNoAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	const timeout = 100 * time.Millisecond
	got := probe.GRPC(t.Context(), dial, l.Addr().String(), "", timeout)
	if want := "timeout: health rpc did not complete within 100ms"; got.Output != want {
		t.Errorf("got %+v, want %q", got, want)
	}
	gaveUp := make(chan struct{}, 10)
	never := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		gaveUp <- struct{}{}
		return nil, ctx.Err()
	}
	got = probe.GRPC(t.Context(), never, "10.0.0.1:50051", "", timeout)
	if want := `timeout: failed to connect service "10.0.0.1:50051" within 100ms: context deadline exceeded`; got.Output != want {
		t.Errorf("got %+v, want %q", got, want)
	}
	<-gaveUp
	req, err := probe.Request(t.Context(), &corev1.HTTPGetAction{Path: "/"}, "10.0.0.1", 80, "probe")
	if err != nil {
		t.Fatal(err)
	}
	got = probe.HTTP(never, req, timeout)
	if want := `Get "http://10.0.0.1:80/": context deadline exceeded (Client.Timeout exceeded while awaiting headers)`; got.Output != want {
		t.Errorf("got %+v, want %q", got, want)
	}
	<-gaveUp
}

// TestNothingIsLeft: a connection whose server does not answer is closed when
// the attempt returns, by HTTP/1 and by both of HTTP/2.
func TestNothingIsLeft(t *testing.T) {
	for _, c := range []struct {
		name  string
		probe func(dial probe.Dial, address string) probe.Outcome
	}{
		{"http", func(dial probe.Dial, address string) probe.Outcome { return get(t, dial, "HTTP", address) }},
		{"https", func(dial probe.Dial, address string) probe.Outcome { return get(t, dial, "HTTPS", address) }},
		{"grpc", func(dial probe.Dial, address string) probe.Outcome {
			return probe.GRPC(t.Context(), dial, address, "", 100*time.Millisecond)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
			server.EnableHTTP2 = true
			if c.name == "https" {
				server.StartTLS()
			} else {
				server.Config.Protocols = new(http.Protocols)
				server.Config.Protocols.SetHTTP1(true)
				server.Config.Protocols.SetUnencryptedHTTP2(true)
				server.Start()
			}
			defer server.Close()
			var conn net.Conn
			outcome := c.probe(func(ctx context.Context, network, address string) (_ net.Conn, err error) {
				conn, err = dial(ctx, network, address)
				return conn, err
			}, server.Listener.Addr().String())
			if outcome.Result != probe.Failure || conn == nil {
				t.Fatalf("got %+v, want a failure after connecting", outcome)
			}
			if err := conn.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the connection is open after %+v: %v", outcome, err)
			}
		})
	}
}

func get(t *testing.T, dial probe.Dial, scheme corev1.URIScheme, address string) probe.Outcome {
	t.Helper()
	host, port := hostPort(t, address)
	req, err := probe.Request(t.Context(), &corev1.HTTPGetAction{Path: "/", Scheme: scheme}, host, port, "probe")
	if err != nil {
		t.Fatal(err)
	}
	return probe.HTTP(dial, req, 100*time.Millisecond)
}
