package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
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

func podsPath(namespace string) string {
	if namespace == "" {
		return "/api/v1/pods"
	}
	return "/api/v1/namespaces/" + url.PathEscape(namespace) + "/pods"
}

func podPath(namespace, name string) string {
	return podsPath(namespace) + "/" + url.PathEscape(name)
}

func podrunPath(namespace, name, verb string) string {
	return "/podrun/v1/namespaces/" + url.PathEscape(namespace) + "/pods/" + url.PathEscape(name) + "/" + verb
}

// ListPods lists the pods of a namespace, of all when it is "".
func (c *Client) ListPods(ctx context.Context, namespace string, o metav1.ListOptions) (*corev1.PodList, error) {
	list := new(corev1.PodList)
	return list, c.call(ctx, http.MethodGet, podsPath(namespace), listQuery(o), nil, list)
}

// GetPod returns one pod.
func (c *Client) GetPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	p := new(corev1.Pod)
	return p, c.call(ctx, http.MethodGet, podPath(namespace, name), nil, nil, p)
}

// ApplyPod makes the node's pod what p says. p is the manifest as it was
// written, without defaults.
func (c *Client) ApplyPod(ctx context.Context, p *corev1.Pod) (ApplyResult, error) {
	var result ApplyResult
	err := c.call(ctx, http.MethodPut, podrunPath(p.Namespace, p.Name, "apply"), nil, p, &result)
	return result, err
}

// DeletePod begins the deletion of a pod and returns the pod as it was then; a
// watch from its resource version sees it go.
func (c *Client) DeletePod(ctx context.Context, namespace, name string, o metav1.DeleteOptions) (*corev1.Pod, error) {
	p := new(corev1.Pod)
	return p, c.call(ctx, http.MethodDelete, podPath(namespace, name), nil, o, p)
}

// ListEvents lists the events of a namespace, of all when it is "".
func (c *Client) ListEvents(ctx context.Context, namespace string, o metav1.ListOptions) (*corev1.EventList, error) {
	path := "/api/v1/events"
	if namespace != "" {
		path = "/api/v1/namespaces/" + url.PathEscape(namespace) + "/events"
	}
	list := new(corev1.EventList)
	return list, c.call(ctx, http.MethodGet, path, listQuery(o), nil, list)
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

// Pull pulls an image; progress, if not nil, is called for each step, from the
// calling goroutine.
func (c *Client) Pull(ctx context.Context, ref string, progress func(Progress)) (*Image, error) {
	body, err := c.send(ctx, http.MethodPost, "/podrun/v1/images/pull", nil, PullRequest{Reference: ref})
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	lines := json.NewDecoder(body)
	for {
		var e PullEvent
		if err := lines.Decode(&e); err != nil {
			return nil, body.broken(err)
		}
		switch {
		case e.Error != nil:
			return nil, statusError(*e.Error)
		case e.Image != nil:
			return e.Image, nil
		case e.Progress != nil && progress != nil:
			progress(*e.Progress)
		}
	}
}

// ListImages lists the images of the node's store.
func (c *Client) ListImages(ctx context.Context) ([]Image, error) {
	var list []Image
	err := c.call(ctx, http.MethodGet, "/podrun/v1/images", nil, nil, &list)
	return list, err
}

// RemoveImage removes a name of an image, and the image with its last name. It
// returns what was done in docker's words, a line each.
func (c *Client) RemoveImage(ctx context.Context, nameOrID string, force bool) ([]string, error) {
	q := url.Values{}
	if force {
		q.Set("force", "1")
	}
	var r removed
	err := c.call(ctx, http.MethodDelete, "/podrun/v1/images/"+url.PathEscape(nameOrID), q, nil, &r)
	return r.Removed, err
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

func listQuery(o metav1.ListOptions) url.Values {
	q := url.Values{}
	if o.LabelSelector != "" {
		q.Set("labelSelector", o.LabelSelector)
	}
	if o.FieldSelector != "" {
		q.Set("fieldSelector", o.FieldSelector)
	}
	return q
}

// PodWatch is a stream of changes of pods. It is not safe for concurrent use.
type PodWatch struct {
	body  *responseBody
	lines *json.Decoder
}

// WatchPods watches the pods of a namespace, of all when it is "", from
// o.ResourceVersion on. The caller closes the watch.
func (c *Client) WatchPods(ctx context.Context, namespace string, o metav1.ListOptions) (*PodWatch, error) {
	q := listQuery(o)
	q.Set("watch", "1")
	if o.ResourceVersion != "" {
		q.Set("resourceVersion", o.ResourceVersion)
	}
	body, err := c.send(ctx, http.MethodGet, podsPath(namespace), q, nil)
	if err != nil {
		return nil, err
	}
	return &PodWatch{body: body, lines: json.NewDecoder(body)}, nil
}

// Next blocks until a pod changes. An error that the node sent, such as one of
// a resource version that is too old, is a Kubernetes API error; any other is
// an *InterruptedError.
func (w *PodWatch) Next() (watch.EventType, *corev1.Pod, error) {
	var frame struct {
		Type   watch.EventType `json:"type"`
		Object json.RawMessage `json:"object"`
	}
	if err := w.lines.Decode(&frame); err != nil {
		return "", nil, w.body.broken(err)
	}
	if frame.Type == watch.Error {
		var s metav1.Status
		if err := json.Unmarshal(frame.Object, &s); err != nil {
			return "", nil, fmt.Errorf("answer of the node: %w", err)
		}
		return "", nil, statusError(s)
	}
	p := new(corev1.Pod)
	if err := json.Unmarshal(frame.Object, p); err != nil {
		return "", nil, fmt.Errorf("answer of the node: %w", err)
	}
	return frame.Type, p, nil
}

// Close ends the watch.
func (w *PodWatch) Close() error { return w.body.Close() }
