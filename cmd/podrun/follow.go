package main

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"get.podrun.dev/podrun/node"
	"get.podrun.dev/podrun/pod"
)

// follower sees the changes of the objects of a kind one after the other,
// across the end of a node and the start of the next. Set the first fields,
// close it after use.
type follower struct {
	client    *node.Client
	kind      *kind
	namespace string
	options   metav1.ListOptions      // with the resource version to start from
	known     map[types.UID]pod.Value // what was there then

	stream  *node.Watch
	pending []change
}

// knowing is what follower.known is when it starts from objects.
func knowing(objects ...pod.Value) map[types.UID]pod.Value {
	known := make(map[types.UID]pod.Value, len(objects))
	for _, v := range objects {
		known[v.GetUID()] = v
	}
	return known
}

// change is one change of an object, with the object as it is after it, or was
// before it went.
type change struct {
	object pod.Value
	gone   bool
}

// next blocks until an object changes.
func (f *follower) next(ctx context.Context) (change, error) {
	for {
		if len(f.pending) > 0 {
			c := f.pending[0]
			f.pending = f.pending[1:]
			return c, nil
		}
		c, err := f.read(ctx)
		var interrupted *node.InterruptedError
		switch {
		case err == nil && f.note(c):
			return c, nil
		case err == nil:
			continue
		case ctx.Err() != nil:
			return change{}, ctx.Err()
		case apierrors.IsResourceExpired(err):
			err = f.relist(ctx)
		case errors.As(err, &interrupted):
			err = nil // the node died; its next life has the same store
		}
		f.close()
		if err != nil {
			return change{}, err
		}
	}
}

func (f *follower) read(ctx context.Context) (change, error) {
	if f.stream == nil {
		var err error
		if f.stream, err = f.client.Watch(ctx, f.kind.Kind, f.namespace, f.options); err != nil {
			return change{}, err
		}
	}
	event, v, err := f.stream.Next()
	return change{object: v, gone: event == watch.Deleted}, err
}

// note remembers a change and tells whether it is one: an object that went carries
// the version of its last change, so that a new watch tells of its end again.
func (f *follower) note(c change) bool {
	f.options.ResourceVersion = c.object.GetResourceVersion()
	uid := c.object.GetUID()
	_, known := f.known[uid]
	if c.gone {
		delete(f.known, uid)
		return known
	}
	f.known[uid] = c.object
	return true
}

// relist stands in for the changes that the node no longer knows: what is
// there now may have changed, what is not has gone.
func (f *follower) relist(ctx context.Context) error {
	list, err := f.client.List(ctx, f.kind.Kind, f.namespace, f.options)
	if err != nil {
		return err
	}
	now := knowing(list.Items...)
	for uid, v := range f.known {
		if now[uid] == nil {
			f.pending = append(f.pending, change{object: v, gone: true})
		}
	}
	for _, v := range list.Items {
		f.pending = append(f.pending, change{object: v})
	}
	f.known = now
	f.options.ResourceVersion = list.ResourceVersion
	return nil
}

func (f *follower) close() {
	if f.stream != nil {
		_ = f.stream.Close()
		f.stream = nil
	}
}

// errPodGone says that a pod was deleted while somebody waited for it.
var errPodGone = errors.New("the pod was deleted")

// awaitPod returns p, which was read from the node, as soon as it is as wanted,
// or errPodGone.
func awaitPod(ctx context.Context, client *node.Client, p *corev1.Pod, wanted func(*corev1.Pod) bool) (*corev1.Pod, error) {
	if wanted(p) {
		return p, nil
	}
	f := follower{
		client: client, kind: podKind, namespace: p.Namespace, known: knowing(p),
		options: metav1.ListOptions{FieldSelector: "metadata.name=" + p.Name, ResourceVersion: p.ResourceVersion},
	}
	defer f.close()
	for {
		change, err := f.next(ctx)
		switch {
		case err != nil:
			return nil, err
		case change.gone || change.object.GetUID() != p.UID:
			return nil, errPodGone
		}
		if now := change.object.(*corev1.Pod); wanted(now) {
			return now, nil
		}
	}
}

// awaitRunning waits until p runs or has ended, for timeout at most.
func awaitRunning(ctx context.Context, client *node.Client, p *corev1.Pod, timeout time.Duration) (*corev1.Pod, error) {
	during, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	running, err := awaitPod(during, client, p, func(p *corev1.Pod) bool { return p.Status.Phase != corev1.PodPending })
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, plainf("timed out waiting for the condition on pods/%s", p.Name)
	}
	return running, err
}
