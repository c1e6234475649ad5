package image

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// How often a request is sent depends on how it fails: a registry that starts
// again, or that nobody can reach, does not hold up a pull that has other places
// to ask.
func TestTriesOfARequest(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	_, silent := (&net.Dialer{Timeout: time.Nanosecond}).Dial("tcp", listener.Addr().String())
	for _, c := range []struct {
		name string
		err  error
		want int
	}{
		{"nobody answers", silent, silentTries},
		{"refused", &net.OpError{Op: "dial", Err: unix.ECONNREFUSED}, refusedTries},
		{"no such host", &net.DNSError{IsNotFound: true}, 1},
		{"a stall", &stalledError{time.Second}, maxTries},
		{"a cut", &net.OpError{Op: "read", Err: unix.ECONNRESET}, maxTries},
	} {
		n := 0
		r := &retrier{log: slog.New(slog.DiscardHandler), patience: patience{pause: time.Microsecond}.orDefault(), inner: roundTripper(func(*http.Request) (*http.Response, error) {
			n++
			return nil, c.err
		})}
		request, err := http.NewRequest(http.MethodGet, "http://reg.example/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.RoundTrip(request); !errors.Is(err, c.err) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.err)
		}
		if n != c.want {
			t.Errorf("%s: sent %d times, want %d", c.name, n, c.want)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip calls f.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
