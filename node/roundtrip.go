package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/internal/hint"
)

// The client writes HTTP/1.1 itself instead of through http.Transport: one
// write, one read, no goroutine, and descriptors can travel with a request.

// maxTries is how often a request is made when each time the node dies over it,
// and to make it again does no harm.
const maxTries = 3

// InterruptedError says that the connection ended before the answer did: the
// node died, or was stopped. The reaper starts it again; what was asked may or
// may not have been done.
type InterruptedError struct{ Cause error }

func (e *InterruptedError) Error() string {
	return fmt.Sprintf("the node ended the connection: %v", e.Cause)
}

// Unwrap returns the cause.
func (e *InterruptedError) Unwrap() error { return e.Cause }

// clientConn is a connection with what was read ahead of it.
type clientConn struct {
	*net.UnixConn
	r    *bufio.Reader
	used bool
}

// dial connects to the node, launching it if the client may.
func (c *Client) dial(ctx context.Context) (*clientConn, error) {
	conn, err := dialSocket(ctx, c.paths.Socket)
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNREFUSED) {
		return conn, err
	}
	if !c.start {
		return nil, ErrNotRunning
	}
	if err := Launch(ctx, c.paths); err != nil {
		return nil, err
	}
	return dialSocket(ctx, c.paths.Socket)
}

func dialSocket(ctx context.Context, path string) (*clientConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to the node: %w", err)
	}
	return &clientConn{UnixConn: conn.(*net.UnixConn), r: bufio.NewReader(conn)}, nil
}

// call makes a request and decodes the answer into out, if that is not nil.
func (c *Client) call(ctx context.Context, method, path string, q url.Values, in, out any) error {
	body, err := c.send(ctx, method, path, q, in)
	if err != nil {
		return err
	}
	return body.decode(out)
}

// send makes a request with in as its JSON body and files beside it, and
// returns the body of a good answer, which the caller closes. Any other answer
// is the error it holds. The end of ctx ends the connection.
func (c *Client) send(ctx context.Context, method, path string, q url.Values, in any, files ...*os.File) (*responseBody, error) {
	var payload []byte
	if in != nil {
		var err error
		if payload, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	var conn *clientConn
	for attempt := 1; ; attempt++ {
		var err error
		if conn, err = c.acquire(ctx); err != nil {
			return nil, err
		}
		reused := conn.used
		body, err := conn.exchange(ctx, method, path, q, payload, files)
		if err == nil {
			body.client = c
			return body, body.status()
		}
		_ = conn.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		// A node that died or was replaced while the connection was idle has
		// not seen the request; nor has one that ended the connection with a
		// part of it unread, as a node that is killed does with all that come
		// before its socket is closed (unix_release_sock in net/unix). And to
		// read does no harm twice. The next node is asked, on a new connection.
		unread := errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)
		harmless := method == http.MethodGet || unread
		if !unread && !errors.Is(err, io.EOF) || !reused && (!harmless || attempt == maxTries) {
			return nil, &InterruptedError{err}
		}
	}
}

func (c *Client) acquire(ctx context.Context) (*clientConn, error) {
	select {
	case conn := <-c.idle:
		return conn, nil
	default:
		return c.dial(ctx)
	}
}

// exchange writes a request and reads the head of the answer. io.EOF means that
// not one byte of an answer came.
func (conn *clientConn) exchange(ctx context.Context, method, path string, q url.Values, payload []byte, files []*os.File) (*responseBody, error) {
	conn.used = true
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	var head bytes.Buffer
	fmt.Fprintf(&head, "%s %s", method, path)
	if len(q) > 0 {
		head.WriteString("?" + q.Encode())
	}
	fmt.Fprintf(&head, " HTTP/1.1\r\nHost: podrun\r\nContent-Length: %d\r\n", len(payload))
	switch {
	case len(payload) == 0:
	case method == http.MethodPatch:
		head.WriteString("Content-Type: " + mergePatch + "\r\n")
	default:
		head.WriteString("Content-Type: application/json\r\n")
	}
	head.WriteString("\r\n")
	head.Write(payload)
	err := conn.write(head.Bytes(), files)
	if err == nil {
		_, err = conn.r.Peek(1)
	}
	var response *http.Response
	if err == nil {
		response, err = http.ReadResponse(conn.r, &http.Request{Method: method})
	}
	if err != nil {
		stop()
		return nil, err
	}
	return &responseBody{ctx: ctx, conn: conn, stop: stop, Response: response}, nil
}

func (conn *clientConn) write(request []byte, files []*os.File) error {
	if len(files) > 0 {
		if err := SendFiles(conn.UnixConn, files...); err != nil {
			return err
		}
	}
	_, err := conn.Write(request)
	return err
}

// responseBody reads the body of an answer. When it was read to its end, Close
// keeps the connection for the next request; else it ends the connection, which
// is how a watch or a program is ended.
type responseBody struct {
	*http.Response
	ctx     context.Context // of the request; not longer than the body lives
	client  *Client
	conn    *clientConn
	stop    func() bool
	drained bool
}

// Read reads the body.
func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.Body.Read(p)
	if errors.Is(err, io.EOF) {
		b.drained = true
	}
	return n, err
}

// Close may be called twice.
func (b *responseBody) Close() error {
	if b.conn == nil {
		return nil
	}
	conn := b.conn
	b.conn = nil
	if !b.stop() || !b.drained || b.Response.Close {
		return conn.Close()
	}
	select {
	case b.client.idle <- conn:
		return nil
	default:
		return conn.Close()
	}
}

// decode reads the whole body into out, if that is not nil, and closes it.
func (b *responseBody) decode(out any) error {
	defer func() { _ = b.Close() }()
	data, err := io.ReadAll(b)
	if err != nil {
		return b.broken(err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("answer of the node: %w", err)
	}
	return nil
}

// status returns nil for a good answer. Else it closes the body and returns
// the error in it.
func (b *responseBody) status() error {
	if b.StatusCode < 300 {
		return nil
	}
	var s metav1.Status
	if err := b.decode(&s); err != nil || s.Message == "" {
		return fmt.Errorf("answer of the node: %s", b.Response.Status)
	}
	return statusError(s)
}

// broken is what err, of reading the body, means to the caller.
func (b *responseBody) broken(err error) error {
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &InterruptedError{err}
}

// statusError makes an error of an answer; a mend in it becomes a hint.
func statusError(s metav1.Status) error {
	mend := ""
	if s.Details != nil {
		var causes []metav1.StatusCause
		for _, c := range s.Details.Causes {
			if c.Type == causeMend {
				mend = c.Message
			} else {
				causes = append(causes, c)
			}
		}
		s.Details.Causes = causes
	}
	return hint.Wrap(&apierrors.StatusError{ErrStatus: s}, mend)
}
