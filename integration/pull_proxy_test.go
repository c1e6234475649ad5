package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// proxy stands between podrun and a registry, and does to each answer what a
// script says.
type proxy struct {
	*httptest.Server
	address  string // host:port
	upstream string
	script   func(ask) harm

	mu    sync.Mutex
	asked map[string]int // how often, by method and path
}

// ask is a request that the proxy got.
type ask struct {
	*http.Request
	kind  string // ping, manifest, config or layer
	times int    // how often this was asked for, this time included
	bytes int    // how much the registry has of it
}

// harm is what is done to an answer; the zero value is nothing.
type harm struct {
	status  int // answered instead of asking the registry, with headers
	headers map[string]string
	// The body: changed, announced with another length than it has or with none,
	// sent in pieces with a pause between, cut off or stopped after so many bytes.
	change      func([]byte) []byte
	announce    int
	noLength    bool
	pause       time.Duration // before each 16 KiB
	cut         int
	stall       int
	ignoreRange bool
}

// newProxy starts a proxy before the registry at address upstream.
func newProxy(t *testing.T, upstream string, script func(ask) harm) *proxy {
	p := &proxy{upstream: upstream, script: script, asked: map[string]int{}}
	p.Server = httptest.NewServer(p)
	p.address = strings.TrimPrefix(p.URL, "http://")
	t.Cleanup(p.Close)
	return p
}

// times tells how often something was asked for whose path has part in it.
func (p *proxy) times(part string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for path, times := range p.asked {
		if strings.Contains(path, part) {
			n += times
		}
	}
	return n
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked[r.Method+" "+r.URL.Path]++
	a := ask{Request: r, kind: "ping", times: p.asked[r.Method+" "+r.URL.Path]}
	p.mu.Unlock()
	answer, whole, err := p.get(r, false)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	a.bytes = len(whole)
	switch {
	case strings.Contains(r.URL.Path, "/manifests/"):
		a.kind = "manifest"
	case strings.Contains(r.URL.Path, "/blobs/") && bytes.HasPrefix(whole, []byte("{")):
		a.kind = "config"
	case strings.Contains(r.URL.Path, "/blobs/"):
		a.kind = "layer"
	}
	h := p.script(a)
	for name, value := range h.headers {
		w.Header().Set(name, value)
	}
	if h.status != 0 {
		w.WriteHeader(h.status)
		return
	}
	body := whole
	if r.Header.Get("Range") != "" && !h.ignoreRange {
		if answer, body, err = p.get(r, true); err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
	}
	for _, name := range []string{"Content-Type", "Docker-Content-Digest", "Content-Range", "WWW-Authenticate"} {
		if v := answer.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	p.send(w, r, answer.StatusCode, bytes.Clone(body), h)
}

// get asks the registry, for a part if the request is for one and ranged.
func (p *proxy) get(r *http.Request, ranged bool) (*http.Response, []byte, error) {
	request, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+p.upstream+r.URL.RequestURI(), nil)
	if err != nil {
		return nil, nil, err
	}
	request.Header = r.Header.Clone()
	if !ranged {
		request.Header.Del("Range")
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	return answer, body, err
}

func (p *proxy) send(w http.ResponseWriter, r *http.Request, status int, body []byte, h harm) {
	if h.change != nil && r.Method == http.MethodGet {
		body = h.change(body)
	}
	switch {
	case h.noLength || r.Method == http.MethodHead:
	case h.announce > 0:
		w.Header().Set("Content-Length", fmt.Sprint(h.announce))
	default:
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	}
	w.WriteHeader(status)
	flush := w.(http.Flusher).Flush
	flush()
	end := len(body)
	if h.cut > 0 {
		end = min(end, h.cut)
	}
	if h.stall > 0 {
		end = min(end, h.stall)
	}
	const piece = 16 << 10
	for at := 0; at < end; at += piece {
		if h.pause > 0 {
			select {
			case <-time.After(h.pause):
			case <-r.Context().Done():
				return
			}
		}
		if _, err := w.Write(body[at:min(at+piece, end)]); err != nil {
			return
		}
		flush()
	}
	if h.stall > 0 {
		<-r.Context().Done()
	}
	if h.cut > 0 {
		panic(http.ErrAbortHandler) // net/http ends the connection
	}
}
