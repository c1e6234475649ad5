package image

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// pings is a transport that remembers how a registry failed that may be asked by
// HTTPS and by HTTP: of the two errors of the library's ping its callers see one.
type pings struct {
	http.RoundTripper

	mu     sync.Mutex
	failed map[string]error // by scheme; empty when a ping has been answered
}

func newPings(inner http.RoundTripper) *pings {
	return &pings{RoundTripper: inner, failed: map[string]error{}}
}

// RoundTrip sends a request, and looks at what becomes of a ping.
func (p *pings) RoundTrip(in *http.Request) (*http.Response, error) {
	out, err := p.RoundTripper.RoundTrip(in)
	if !strings.HasSuffix(in.URL.Path, "/v2/") {
		return out, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
		p.failed[in.URL.Scheme] = err
	case out.StatusCode == http.StatusOK || out.StatusCode == http.StatusUnauthorized:
		clear(p.failed)
	default:
		p.failed[in.URL.Scheme] = &RegistryError{Registry: in.URL.Host, Status: out.StatusCode}
	}
	return out, err
}

// why is err, or what tells more if both pings have failed.
func (p *pings) why(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	secure, plain := p.failed["https"], p.failed["http"]
	if err == nil || secure == nil || plain == nil {
		return err
	}
	var record tls.RecordHeaderError // of which net/http's client makes ErrSchemeMismatch
	speaksHTTP := errors.As(secure, &record) && string(record.RecordHeader[:]) == "HTTP/"
	answer := answerIn(err)
	switch {
	case answer != nil && (speaksHTTP || answer.Status != http.StatusBadRequest):
		return err
	case speaksHTTP:
		return plain
	case answer != nil, secure.Error() == plain.Error(): // 400 is what a server that speaks TLS has for HTTP
		return secure
	}
	return fmt.Errorf("by HTTPS: %w; by HTTP: %w", secure, plain)
}
