package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/internal/hint"
)

// quick are the limits of a store that does not wait long.
var quick = image.PullLimits{Stall: 300 * time.Millisecond, Pause: time.Millisecond, Tries: 3}

func openQuick(t *testing.T, dir string, limits image.PullLimits) *image.Store {
	t.Helper()
	s, err := image.Open(dir, image.Options{SingleID: true, Registries: &image.Registries{}, Platform: image.Platform{OS: "linux", Architecture: "amd64"}, Pull: limits})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// noise is text that does not compress away.
func noise(n int) string {
	var b strings.Builder
	for x := uint32(1); b.Len() < n; {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		fmt.Fprintf(&b, "%08x", x)
	}
	return b.String()[:n]
}

// isLayer tells whether a request is for a blob that is no config.
func isLayer(r *http.Request, h http.Handler) ([]byte, bool) {
	if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
		return nil, false
	}
	rec := httptest.NewRecorder()
	plain := r.Clone(r.Context())
	plain.Header.Del("Range")
	h.ServeHTTP(rec, plain)
	return rec.Body.Bytes(), !bytes.HasPrefix(rec.Body.Bytes(), []byte("{"))
}

// send writes some of a blob and then cuts the connection.
func sendAndCut(w http.ResponseWriter, data []byte) {
	_, _ = w.Write(data)
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
	panic(http.ErrAbortHandler)
}

