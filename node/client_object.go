package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"get.podrun.dev/podrun/pod"
)

// List is the answer to a list: objects of one kind as they were at a
// resource version.
type List struct {
	ResourceVersion string
	Items           []pod.Value
}

// collection is where the objects of a kind are; namespace "" stands for all.
func collection(kind *pod.Kind, namespace string) string {
	if namespace == "" || !kind.Namespaced {
		return "/v1/" + kind.Resource
	}
	return "/v1/namespaces/" + url.PathEscape(namespace) + "/" + kind.Resource
}

func apiPath(kind *pod.Kind, namespace, name string) string {
	return "/api" + collection(kind, namespace) + "/" + url.PathEscape(name)
}

// List lists the objects of a kind in a namespace, in all when it is "".
func (c *Client) List(ctx context.Context, kind *pod.Kind, namespace string, o metav1.ListOptions) (*List, error) {
	var answer struct {
		Metadata metav1.ListMeta   `json:"metadata"`
		Items    []json.RawMessage `json:"items"`
	}
	if err := c.call(ctx, http.MethodGet, "/api"+collection(kind, namespace), listQuery(o), nil, &answer); err != nil {
		return nil, err
	}
	list := &List{ResourceVersion: answer.Metadata.ResourceVersion, Items: make([]pod.Value, len(answer.Items))}
	for i, item := range answer.Items {
		var err error
		if list.Items[i], err = kind.Decode(item); err != nil {
			return nil, fmt.Errorf("answer of the node: %w", err)
		}
	}
	return list, nil
}

// Get returns one object.
func (c *Client) Get(ctx context.Context, kind *pod.Kind, namespace, name string) (pod.Value, error) {
	return c.object(ctx, kind, http.MethodGet, apiPath(kind, namespace, name), nil, nil)
}

// Write is how an object is written.
type Write struct {
	DryRun bool // the answer is what it would be; nothing is written
}

func (w Write) query() url.Values {
	if !w.DryRun {
		return nil
	}
	return url.Values{"dryRun": {metav1.DryRunAll}}
}

// Create makes an object that must not be there.
func (c *Client) Create(ctx context.Context, v pod.Value, w Write) (pod.Value, error) {
	kind := pod.KindOf(v)
	return c.object(ctx, kind, http.MethodPost, "/api"+collection(kind, v.GetNamespace()), w.query(), v)
}

// Replace puts v in the place of the object of its name.
func (c *Client) Replace(ctx context.Context, v pod.Value, w Write) (pod.Value, error) {
	kind := pod.KindOf(v)
	return c.object(ctx, kind, http.MethodPut, apiPath(kind, v.GetNamespace(), v.GetName()), w.query(), v)
}

// Patch applies a JSON merge patch.
func (c *Client) Patch(ctx context.Context, kind *pod.Kind, namespace, name string, patch any, w Write) (pod.Value, error) {
	return c.object(ctx, kind, http.MethodPatch, apiPath(kind, namespace, name), w.query(), patch)
}

// Delete begins the deletion of an object and returns the object as it was
// then; a watch from its resource version sees it go.
func (c *Client) Delete(ctx context.Context, kind *pod.Kind, namespace, name string, o metav1.DeleteOptions) (pod.Value, error) {
	return c.object(ctx, kind, http.MethodDelete, apiPath(kind, namespace, name), nil, o)
}

// Apply makes the node's object what v says, which is the manifest as it was
// written, without defaults. action is created, configured or unchanged.
func (c *Client) Apply(ctx context.Context, v pod.Value, w Write) (action string, result pod.Value, err error) {
	kind := pod.KindOf(v)
	var answer struct {
		Action string          `json:"action"`
		Object json.RawMessage `json:"object"`
	}
	path := "/podrun" + collection(kind, v.GetNamespace()) + "/" + url.PathEscape(v.GetName()) + "/apply"
	if err := c.call(ctx, http.MethodPut, path, w.query(), v, &answer); err != nil {
		return "", nil, err
	}
	result, err = kind.Decode(answer.Object)
	return answer.Action, result, err
}

// object makes a request that is answered with an object of the kind.
func (c *Client) object(ctx context.Context, kind *pod.Kind, method, path string, q url.Values, in any) (pod.Value, error) {
	v := kind.New()
	if err := c.call(ctx, method, path, q, in, v); err != nil {
		return nil, err
	}
	return v, nil
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

// Watch is a stream of changes of objects. It is not safe for concurrent use.
type Watch struct {
	kind  *pod.Kind
	body  *responseBody
	lines *json.Decoder
}

// Watch watches the objects of a kind in a namespace, in all when it is "",
// from o.ResourceVersion on. The caller closes the watch.
func (c *Client) Watch(ctx context.Context, kind *pod.Kind, namespace string, o metav1.ListOptions) (*Watch, error) {
	q := listQuery(o)
	q.Set("watch", "1")
	if o.ResourceVersion != "" {
		q.Set("resourceVersion", o.ResourceVersion)
	}
	body, err := c.send(ctx, http.MethodGet, "/api"+collection(kind, namespace), q, nil)
	if err != nil {
		return nil, err
	}
	return &Watch{kind: kind, body: body, lines: json.NewDecoder(body)}, nil
}

// Next blocks until an object changes. An error that the node sent, such as
// one of a resource version that is too old, is a Kubernetes API error; any
// other is an *InterruptedError.
func (w *Watch) Next() (watch.EventType, pod.Value, error) {
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
	v, err := w.kind.Decode(frame.Object)
	if err != nil {
		return "", nil, fmt.Errorf("answer of the node: %w", err)
	}
	return frame.Type, v, nil
}

// Close ends the watch.
func (w *Watch) Close() error { return w.body.Close() }

var podKind = pod.KindNamed("Pod")

// ListPods lists the pods of a namespace, of all when it is "".
func (c *Client) ListPods(ctx context.Context, namespace string, o metav1.ListOptions) (*corev1.PodList, error) {
	list := new(corev1.PodList)
	return list, c.call(ctx, http.MethodGet, "/api"+collection(podKind, namespace), listQuery(o), nil, list)
}

// GetPod returns one pod.
func (c *Client) GetPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	p := new(corev1.Pod)
	return p, c.call(ctx, http.MethodGet, podPath(namespace, name), nil, nil, p)
}

// ListEvents lists the events of a namespace, of all when it is "".
func (c *Client) ListEvents(ctx context.Context, namespace string, o metav1.ListOptions) (*corev1.EventList, error) {
	list := new(corev1.EventList)
	return list, c.call(ctx, http.MethodGet, "/api"+collection(pod.EventKind, namespace), listQuery(o), nil, list)
}
