package image_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"get.podrun.dev/podrun/image"
)

// net/http goes on reading what it sends when the answer has come already:
// nobody is told of that.
func TestPushReportsNothingAfterItsEnd(t *testing.T) {
	t.Parallel()
	srv, other := newServer(t), newServer(t)
	srv.push(t, "app", imageOf(t, tarOf(t, entry{name: "f", data: noise(4_000_000)})))
	s := openQuick(t, t.TempDir(), quick)
	img, err := s.Pull(t.Context(), parse(t, srv.host+"/app"), image.PullOptions{Content: true})
	if err != nil {
		t.Fatal(err)
	}
	ref := parse(t, other.host+"/app")
	if err := s.Tag(string(img.ID), ref); err != nil {
		t.Fatal(err)
	}
	other.meddling(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
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
	_, err = s.Push(t.Context(), ref, image.PushOptions{Progress: func(image.Progress) {
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
