package image_test

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/internal/hint"
)

// A registry that may be asked by HTTPS and by HTTP, as one on this machine, and
// that neither reaches: what is told is why, whichever of the two it speaks.
func TestBothPingsFail(t *testing.T) {
	t.Parallel()
	plain := func(handler http.HandlerFunc) func(*testing.T) string {
		return func(t *testing.T) string {
			s := httptest.NewServer(handler)
			t.Cleanup(s.Close)
			return s.Listener.Addr().String()
		}
	}
	for _, tt := range []struct {
		name  string
		start func(*testing.T) string
		want  string
		hint  string
	}{
		{"HTTP that cuts", plain(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), "registry HOST: EOF", ""},
		{"HTTP that has no registry", plain(http.NotFound), "registry HOST, which answered 404 Not Found", "check the name"},
		{"HTTP that takes nothing", plain(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) }), "registry HOST answered 400 Bad Request", ""},
		{"HTTP that is in trouble", plain(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }), "registry HOST answered 502 Bad Gateway", ""},
		{"HTTPS that wants a certificate", func(t *testing.T) string {
			s := httptest.NewUnstartedServer(http.NotFoundHandler())
			s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			s.StartTLS()
			t.Cleanup(s.Close)
			return s.Listener.Addr().String()
		}, "certificate required", "client.cert"},
		{"neither", func(t *testing.T) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					begin := make([]byte, 1)
					if n, _ := c.Read(begin); n == 1 && begin[0] == 'G' {
						_, _ = c.Write([]byte("220 mail\r\n"))
					}
					_ = c.Close()
				}
			}()
			return l.Addr().String()
		}, "by HTTP: net/http: HTTP/1.x transport connection broken: malformed HTTP", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			host := tt.start(t)
			s := openQuick(t, t.TempDir(), quick)
			img, err := s.Import(t.Context(), strings.NewReader(string(tarOf(t, entry{name: "f"}))), image.ImportOptions{})
			if err != nil {
				t.Fatal(err)
			}
			ref := parse(t, host+"/app")
			if err := s.Tag(string(img.ID), ref); err != nil {
				t.Fatal(err)
			}
			_, pulled := s.Pull(t.Context(), parse(t, host+"/other"), image.PullOptions{})
			_, pushed := s.Push(t.Context(), ref, image.PushOptions{})
			for verb, err := range map[string]error{"pull": pulled, "push": pushed, "login": s.Login(t.Context(), host, "me", "secret")} {
				if want := strings.ReplaceAll(tt.want, "HOST", host); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "HTTPS client") || !strings.Contains(hint.Of(err), tt.hint) {
					t.Errorf("%s: %v; %s; want %q; %q", verb, err, hint.Of(err), want, tt.hint)
				}
			}
		})
	}
}
