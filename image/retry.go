package image

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"
)

// How a registry that does not answer well is asked again.
const (
	maxTries      = 5                      // of one request, and of one stretch of a blob
	refusedTries  = 3                      // of a connection that is refused: a registry that starts again is soon there
	silentTries   = 2                      // of a connection that nobody answers: by dialTimeout the kernel has asked five times
	firstPause    = 250 * time.Millisecond // doubled with each try
	maxPause      = 8 * time.Second
	maxRetryAfter = time.Minute // a registry that asks for a longer wait has said no
	dialTimeout   = 15 * time.Second
	stallTimeout  = 30 * time.Second // without a byte a connection is given up
	commitTimeout = 5 * time.Minute  // a registry may at most take so long to put away what was sent to it
	maxErrorBody  = 64 << 10         // bytes of an answer that tells of an error
)

// patience is how long a wire goes on asking; tests have less of it.
type patience struct {
	stall, pause time.Duration
	tries        int
}

func (p patience) orDefault() patience {
	if p.stall <= 0 {
		p.stall = stallTimeout
	}
	if p.pause <= 0 {
		p.pause = firstPause
	}
	if p.tries <= 0 {
		p.tries = maxTries
	}
	return p
}

// after is the pause before the next try, with a fifth of chance in it so that
// many who failed together do not come back together.
func (p patience) after(try int) time.Duration {
	pause := min(p.pause<<min(try-1, 16), maxPause)
	return pause - time.Duration(rand.Int64N(int64(pause)/5+1))
}

// retrier is a transport that asks again where that may help, and gives up a
// connection on which nothing moves. It is safe for concurrent use.
//
// Answers to requests that are not marked by asStream are small: they are read
// to their end here, so that a cut in them is mended here too.
type retrier struct {
	inner http.RoundTripper
	patience
	log *slog.Logger
}

type streamKey struct{}

// asStream marks the requests whose answer is read by blob, which mends cuts.
func asStream(ctx context.Context) context.Context {
	return context.WithValue(ctx, streamKey{}, true)
}

// stalledError is the end of a connection on which nothing moved.
type stalledError struct{ after time.Duration }

func (e *stalledError) Error() string { return fmt.Sprintf("nothing came for %v", e.after) }

// RoundTrip sends a request, again if need be. An answer that tells of the
// registry's own trouble and stays so is returned as a *RegistryError.
func (t *retrier) RoundTrip(in *http.Request) (*http.Response, error) {
	for try := 1; ; try++ {
		out, err := t.once(in, try)
		var answer *RegistryError
		wait, again := time.Duration(0), false
		switch {
		case err == nil && !troubled(out.StatusCode):
			return out, nil
		case err == nil:
			answer = readAnswer(out)
			answer.Registry, answer.Tries = in.URL.Host, try
			err = answer
			again = repeatable(in) || answer.Status == http.StatusTooManyRequests || answer.Status == http.StatusServiceUnavailable
		default:
			again = repeatable(in) && try < t.triesOf(err)
		}
		wait = t.after(try)
		if answer != nil {
			wait = max(wait, answer.After)
		}
		if !again || try >= t.tries || wait > maxRetryAfter || !rewind(in) || in.Context().Err() != nil {
			return nil, err
		}
		t.log.Info("registry is asked again", "registry", in.URL.Host, "attempt", try, "wait", wait, "err", err)
		if err := pause(in.Context(), wait); err != nil {
			return nil, err
		}
	}
}

// pause waits, or returns the cause when ctx ends first.
func pause(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// troubled tells whether a status says that another try may succeed.
func troubled(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// repeatable tells whether a request may be sent twice: it only reads, or asks
// for a token.
func repeatable(in *http.Request) bool {
	return in.Method == http.MethodGet || in.Method == http.MethodHead ||
		in.Method == http.MethodPost && in.Header.Get("Content-Type") == "application/x-www-form-urlencoded"
}

// rewind tells whether the body of a request can be sent once more.
func rewind(in *http.Request) bool {
	return in.Body == nil || in.Body == http.NoBody || in.GetBody != nil
}

// triesOf is how often a request is sent that fails so.
func (p patience) triesOf(err error) int {
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.As(err, &certificate), isAlert(err), errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch), errors.Is(err, errTooLarge):
		return 1
	case errors.As(err, &dns) && dns.IsNotFound:
		return 1
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return min(refusedTries, p.tries)
	case errors.As(err, &op) && op.Op == "dial" && op.Timeout():
		return min(silentTries, p.tries)
	}
	return p.tries
}