func TestPullGoesOnAfterACut(t *testing.T) {
	for _, c := range []struct {
		name   string
		serve  func(w http.ResponseWriter, r *http.Request, blob []byte, times int64)
		failed string // what the error says; "" if the pull succeeds
		asked  int64  // at most
	}{
		{"a registry that knows Range", func(w http.ResponseWriter, r *http.Request, blob []byte, times int64) {
			from := 0
			if h := r.Header.Get("Range"); h != "" {
				_, _ = fmt.Sscanf(h, "bytes=%d-", &from)
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(blob)-1, len(blob)))
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(blob)-from))
			if from > 0 {
				w.WriteHeader(http.StatusPartialContent)
			}
			sendAndCut(w, blob[from:min(len(blob), from+100_000)])
		}, "", 11},
		{"a registry that ignores Range", func(w http.ResponseWriter, _ *http.Request, blob []byte, times int64) {
			w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
			if times < 3 {
				sendAndCut(w, blob[:int(times)*100_000])
			}
			_, _ = w.Write(blob)
		}, "", 3},
		{"another total", func(w http.ResponseWriter, r *http.Request, blob []byte, times int64) {
			if times == 1 {
				w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
				sendAndCut(w, blob[:100_000])
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 100000-%d/%d", len(blob), len(blob)+1))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(blob[100_000:])
		}, "/", 2},
		{"another beginning", func(w http.ResponseWriter, r *http.Request, blob []byte, times int64) {
			if times == 1 {
				w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
				sendAndCut(w, blob[:100_000])
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(blob)-1, len(blob)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(blob)
		}, "bytes 0-", 2},
		{"no Range and no other way", func(w http.ResponseWriter, r *http.Request, blob []byte, times int64) {
			if times == 1 {
				w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
				sendAndCut(w, blob[:100_000])
			}
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		}, "416", 3},
		{"Range refused", func(w http.ResponseWriter, r *http.Request, blob []byte, times int64) {
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
			if times == 1 {
				sendAndCut(w, blob[:100_000])
			}
			_, _ = w.Write(blob)
		}, "", 3},
		{"always at the same byte", func(w http.ResponseWriter, r *http.Request, blob []byte, times int64) {
			w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
			sendAndCut(w, blob[:1000])
		}, "3 times", 4},
		{"a stall and then the rest", func(w http.ResponseWriter, r *http.Request, blob []byte, times int64) {
			w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
			if times == 1 {
				_, _ = w.Write(blob[:100_000])
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				return
			}
			_, _ = w.Write(blob)
		}, "", 2},
		{"a stall for ever", func(_ http.ResponseWriter, r *http.Request, _ []byte, _ int64) { <-r.Context().Done() }, "nothing came for 300ms", 3},
		{"no length and too short", func(w http.ResponseWriter, r *http.Request, blob []byte, times int64) {
			w.(http.Flusher).Flush()
			if times < 2 {
				_, _ = w.Write(blob[:len(blob)/2])
				return
			}
			_, _ = w.Write(blob)
		}, "", 2},
		{"no length and no end", func(w http.ResponseWriter, r *http.Request, blob []byte, times int64) {
			_, _ = w.Write(blob)
			for r.Context().Err() == nil {
				if _, err := w.Write(blob); err != nil {
					return
				}
			}
		}, "", 1},
		{"503 twice", func(w http.ResponseWriter, r *http.Request, blob []byte, times int64) {
			if times < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			_, _ = w.Write(blob)
		}, "", 3},
		{"500 for ever", func(w http.ResponseWriter, r *http.Request, blob []byte, times int64) {
			w.WriteHeader(http.StatusInternalServerError)
		}, "answered 500 Internal Server Error, 3 times", 3},
		{"429 and a wait that is too long", func(w http.ResponseWriter, r *http.Request, blob []byte, times int64) {
			w.Header().Set("Retry-After", "7200")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = w.Write([]byte(`{"errors":[{"code":"TOOMANYREQUESTS","message":"you have reached your limit"}]}`))
		}, "you have reached your limit), and asks to come again in 2h0m0s", 1},
		{"404", func(w http.ResponseWriter, r *http.Request, blob []byte, times int64) {
			w.WriteHeader(http.StatusNotFound)
		}, "404", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := newServer(t)
			srv.push(t, "app", imageOf(t, tarOf(t, entry{name: "f", data: noise(2_000_000)})))
			var times atomic.Int64
			srv.meddling(func(w http.ResponseWriter, r *http.Request, h http.Handler) bool {
				blob, ok := isLayer(r, h)
				if ok {
					c.serve(w, r, blob, times.Add(1))
				}
				return ok
			})
			dir := t.TempDir()
			s := openQuick(t, dir, quick)
			img, err := s.Pull(t.Context(), parse(t, srv.host+"/app"), image.PullOptions{})
			switch {
			case c.failed == "" && err != nil:
				t.Fatal(err)
			case c.failed == "":
				if st, err := os.Stat(filepath.Join(mount(t, s, img), "f")); err != nil || st.Size() != 2_000_000 {
					t.Errorf("the file: %v, %v", st, err)
				}
			case err == nil || !strings.Contains(err.Error(), c.failed):
				t.Errorf("error %v, want %q in it", err, c.failed)
			case strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), srv.host):
				t.Errorf("error %v, want one line with the registry's name", err)
			}
			if n := times.Load(); n > c.asked {
				t.Errorf("the registry was asked %d times, want at most %d", n, c.asked)
			}
			if left := leftovers(t, dir); len(left) != 0 {
				t.Errorf("left in tmp: %v", left)
			}
			if layers, _ := os.ReadDir(filepath.Join(dir, "layers")); c.failed != "" && len(layers) != 0 {
				t.Errorf("%d layers are kept", len(layers))
			}
		})
	}
}

// Ping, manifest and config are asked for again as well.
func TestPullAsksAgainForDocuments(t *testing.T) {
	for _, what := range []string{"/v2/", "/manifests/", "/blobs/"} {
		for name, bad := range map[string]func(http.ResponseWriter){
			"503":   func(w http.ResponseWriter) { w.Header().Set("Retry-After", "0"); w.WriteHeader(503) },
			"429":   func(w http.ResponseWriter) { w.WriteHeader(429) },
			"cut":   func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
			"half":  func(w http.ResponseWriter) { w.Header().Set("Content-Length", "500"); sendAndCut(w, []byte("{")) },
			"stall": func(http.ResponseWriter) { time.Sleep(400 * time.Millisecond) },
			"half stay": func(w http.ResponseWriter) {
				_, _ = w.Write([]byte("{"))
				w.(http.Flusher).Flush()
				time.Sleep(400 * time.Millisecond)
			},
		} {
			if name == "half" && what == "/blobs/" {
				continue // another length than the manifest says is a lie, not a cut
			}
			t.Run(what+" "+name, func(t *testing.T) {
				t.Parallel()
				srv := newServer(t)
				srv.push(t, "app", imageOf(t, tarOf(t, entry{name: "f"})))
				var times atomic.Int64
				srv.meddling(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
					match := strings.Contains(r.URL.Path, what) && (what != "/v2/" || r.URL.Path == what)
					if match && times.Add(1) == 1 {
						bad(w)
						return true
					}
					return false
				})
				s := openQuick(t, t.TempDir(), quick)
				if _, err := s.Pull(t.Context(), parse(t, srv.host+"/app"), image.PullOptions{}); err != nil {
					t.Error(err)
				}
				if times.Load() < 2 {
					t.Error("was not asked again")
				}
			})
		}
	}
}

