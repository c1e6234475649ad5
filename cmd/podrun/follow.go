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
)

// follower sees the changes of pods one after the other, across the end of a
// node and the start of the next. Set the first fields, close it after use.
type follower struct {
	client    *node.Client
	namespace string
	options   metav1.ListOptions        // with the resource version to start from
	known     map[types.UID]*corev1.Pod // what was there then

	stream  *node.PodWatch
	pending []change
}

// knowing is what follower.known is when it starts from pods.
func knowing(pods ...corev1.Pod) map[types.UID]*corev1.Pod {
	known := make(map[types.UID]*corev1.Pod, len(pods))
	for i := range pods {
		known[pods[i].UID] = &pods[i]
	}
	return known
}

// change is one change of a pod, with the pod as it is after it, or was before
// it went.
type change struct {
	pod  *corev1.Pod
	gone bool
}

// next blocks until a pod changes.
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
		if f.stream, err = f.client.WatchPods(ctx, f.namespace, f.options); err != nil {
			return change{}, err
		}
	}
	event, p, err := f.stream.Next()
	return change{pod: p, gone: event == watch.Deleted}, err
}

// note remembers a change and tells whether it is one: a pod that went carries
// the version of its last change, so that a new watch tells of its end again.
func (f *follower) note(c change) bool {
	f.options.ResourceVersion = c.pod.ResourceVersion
	_, known := f.known[c.pod.UID]
	if c.gone {
		delete(f.known, c.pod.UID)
		return known
	}
	f.known[c.pod.UID] = c.pod
	return true
}

// relist stands in for the changes that the node no longer knows: what is
// there now may have changed, what is not has gone.
func (f *follower) relist(ctx context.Context) error {
	list, err := f.client.ListPods(ctx, f.namespace, f.options)
	if err != nil {
		return err
	}
	now := knowing(list.Items...)
	for uid, p := range f.known {
		if now[uid] == nil {
			f.pending = append(f.pending, change{pod: p, gone: true})
		}
	}
	for i := range list.Items {
		f.pending = append(f.pending, change{pod: &list.Items[i]})
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
		client: client, namespace: p.Namespace, known: knowing(*p),
		options: metav1.ListOptions{FieldSelector: "metadata.name=" + p.Name, ResourceVersion: p.ResourceVersion},
	}
	defer f.close()
	for {
		change, err := f.next(ctx)
		switch {
		case err != nil:
			return nil, err
		case change.gone && change.pod.UID == p.UID || change.pod.UID != p.UID:
			return nil, errPodGone
		case wanted(change.pod):
			return change.pod, nil
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