// isAlert tells whether the other end broke off TLS, as it does without a
// client certificate that it wants.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// once sends a request and watches it.
func (t *retrier) once(in *http.Request, try int) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(in.Context())
	request := in.Clone(ctx)
	w := newWatch(t.stall, cancel)
	switch {
	case in.Body != nil && in.Body != http.NoBody:
		body := in.Body
		if try > 1 {
			var err error
			if body, err = in.GetBody(); err != nil {
				w.timer.Stop()
				cancel(nil)
				return nil, err
			}
		}
		request.Body = &sent{ReadCloser: body, watch: w, commit: t.commit(in)}
	case in.Method == http.MethodPut: // of what has been sent before
		w.become(t.commit(in))
	}
	out, err := t.inner.RoundTrip(request)
	w.timer.Stop()
	if err != nil {
		err = t.whyEnded(ctx, err)
		cancel(nil)
		return nil, err
	}
	w = newWatch(t.stall, cancel)
	w.timer.Stop() // until somebody reads
	out.Body = &watched{ReadCloser: out.Body, watch: w, why: func(err error) error { return t.whyEnded(ctx, err) }, end: func() { w.timer.Stop(); cancel(nil) }}
	if in.Context().Value(streamKey{}) != nil || in.Method == http.MethodHead || out.StatusCode >= 300 {
		return out, nil
	}
	data, err := readAll(out.Body, maxDocument)
	if err := errors.Join(err, out.Body.Close()); err != nil {
		return nil, err
	}
	out.Body = io.NopCloser(bytes.NewReader(data))
	return out, nil
}

// commit is how long the answer may take to a request of which all is sent: to
// put away what is sent takes the longer the more it is, and to end an upload, or
// to check a manifest, as long as the whole blob or image wants.
func (t *retrier) commit(in *http.Request) time.Duration {
	if in.Method == http.MethodPut || in.ContentLength < 0 {
		return max(t.stall, commitTimeout)
	}
	return t.stall + min(commitTimeout, time.Duration(in.ContentLength/slowRate)*time.Second)
}

// whyEnded is the cause of an error when we ended the connection ourselves, or
// the kernel did for us.
func (t *retrier) whyEnded(ctx context.Context, err error) error {
	var stalled *stalledError
	if errors.As(context.Cause(ctx), &stalled) {
		return stalled
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op != "dial" && errors.Is(err, syscall.ETIMEDOUT) {
		return &stalledError{t.stall}
	}
	return err
}

var errTooLarge = errors.New("larger than podrun takes")

// readAll reads up to limit bytes; more is errTooLarge.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("answer is over %d bytes: %w", limit, errTooLarge)
	}
	return data, err
}

// readAnswer reads an answer that tells of an error, and closes it.
func readAnswer(out *http.Response) *RegistryError {
	e := &RegistryError{Status: out.StatusCode, After: retryAfter(out.Header.Get("Retry-After"), time.Now())}
	var body struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	data, _ := io.ReadAll(io.LimitReader(out.Body, maxErrorBody))
	_ = out.Body.Close()
	if json.Unmarshal(data, &body) == nil && len(body.Errors) > 0 {
		e.Code, e.Message = printable(body.Errors[0].Code), printable(body.Errors[0].Message)
	}
	return e
}

// printable is what may stand on a terminal of s, the words of somebody else.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(min(max(seconds, 0), 1<<30)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// watch ends a connection on which nothing moves.
type watch struct {
	timer *time.Timer
	after atomic.Int64 // a time.Duration
}

func newWatch(after time.Duration, cancel context.CancelCauseFunc) *watch {
	w := &watch{}
	w.after.Store(int64(after))
	w.timer = time.AfterFunc(after, func() { cancel(&stalledError{time.Duration(w.after.Load())}) })
	return w
}

func (w *watch) move() { w.timer.Reset(time.Duration(w.after.Load())) }

// become has w wait for another time, from now on.
func (w *watch) become(after time.Duration) {
	w.after.Store(int64(after))
	w.move()
}

// watched is an answer's body, whose bytes are movement. A reader that is slow
// itself is not the registry's fault: the time counts only while it reads.
type watched struct {
	io.ReadCloser
	*watch
	why  func(error) error
	end  func()
	once sync.Once
}

// Read counts as movement.
func (b *watched) Read(p []byte) (int, error) {
	b.move()
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && err != io.EOF {
		err = b.why(err)
	}
	return n, err
}

// Close ends the request.
func (b *watched) Close() error {
	err := b.ReadCloser.Close()
	b.once.Do(b.end)
	return err
}

// sent is what we send. That more of it is wanted is movement; when all of it is
// on its way, the registry may take the time that a commit takes. What the kernel
// still has then is watched by the kernel: see impatient.
type sent struct {
	io.ReadCloser
	*watch
	commit time.Duration
}

// Read counts as movement.
func (b *sent) Read(p []byte) (int, error) {
	b.move()
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.become(b.commit)
	} else {
		b.move()
	}
	return n, err
}
