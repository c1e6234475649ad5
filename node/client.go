package node

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Client speaks to a node over its socket. Errors that the node answers with
// are Kubernetes API errors (apierrors.IsNotFound and its like know them) and
// carry the node's mend as a hint. Safe for concurrent use: each request in
// flight has a connection of its own, and one idle connection is kept.
type Client struct {
	paths Paths
	start bool
	idle  chan *clientConn // holds at most one
}

// ErrNotRunning says that no node answers and none was to be started.
var ErrNotRunning = errors.New("no node is running")

// Connect returns a client of the node at paths. When none answers, it launches
// one if start is set, and fails with ErrNotRunning if not. The caller closes
// the client.
func Connect(ctx context.Context, paths Paths, start bool) (*Client, error) {
	c := &Client{paths: paths, start: start, idle: make(chan *clientConn, 1)}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	c.idle <- conn
	return c, nil
}

// Close ends the idle connection. Requests in flight are ended by their
// context, not by Close.
func (c *Client) Close() error {
	select {
	case conn := <-c.idle:
		return conn.Close()
	default:
		return nil
	}
}

func podPath(namespace, name string) string {
	return "/api/v1/namespaces/" + url.PathEscape(namespace) + "/pods/" + url.PathEscape(name)
}

func podrunPath(namespace, name, verb string) string {
	return "/podrun/v1/namespaces/" + url.PathEscape(namespace) + "/pods/" + url.PathEscape(name) + "/" + verb
}

// Logs returns a container's log as it is stored, and with o.Follow as it
// grows. The caller closes it.
func (c *Client) Logs(ctx context.Context, namespace, name string, o corev1.PodLogOptions) (io.ReadCloser, error) {
	q := url.Values{}
	set := func(name, value string, is bool) {
		if is {
			q.Set(name, value)
		}
	}
	number := func(name string, n *int64) {
		if n != nil {
			q.Set(name, strconv.FormatInt(*n, 10))
		}
	}
	set("container", o.Container, o.Container != "")
	set("follow", "true", o.Follow)
	set("previous", "true", o.Previous)
	set("timestamps", "true", o.Timestamps)
	number("tailLines", o.TailLines)
	number("sinceSeconds", o.SinceSeconds)
	number("limitBytes", o.LimitBytes)
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.UTC().Format(time.RFC3339Nano))
	}
	return c.send(ctx, http.MethodGet, podPath(namespace, name)+"/log", q, nil)
}

// Exec runs a program in a container and returns when it has ended. The files
// go to the node with the request; the caller keeps its own. The program is
// killed when ctx ends.
func (c *Client) Exec(ctx context.Context, namespace, name string, r ExecRequest, stdin, stdout, stderr *os.File) (ExecResult, error) {
	var result ExecResult
	body, err := c.send(ctx, http.MethodPost, podrunPath(namespace, name, "exec"), nil, r, stdin, stdout, stderr)
	if err != nil {
		return result, err
	}
	return result, body.decode(&result)
}

// Resize tells the size of the terminal of an exec or an attach.
func (c *Client) Resize(ctx context.Context, id string, s Size) error {
	return c.call(ctx, http.MethodPost, "/podrun/v1/terminals/"+url.PathEscape(id)+"/resize", nil, s, nil)
}

// ListContainers lists the containers that run, with all also those that ended.
func (c *Client) ListContainers(ctx context.Context, all bool) ([]Container, error) {
	q := url.Values{}
	if all {
		q.Set("all", "1")
	}
	var list []Container
	err := c.call(ctx, http.MethodGet, "/podrun/v1/containers", q, nil, &list)
	return list, err
}

// StopContainer stops a container named by id, the beginning of one, or
// [NAMESPACE/]POD/CONTAINER, and returns its full id when it has ended.
func (c *Client) StopContainer(ctx context.Context, ref string, grace time.Duration) (id string, err error) {
	q := url.Values{"grace": {strconv.FormatInt(int64(grace.Seconds()), 10)}}
	var s stopped
	err = c.call(ctx, http.MethodPost, "/podrun/v1/containers/"+url.PathEscape(ref)+"/stop", q, nil, &s)
	return s.ID, err
}

// Version returns the node's version.
func (c *Client) Version(ctx context.Context) (VersionInfo, error) {
	var v VersionInfo
	err := c.call(ctx, http.MethodGet, "/podrun/v1/version", nil, nil, &v)
	return v, err
}

// Doctor returns what the node found when it tried what it needs.
func (c *Client) Doctor(ctx context.Context) ([]Check, error) {
	var checks []Check
	err := c.call(ctx, http.MethodGet, "/podrun/v1/doctor", nil, nil, &checks)
	return checks, err
}
