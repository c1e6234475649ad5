package image_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/internal/hint"
)

// net/http goes on reading what it sends when the answer has come already:
// nobody is told of that.
func TestPushReportsNothingAfterItsEnd(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	s, ref := pushable(t, srv, 4_000_000)
	srv.meddling(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method != http.MethodPatch {
			return false
		}
		begin := make([]byte, 64<<10)
		n, err := io.ReadFull(r.Body, begin)
		if err != nil { // the config, which is small
			r.Body = io.NopCloser(bytes.NewReader(begin[:n]))
			return false
		}
		w.WriteHeader(http.StatusInsufficientStorage)
		return true
	})
	var ended atomic.Bool
	var reports, late atomic.Int64
	_, err := s.Push(t.Context(), ref, image.PushOptions{Progress: func(image.Progress) {
		time.Sleep(20 * time.Millisecond) // most of its bytes are sent later
		reports.Add(1)
		if ended.Load() {
			late.Add(1)
		}
	}})
	ended.Store(true)
	if err == nil || !strings.Contains(err.Error(), "507") {
		t.Errorf("Push: %v", err)
	}
	time.Sleep(300 * time.Millisecond)
	if reports.Load() == 0 || late.Load() != 0 {
		t.Errorf("%d reports, %d of them late", reports.Load(), late.Load())
	}
}

// A registry that takes no more of what is sent to it is given up as soon as one
// that sends no more, however much of it the kernel keeps.
func TestPushStalls(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"little": 1_000, "in the kernel": 1_000_000, "too much for the kernel": 20_000_000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := newServer(t)
			s, ref := pushable(t, srv, size)
			end := make(chan struct{})
			t.Cleanup(func() { close(end) })
			srv.meddling(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if r.Method != http.MethodPatch || r.ContentLength < int64(size)/2 {
					return false
				}
				_, _ = io.CopyN(io.Discard, r.Body, 1000)
				<-end
				return true
			})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			_, err := s.Push(ctx, ref, image.PushOptions{})
			if err == nil || !strings.Contains(err.Error(), "nothing came for 300ms") {
				t.Errorf("Push: %v", err)
			}
		})
	}
}

// One that takes its time to put away what was sent is waited for.
func TestPushAwaitsCommits(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"PATCH of a layer", "PUT of a layer", "PUT of a manifest"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			srv := newServer(t)
			s, ref := pushable(t, srv, 1_000_000)
			var met atomic.Int64
			srv.meddling(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
				kind := r.Method + " of a layer"
				if strings.Contains(r.URL.Path, "/manifests/") {
					kind = r.Method + " of a manifest"
				}
				if kind != step || r.Method == http.MethodPatch && r.ContentLength < 100_000 { // the config
					return false
				}
				met.Add(1)
				data, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				time.Sleep(3 * quick.Stall)
				r.Body = io.NopCloser(bytes.NewReader(data))
				next.ServeHTTP(w, r)
				return true
			})
			if _, err := s.Push(t.Context(), ref, image.PushOptions{}); err != nil {
				t.Errorf("Push: %v", err)
			}
			if n, want := met.Load(), int64(2); n > want || n == 0 { // the layer and the config
				t.Errorf("asked %d times, want %d at most", n, want)
			}
		})
	}
}

// pushable is a store with an image of one layer, of about size bytes, under a
// name of srv.
func pushable(t *testing.T, srv *server, size int) (*image.Store, image.Reference) {
	t.Helper()
	return pushableIn(t, t.TempDir(), srv, size)
}

func pushableIn(t *testing.T, dir string, srv *server, size int) (*image.Store, image.Reference) {
	t.Helper()
	from := newServer(t)
	from.push(t, "app", imageOf(t, tarOf(t, entry{name: "f", data: noise(size)})))
	s := openQuick(t, dir, quick)
	img, err := s.Pull(t.Context(), parse(t, from.host+"/app"), image.PullOptions{Content: true})
	if err != nil {
		t.Fatal(err)
	}
	ref := parse(t, srv.host+"/app")
	if err := s.Tag(string(img.ID), ref); err != nil {
		t.Fatal(err)
	}
	return s, ref
}

// TestPushOfDamaged: what is wrong with what is kept here is said at once, and
// not of the registry. A second try would find nothing where the damage was.
func TestPushOfDamaged(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	dir := t.TempDir()
	s, ref := pushableIn(t, dir, srv, 1000)
	img, err := s.Lookup(ref)
	if err != nil {
		t.Fatal(err)
	}
	layer := img.Blobs[0]
	path := filepath.Join(dir, "blobs", "sha256", layer.Digest.Hex())
	if err := os.WriteFile(path, []byte(noise(int(layer.Size))), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = s.Push(t.Context(), ref, image.PushOptions{})
	want := fmt.Sprintf("its content is not kept here: its file has been damaged (%s)", layer.Digest)
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if want := fmt.Sprintf(`pull it again with "podrun pull %s"`, img.References[0]); hint.Of(err) != want {
		t.Errorf("got hint %q, want %q", hint.Of(err), want)
	}
}
