package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/object"
	"get.podrun.dev/podrun/pod"
	"get.podrun.dev/podrun/store"
)

// errUnchanged ends a commit that has nothing to write.
var errUnchanged = errors.New("unchanged")

var podKind = pod.KindNamed(kindPod)

// Write makes a change of one pod: it creates the pod or changes what a pod
// can take. It returns when the change is stored; the pod follows in the
// background. A dry run writes nothing. Errors are Kubernetes API errors; after
// one nothing has changed.
func (s *Supervisor) Write(namespace, name string, change object.Change, dryRun bool) (*corev1.Pod, object.Action, error) {
	var result *corev1.Pod
	var created *run
	var action object.Action
	_, err := s.store.Update(func(tx *store.Tx) error {
		var old pod.Value
		o, err := tx.Get(podKey(namespace, name))
		if err == nil {
			old, err = DecodePod(o)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		next, did, err := change.On(old)
		if err != nil {
			return err
		}
		result, action = next.(*corev1.Pod), did
		if refused, _ := s.machine.check(result); len(refused) > 0 && action != object.Unchanged {
			return object.Invalid(podKind, name, refused)
		}
		switch action {
		case object.Unchanged:
			return errUnchanged
		case object.Created:
			if err := object.CheckNamespace(tx, podKind, namespace, name); err != nil {
				return err
			}
			s.complete(result)
			created = newRun(result).clone()
			refresh(result, created, time.Now())
		case object.Configured:
			if !equality.Semantic.DeepEqual(old.(*corev1.Pod).Spec, result.Spec) {
				result.Generation++
			}
		}
		if dryRun {
			return errUnchanged
		}
		tx.LeaveRoom()
		if created != nil {
			if err := tx.Put(runKey(namespace, name), encode(created)); err != nil {
				return err
			}
		}
		return tx.Put(podKey(namespace, name), encodeObject(result))
	})
	switch {
	case errors.Is(err, errUnchanged):
		return result, action, nil
	case err != nil:
		return nil, "", err
	case action == object.Created:
		s.launch(newWorker(s, result.DeepCopy(), created))
	default:
		if w, err := s.worker(namespace, name); err == nil {
			w.poke()
		}
	}
	return result, action, nil
}

// complete gives a new pod what the scheduler and the kubelet would.
func (s *Supervisor) complete(p *corev1.Pod) {
	p.Generation = 1
	p.Spec.NodeName = s.node
	now := time.Now()
	initStatus(p, s.hostIP, now)
	s.setLimits(p, now)
}

// Delete begins the deletion of a pod and returns the pod as it is then. No
// grace period means the pod's own terminationGracePeriodSeconds. Deleting a
// pod that is being deleted can only shorten its grace.
func (s *Supervisor) Delete(namespace, name string, o metav1.DeleteOptions) (*corev1.Pod, error) {
	w, err := s.worker(namespace, name)
	if err != nil {
		return nil, err
	}
	var result *corev1.Pod
	var deadline time.Time
	_, err = s.store.Update(func(tx *store.Tx) error {
		stored, err := tx.Get(podKey(namespace, name))
		if errors.Is(err, store.ErrNotFound) {
			return apierrors.NewNotFound(corev1.Resource("pods"), name)
		}
		if err != nil {
			return err
		}
		if result, err = DecodePod(stored); err != nil {
			return err
		}
		if p := o.Preconditions; p != nil && p.UID != nil && *p.UID != result.UID {
			return apierrors.NewConflict(corev1.Resource("pods"), name,
				//lint:ignore ST1005 the words of Kubernetes
				fmt.Errorf("Precondition failed: UID in precondition: %s, UID in object meta: %s", *p.UID, result.UID))
		}
		seconds := int64(30)
		if g := result.Spec.TerminationGracePeriodSeconds; g != nil {
			seconds = *g
		}
		if o.GracePeriodSeconds != nil {
			seconds = max(*o.GracePeriodSeconds, 0)
		}
		deadline = time.Now().Add(time.Duration(seconds) * time.Second)
		if result.DeletionTimestamp != nil && result.DeletionTimestamp.Time.Before(deadline) {
			deadline = result.DeletionTimestamp.Time
			return errUnchanged
		}
		if len(o.DryRun) > 0 {
			return errUnchanged
		}
		at := metav1.NewTime(deadline)
		result.DeletionTimestamp, result.DeletionGracePeriodSeconds = &at, &seconds
		return tx.Put(podKey(namespace, name), encodeObject(result))
	})
	if err != nil && !errors.Is(err, errUnchanged) {
		return nil, err
	}
	if len(o.DryRun) == 0 {
		w.requestDeletion(deadline)
	}
	return result, nil
}

// StopContainer ends one container: its preStop hook, its stop signal, SIGKILL
// when grace is over. It returns when the container has ended; its pod then
// restarts by its policy, without back-off.
func (s *Supervisor) StopContainer(ctx context.Context, ref string, grace time.Duration) (id string, err error) {
	w, c, err := s.findContainer(ref)
	if err != nil {
		return "", err
	}
	if c.isOver() {
		return c.id, nil
	}
	marked := make(chan struct{})
	mark := func() {
		defer close(marked)
		w.noteKilling([]*container{c})
		w.save(w.ctx, func(_ *corev1.Pod, r *run) { r.ByPerson[c.id] = true })
	}
	select {
	case w.calls <- mark:
		<-marked
	case <-c.over:
		return c.id, nil
	case <-w.done:
		return c.id, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
	// Not ctx: the stop that was begun goes on when whoever asked has gone. A
	// container that is left half stopped would run on unwatched.
	w.s.goroutines.Go(func() {
		limited, cancel := context.WithTimeout(w.ctx, grace)
		defer cancel()
		w.stop(w.ctx, limited, c, nil)
	})
	return c.id, waitFor(ctx, c.over)
}
