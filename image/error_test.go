package image_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/internal/hint"
)

func TestErrorsSayWhatToDo(t *testing.T) {
	srv := newServer(t)
	srv.push(t, "app", imageOf(t, tarOf(t, entry{name: "f"})))
	s := openStore(t, t.TempDir())
	pull := func(ref string) error {
		_, err := s.Pull(t.Context(), parse(t, ref), image.PullOptions{})
		return err
	}
	t.Run("no such image", func(t *testing.T) {
		err := pull(srv.host + "/nosuch:v9")
		if !errors.Is(err, image.ErrNotFound) || hint.Of(err) == "" || strings.Count(err.Error(), srv.host) != 1 {
			t.Errorf("%v; %s, want the registry's name once", err, hint.Of(err))
		}
		var answer *image.RegistryError
		if !errors.As(err, &answer) || answer.Status != http.StatusNotFound {
			t.Errorf("the answer in it is %+v", answer)
		}
	})
	t.Run("registry down", func(t *testing.T) {
		down := httptest.NewServer(nil)
		down.Close()
		err := pull(strings.TrimPrefix(down.URL, "http://") + "/app")
		if err == nil || !strings.Contains(err.Error(), "refused the connection") || hint.Of(err) == "" {
			t.Errorf("%v; %s", err, hint.Of(err))
		}
	})
	t.Run("no credentials, then the right ones", func(t *testing.T) {
		srv.meddling(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if user, password, _ := r.BasicAuth(); user == "me" && password == "secret" {
				return false
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		})
		defer srv.meddle.Store(nil)
		home := t.TempDir()
		t.Setenv("HOME", home)
		t.Setenv("XDG_CONFIG_HOME", "")
		t.Setenv("XDG_RUNTIME_DIR", "")
		t.Setenv("DOCKER_CONFIG", "")
		t.Setenv("REGISTRY_AUTH_FILE", "")
		err := pull(srv.host + "/app")
		if !errors.Is(err, image.ErrUnauthorized) || !strings.Contains(hint.Of(err), "login") {
			t.Errorf("%v; %s", err, hint.Of(err))
		}
		auth := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, srv.host, base64.StdEncoding.EncodeToString([]byte("me:secret")))
		for _, path := range []string{".config/containers/auth.json", ".docker/config.json"} {
			file := filepath.Join(home, path)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(auth), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := pull(srv.host + "/app"); err != nil {
				t.Errorf("with %s: %v", path, err)
			}
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("not for this platform", func(t *testing.T) {
		index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
			Add: imageOf(t, tarOf(t, entry{name: "f"})), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}},
		})
		ref, err := name.ParseReference(srv.host+"/multi", name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(ref, index); err != nil {
			t.Fatal(err)
		}
		if err := pull(srv.host + "/multi"); err == nil || !strings.Contains(err.Error(), "s390x") {
			t.Errorf("%v, want the platforms that there are", err)
		}
	})
}

// A registry that has trouble, or that nobody reaches, has not said no.
func TestUnanswered(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	srv.push(t, "app", imageOf(t, tarOf(t, entry{name: "f"})))
	s := openQuick(t, t.TempDir(), quick)
	resolve := func(at string) error {
		_, err := s.Resolve(t.Context(), parse(t, at+"/app"), nil)
		return err
	}
	down := httptest.NewServer(nil)
	down.Close()
	if err := resolve(strings.TrimPrefix(down.URL, "http://")); !image.Unanswered(err) {
		t.Errorf("refused: %v", err)
	}
	for status, want := range map[int]bool{429: true, 500: true, 502: true, 503: true, 400: false, 401: false, 403: false, 404: false} {
		srv.meddling(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if r.URL.Path == "/v2/" {
				return false
			}
			w.WriteHeader(status)
			return true
		})
		if err := resolve(srv.host); err == nil || image.Unanswered(err) != want {
			t.Errorf("%d: %v, unanswered: %v", status, err, !want)
		}
	}
	srv.meddling(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		<-r.Context().Done() // until it is given up
		return true
	})
	if err := resolve(srv.host); !image.Unanswered(err) {
		t.Errorf("nothing comes: %v", err)
	}
	if err := (&fs.PathError{Op: "write", Path: "layer", Err: syscall.EIO}); image.Unanswered(err) {
		t.Errorf("a file here: %v", err)
	}
}