// So is a token.
func TestPullAsksAgainForATokenToo(t *testing.T) {
	for name, bad := range map[string]func(http.ResponseWriter){
		"503": func(w http.ResponseWriter) { w.WriteHeader(503) },
		"cut": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"half": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "50")
			sendAndCut(w, []byte(`{"token":`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := newServer(t)
			srv.push(t, "app", imageOf(t, tarOf(t, entry{name: "f"})))
			var tokens atomic.Int64
			srv.meddling(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				switch {
				case r.URL.Path == "/token" && tokens.Add(1) == 1:
					bad(w)
				case r.URL.Path == "/token":
					_, _ = fmt.Fprintf(w, `{"token":"t%d"}`, tokens.Load())
				case r.Header.Get("Authorization") == "":
					w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+srv.host+`/token",service="s"`)
					w.WriteHeader(http.StatusUnauthorized)
				default:
					return false
				}
				return true
			})
			if _, err := openQuick(t, t.TempDir(), quick).Pull(t.Context(), parse(t, srv.host+"/app"), image.PullOptions{}); err != nil {
				t.Error(err)
			}
			if n := tokens.Load(); n != 2 {
				t.Errorf("the token was asked for %d times", n)
			}
		})
	}
}

// A registry that asks to wait is waited for.
func TestPullObeysRetryAfter(t *testing.T) {
	srv := newServer(t)
	srv.push(t, "app", imageOf(t, tarOf(t, entry{name: "f"})))
	var first, second atomic.Int64
	srv.meddling(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		if first.CompareAndSwap(0, time.Now().UnixNano()) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		}
		second.CompareAndSwap(0, time.Now().UnixNano())
		return false
	})
	s := openQuick(t, t.TempDir(), quick)
	if _, err := s.Pull(t.Context(), parse(t, srv.host+"/app"), image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if waited := time.Duration(second.Load() - first.Load()); waited < time.Second {
		t.Errorf("asked again after %v", waited)
	}
}

