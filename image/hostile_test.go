package image_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"get.podrun.dev/podrun/image"
)

// recorder is a server that is not the registry, and remembers what credentials
// it was shown.
type recorder struct {
	*httptest.Server
	mu       sync.Mutex
	requests int
	shown    []string
}

func newRecorder(t *testing.T, answer http.HandlerFunc) *recorder {
	r := &recorder{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.requests++
		for name, values := range req.Header {
			if name == "Authorization" || name == "Cookie" {
				r.shown = append(r.shown, values...)
			}
		}
		r.mu.Unlock()
		answer(w, req)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *recorder) seen() (int, []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests, r.shown
}

// withCredentials makes the user's only credentials those for one registry.
func withCredentials(t *testing.T, host string) {
	t.Helper()
	home := t.TempDir()
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", home)
	auth := base64.StdEncoding.EncodeToString([]byte("me:secret"))
	if err := os.Mkdir(filepath.Join(home, ".docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".docker", "config.json"), []byte(`{"auths": {"`+host+`": {"auth": "`+auth+`"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCredentialsStayWithTheirRegistry: a registry that sends us elsewhere, for
// an answer or for a token, does not send the user's password there.
func TestCredentialsStayWithTheirRegistry(t *testing.T) {
	for _, scheme := range []string{"Basic", "Bearer"} {
		t.Run("a redirect, "+scheme, func(t *testing.T) {
			srv := newServer(t)
			srv.push(t, "app", imageOf(t, tarOf(t, entry{name: "f", data: "x"})))
			var elsewhere *recorder
			elsewhere = newRecorder(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Asked") == "" && r.URL.Query().Get("challenge") != "" {
					w.Header().Set("WWW-Authenticate", scheme+` realm="`+elsewhere.URL+`/token"`)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				http.Error(w, "no such blob", http.StatusNotFound)
			})
			withCredentials(t, srv.host)
			srv.meddling(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				switch {
				case r.URL.Path == "/token":
					if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
						t.Errorf("the registry's own token server is shown %q, %q", user, password)
					}
					_, _ = fmt.Fprint(w, `{"token": "t0ken"}`)
				case r.Header.Get("Authorization") == "":
					w.Header().Set("WWW-Authenticate", scheme+` realm="`+srv.URL+`/token",service="test"`)
					w.WriteHeader(http.StatusUnauthorized)
				case strings.Contains(r.URL.Path, "/blobs/"):
					http.Redirect(w, r, elsewhere.URL+r.URL.Path+"?challenge=1", http.StatusTemporaryRedirect)
				default:
					return false
				}
				return true
			})
			s := openStore(t, t.TempDir())
			if _, err := s.Pull(t.Context(), parse(t, srv.host+"/app"), image.PullOptions{}); err == nil {
				t.Error("an image whose blobs are nowhere was pulled")
			}
			requests, shown := elsewhere.seen()
			if requests == 0 {
				t.Error("the redirect was not followed: nothing was tried")
			}
			for _, header := range shown {
				t.Errorf("the other server is shown %q", header)
			}
		})
	}
	t.Run("a token server on this machine", func(t *testing.T) {
		srv := newServer(t)
		elsewhere := newRecorder(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `{"token": "t0ken"}`) })
		withCredentials(t, srv.host)
		srv.meddling(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+elsewhere.URL+`/token",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		})
		s := openStore(t, t.TempDir())
		if _, err := s.Pull(t.Context(), parse(t, srv.host+"/app"), image.PullOptions{}); err == nil {
			t.Error("pulled")
		}
		if requests, shown := elsewhere.seen(); requests > 0 {
			t.Errorf("another server of this machine was asked %d times, and shown %q", requests, shown)
		}
	})
}
