package integration

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// trouble is what happens to a request of a push on its way to the registry.
type trouble struct {
	status  int // answered instead of the registry, with headers
	headers map[string]string
	half    bool          // the connection ends when half of the body has come
	cut     bool          // the connection ends, and the registry hears nothing
	lost    bool          // the registry does what it is asked, and its answer is lost
	stall   bool          // a little of the body is taken, and then nothing
	slow    time.Duration // all of the body is taken, and the registry has it so much later
}

// hinder starts a proxy before the registry at address upstream, which does to
// each request what script says. It returns its address.
func hinder(t *testing.T, upstream string, script func(*http.Request) trouble) string {
	through := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: upstream})
	through.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	end := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d := script(r)
		switch {
		case d.status != 0:
			for key, value := range d.headers {
				w.Header().Set(key, value)
			}
			w.WriteHeader(d.status)
			return
		case d.half:
			_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
			panic(http.ErrAbortHandler)
		case d.cut:
			panic(http.ErrAbortHandler)
		case d.lost:
			through.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		case d.stall:
			_, _ = io.CopyN(io.Discard, r.Body, 1000)
			<-end
			panic(http.ErrAbortHandler)
		case d.slow != 0:
			data, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			time.Sleep(d.slow)
			r.Body = io.NopCloser(bytes.NewReader(data))
		}
		through.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(end) })
	return strings.TrimPrefix(server.URL, "http://")
}

// stepOf is which step of a push a request is: ask, begin, send or end of a
// blob, or the manifest. To send the config, which is small, is another step.
func stepOf(r *http.Request) string {
	switch {
	case r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/"):
		return "manifest"
	case r.Method == http.MethodHead:
		return "ask"
	case r.Method == http.MethodPatch && r.ContentLength < 64<<10:
		return "config"
	}
	return map[string]string{http.MethodPost: "begin", http.MethodPatch: "send", http.MethodPut: "end"}[r.Method]
}

// pushFault is a push during which something goes wrong.
type pushFault struct {
	name, step string
	times      int64 // how often it goes wrong
	trouble    trouble
	want       string // what the line says; "" for a whole image
}

const always = 1 << 20

// TestPushFaults: whatever a registry does wrong while an image is pushed, the
// push ends with the whole image there, or with one line that says what was
// wrong and no image under the name.
func TestPushFaults(t *testing.T) {
	t.Parallel()
	newEnv(t).pushThrough([]pushFault{
		{"503-ask", "ask", 2, trouble{status: 503}, ""},
		{"503-begin", "begin", 2, trouble{status: 503}, ""},
		{"503-send", "send", 2, trouble{status: 503}, ""},
		{"500-begin", "begin", 1, trouble{status: 500}, ""},
		{"500-send", "send", 2, trouble{status: 500}, ""},
		{"500-end", "end", 1, trouble{status: 500}, ""},
		{"502-manifest", "manifest", 2, trouble{status: 502}, ""},
		{"429-begin", "begin", 1, trouble{status: 429, headers: map[string]string{"Retry-After": "1"}}, ""},
		{"cut-ask", "ask", 1, trouble{cut: true}, ""},
		{"cut-begin", "begin", 2, trouble{cut: true}, ""},
		{"cut-send", "send", 1, trouble{cut: true}, ""},
		{"half-send", "send", 2, trouble{half: true}, ""},
		{"half-manifest", "manifest", 1, trouble{half: true}, ""},
		{"lost-begin", "begin", 1, trouble{lost: true}, ""},
		{"lost-send", "send", 1, trouble{lost: true}, ""},
		{"lost-end", "end", 1, trouble{lost: true}, ""},
		{"lost-manifest", "manifest", 1, trouble{lost: true}, ""},
		{"500-always", "send", always, trouble{status: 500}, "answered 500 Internal Server Error"},
		{"cut-always", "end", always, trouble{cut: true}, "registry 127.0.0.1:"},
		{"429-long", "begin", always, trouble{status: 429, headers: map[string]string{"Retry-After": "3600"}}, "asks to come again in 1h0m0s"},
		{"400-manifest", "manifest", always, trouble{status: 400}, "answered 400 Bad Request"},
		{"507-send", "send", always, trouble{status: 507}, "answered 507 Insufficient Storage"},
	})
}

// TestPushStalls: a registry that takes no more bytes is given up as one that
// sends no more; one that only answers late is waited for, and sent nothing twice.
func TestPushStalls(t *testing.T) {
	t.Parallel()
	newEnv(t, "PODRUN_PULL_TIMEOUT=1s").pushThrough([]pushFault{
		{"stall-send", "send", 1, trouble{stall: true}, ""},
		{"stall-config", "config", 1, trouble{stall: true}, ""},
		{"stall-always", "send", always, trouble{stall: true}, "nothing came for 1s"},
		{"slow-send", "send", 1, trouble{slow: 3 * time.Second}, ""},
		{"slow-end", "end", 1, trouble{slow: 3 * time.Second}, ""},
		{"slow-manifest", "manifest", 1, trouble{slow: 3 * time.Second}, ""},
	})
}

// pushThrough pushes an image through each of these faults, all at once.
func (e *env) pushThrough(list []pushFault) {
	t := e.t
	t.Helper()
	e.ok("pull", "-q", "busybox")
	var all sync.WaitGroup
	for _, tt := range list {
		var met atomic.Int64
		address := hinder(t, images.Address, func(r *http.Request) trouble {
			if stepOf(r) != tt.step || met.Add(1) > tt.times {
				return trouble{}
			}
			return tt.trouble
		})
		repository := "push-fault/" + tt.name
		e.ok("tag", "busybox", address+"/"+repository+":v1")
		all.Go(func() {
			out, err := e.command("push", "--quiet", address+"/"+repository+":v1").CombinedOutput()
			line := string(out)
			n, most := met.Load(), int64(always)
			if tt.trouble.slow != 0 {
				most = map[string]int64{"send": 1, "end": 2, "manifest": 1}[tt.step]
			}
			// What the registry took, though its answer was lost or late, is not sent again.
			if n == 0 || n > most || tt.want == "" && !tt.trouble.lost && tt.trouble.slow == 0 && n <= tt.times {
				t.Errorf("%s: met %d times", tt.name, n)
			}
			problem := wholeAt(images.Address + "/" + repository + ":v1")
			switch {
			case tt.want == "" && (err != nil || problem != nil):
				t.Errorf("%s: %v: %s; in the registry: %v", tt.name, err, line, problem)
			case tt.want == "":
			case err == nil || !strings.Contains(line, tt.want) || strings.Count(line, "\n") != 1 || !strings.HasPrefix(line, "podrun: cannot push "):
				t.Errorf("%s: want %q, got %v: %s", tt.name, tt.want, err, line)
			case problem == nil:
				t.Errorf("%s: the registry has the image", tt.name)
			}
		})
	}
	all.Wait()
}

// wholeAt tells what is wrong with an image in a registry, all its bytes read.
func wholeAt(image string) error {
	ref, err := name.ParseReference(image, name.Insecure)
	if err != nil {
		return err
	}
	img, err := remote.Image(ref)
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		r, err := l.Compressed() // which compares size and digest
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	_, err = img.ConfigFile()
	return err
}