// The first who asked for a layer goes away: the others get it all the same, of
// the one download.
func TestFirstAskerLeaves(t *testing.T) {
	srv := newServer(t)
	base := tarOf(t, entry{name: "base", data: noise(500_000)})
	for i := range 3 {
		srv.push(t, fmt.Sprint("app", i), imageOf(t, base, tarOf(t, entry{name: fmt.Sprint("top", i)})))
	}
	begun, goOn := make(chan struct{}), make(chan struct{})
	var times atomic.Int64
	srv.meddling(func(w http.ResponseWriter, r *http.Request, h http.Handler) bool {
		blob, ok := isLayer(r, h)
		if !ok || len(blob) < 100_000 {
			return false
		}
		if times.Add(1) == 1 {
			close(begun)
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		for sent := 0; ; sent++ {
			_, _ = w.Write(blob[sent : sent+1])
			w.(http.Flusher).Flush()
			select {
			case <-goOn:
				_, _ = w.Write(blob[sent+1:])
				return true
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	limits := quick
	limits.Stall = 20 * time.Second
	dir := t.TempDir()
	s := openQuick(t, dir, limits)
	ctx, leave := context.WithCancel(t.Context())
	firstErr := make(chan error)
	go func() {
		_, err := s.Pull(ctx, parse(t, srv.host+"/app0"), image.PullOptions{})
		firstErr <- err
	}()
	<-begun
	var wait, joined sync.WaitGroup
	for i := range 2 {
		joined.Add(1)
		var once sync.Once
		wait.Go(func() {
			_, err := s.Pull(t.Context(), parse(t, srv.host+fmt.Sprint("/app", i+1)), image.PullOptions{Progress: func(p image.Progress) {
				if p.Status == image.StatusPulling && p.Total > 100_000 {
					once.Do(joined.Done)
				}
			}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	joined.Wait()
	leave()
	if err := <-firstErr; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	close(goOn)
	wait.Wait()
	if n := times.Load(); n != 1 {
		t.Errorf("the layer was downloaded %d times", n)
	}
	if left := leftovers(t, dir); len(left) != 0 {
		t.Errorf("left in tmp: %v", left)
	}
}

// Everybody goes away: so does the download.
func TestLastAskerLeaves(t *testing.T) {
	srv := newServer(t)
	srv.push(t, "app", imageOf(t, tarOf(t, entry{name: "f", data: noise(500_000)})))
	begun, ended := make(chan struct{}), make(chan struct{})
	srv.meddling(func(w http.ResponseWriter, r *http.Request, h http.Handler) bool {
		blob, ok := isLayer(r, h)
		if !ok {
			return false
		}
		_, _ = w.Write(blob[:1000])
		w.(http.Flusher).Flush()
		close(begun)
		<-r.Context().Done()
		close(ended)
		return true
	})
	dir := t.TempDir()
	limits := quick
	limits.Stall = 20 * time.Second
	s := openQuick(t, dir, limits)
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		<-begun
		leave()
	}()
	if _, err := s.Pull(ctx, parse(t, srv.host+"/app"), image.PullOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the download goes on")
	}
	if left := leftovers(t, dir); len(left) != 0 {
		t.Errorf("left in tmp: %v", left)
	}
	srv.meddle.Store(nil)
	if _, err := s.Pull(t.Context(), parse(t, srv.host+"/app"), image.PullOptions{}); err != nil {
		t.Errorf("the next pull: %v", err)
	}
}

func TestDownloadLimit(t *testing.T) {
	srv := newServer(t)
	srv.push(t, "app", imageOf(t, tarOf(t, entry{name: "f", data: noise(100_000)})))
	limits := quick
	limits.Download = 20_000
	dir := t.TempDir()
	_, err := openQuick(t, dir, limits).Pull(t.Context(), parse(t, srv.host+"/app"), image.PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "20000 bytes") || !strings.Contains(hint.Of(err), "PODRUN_IMAGE_MAX_DOWNLOAD") {
		t.Errorf("%v; %s", err, hint.Of(err))
	}
}

// One registry that sends next to nothing has all the downloads it may: another
// is served all the same, and so is it itself when it wakes.
func TestSlowRegistryHoldsNobodyUp(t *testing.T) {
	slow, quickServer := newServer(t), newServer(t)
	var layers [][]byte
	for i := range 3 {
		layers = append(layers, tarOf(t, entry{name: fmt.Sprint("f", i), data: noise(50_000 + i)}))
	}
	slow.push(t, "app", imageOf(t, layers...))
	quickServer.push(t, "app", imageOf(t, tarOf(t, entry{name: "f"})))
	wake := make(chan struct{})
	var reached sync.WaitGroup
	reached.Add(2)
	var times atomic.Int64
	slow.meddling(func(w http.ResponseWriter, r *http.Request, h http.Handler) bool {
		if _, ok := isLayer(r, h); ok {
			if times.Add(1) <= 2 {
				reached.Done()
			}
			<-wake
		}
		return false
	})
	limits := quick
	limits.Stall, limits.Parallel = time.Minute, 2
	s := openQuick(t, t.TempDir(), limits)
	done := make(chan error)
	go func() {
		_, err := s.Pull(t.Context(), parse(t, slow.host+"/app"), image.PullOptions{})
		done <- err
	}()
	reached.Wait()
	if _, err := s.Pull(t.Context(), parse(t, quickServer.host+"/app"), image.PullOptions{}); err != nil {
		t.Error(err)
	}
	if n := times.Load(); n != 2 {
		t.Errorf("the slow registry has %d downloads, want 2", n)
	}
	close(wake)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
