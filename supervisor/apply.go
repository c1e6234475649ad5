package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"get.podrun.dev/podrun/pod"
	"get.podrun.dev/podrun/store"
)

// Action is what Apply did.
type Action string

// The actions, in kubectl's words.
const (
	Created    Action = "created"
	Configured Action = "configured"
	Unchanged  Action = "unchanged"
)

// errUnchanged ends a commit that has nothing to write.
var errUnchanged = errors.New("unchanged")

// Apply makes the stored pod what the manifest says: it creates the pod or
// changes what a pod can take. The manifest need not be defaulted. It returns
// when the change is stored; the pod follows in the background. Errors are
// Kubernetes API errors; after one nothing has changed.
func (s *Supervisor) Apply(manifest *corev1.Pod) (*corev1.Pod, Action, error) {
	applied, err := json.Marshal(manifestOnly(manifest))
	if err != nil {
		return nil, "", apierrors.NewInternalError(err)
	}
	want := manifest.DeepCopy()
	pod.Default(want)
	if errs := pod.Validate(want); len(errs) > 0 {
		return nil, "", invalid(want.Name, errs)
	}
	if refused, _ := pod.Unsupported(want); len(refused) > 0 {
		var errs field.ErrorList
		for _, p := range refused {
			errs = append(errs, field.Forbidden(field.NewPath(p.Field), p.Reason))
		}
		return nil, "", invalid(want.Name, errs)
	}
	if refused, _ := s.machine.check(want); len(refused) > 0 {
		return nil, "", invalid(want.Name, refused)
	}
	if want.Annotations == nil {
		want.Annotations = map[string]string{}
	}
	want.Annotations[corev1.LastAppliedConfigAnnotation] = string(applied)

	var result *corev1.Pod
	var created *run
	action := Configured
	_, err = s.store.Update(func(tx *store.Tx) error {
		o, err := tx.Get(podKey(want.Namespace, want.Name))
		if errors.Is(err, store.ErrNotFound) {
			result, action = s.newPod(want), Created
			created = newRun(result).clone()
			refresh(result, created, time.Now())
			if err := tx.Put(runKey(want.Namespace, want.Name), encode(created)); err != nil {
				return err
			}
			return tx.Put(podKey(want.Namespace, want.Name), encodePod(result))
		}
		if err != nil {
			return err
		}
		old, err := DecodePod(o)
		if err != nil {
			return err
		}
		if old.DeletionTimestamp != nil {
			return apierrors.NewConflict(corev1.Resource("pods"), want.Name,
				fmt.Errorf("the pod is being deleted; apply it again when it is gone"))
		}
		result = merge(old, want)
		if equality.Semantic.DeepEqual(old.ObjectMeta, result.ObjectMeta) && equality.Semantic.DeepEqual(old.Spec, result.Spec) {
			result = old
			return errUnchanged
		}
		if errs := pod.ValidateUpdate(old, result); len(errs) > 0 {
			return invalid(want.Name, errs)
		}
		return tx.Put(podKey(want.Namespace, want.Name), encodePod(result))
	})
	switch {
	case errors.Is(err, errUnchanged):
		return result, Unchanged, nil
	case err != nil:
		return nil, "", err
	case action == Created:
		s.launch(newWorker(s, result.DeepCopy(), created))
	default:
		if w, err := s.worker(want.Namespace, want.Name); err == nil {
			w.poke()
		}
	}
	return result, action, nil
}

// newPod gives a defaulted manifest what the API server, the scheduler and
// the kubelet would.
func (s *Supervisor) newPod(want *corev1.Pod) *corev1.Pod {
	now := time.Now()
	p := want.DeepCopy()
	p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	p.UID = uuid.NewUUID()
	p.CreationTimestamp = metav1.NewTime(now.Truncate(time.Second))
	p.Generation = 1
	p.Spec.NodeName = s.node
	initStatus(p, s.hostIP, now)
	return p
}

// merge returns old changed to what want says, kubectl's three-way merge for
// what a pod can take: labels and annotations that an earlier apply set and
// this one does not are removed, those of other origin stay.
func merge(old, want *corev1.Pod) *corev1.Pod {
	p := old.DeepCopy()
	var before metav1.PartialObjectMetadata
	_ = json.Unmarshal([]byte(old.Annotations[corev1.LastAppliedConfigAnnotation]), &before)
	p.Labels = mergeMap(old.Labels, before.Labels, want.Labels)
	p.Annotations = mergeMap(old.Annotations, before.Annotations, want.Annotations)
	p.Spec = *want.Spec.DeepCopy()
	p.Spec.NodeName = old.Spec.NodeName
	if !equality.Semantic.DeepEqual(old.Spec, p.Spec) {
		p.Generation++
	}
	return p
}

func mergeMap(live, before, want map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range live {
		if _, applied := before[k]; !applied {
			out[k] = v
		}
	}
	for k, v := range want {
		out[k] = v
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// manifestOnly is what the last-applied annotation keeps of a manifest.
func manifestOnly(p *corev1.Pod) *corev1.Pod {
	p = p.DeepCopy()
	delete(p.Annotations, corev1.LastAppliedConfigAnnotation)
	p.Status = corev1.PodStatus{}
	p.ResourceVersion, p.UID = "", ""
	return p
}

func invalid(name string, errs field.ErrorList) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Pod").GroupKind(), name, errs)
}

// Delete begins the deletion of a pod and returns the pod as it is then. grace
// nil means the pod's own terminationGracePeriodSeconds. Deleting a pod that
// is being deleted can only shorten its grace.
func (s *Supervisor) Delete(namespace, name string, grace *int64) (*corev1.Pod, error) {
	w, err := s.worker(namespace, name)
	if err != nil {
		return nil, err
	}
	var result *corev1.Pod
	var deadline time.Time
	_, err = s.store.Update(func(tx *store.Tx) error {
		o, err := tx.Get(podKey(namespace, name))
		if errors.Is(err, store.ErrNotFound) {
			return apierrors.NewNotFound(corev1.Resource("pods"), name)
		}
		if err != nil {
			return err
		}
		if result, err = DecodePod(o); err != nil {
			return err
		}
		seconds := int64(30)
		if g := result.Spec.TerminationGracePeriodSeconds; g != nil {
			seconds = *g
		}
		if grace != nil {
			seconds = max(*grace, 0)
		}
		deadline = time.Now().Add(time.Duration(seconds) * time.Second)
		if result.DeletionTimestamp != nil && result.DeletionTimestamp.Time.Before(deadline) {
			deadline = result.DeletionTimestamp.Time
			return errUnchanged
		}
		at := metav1.NewTime(deadline)
		result.DeletionTimestamp, result.DeletionGracePeriodSeconds = &at, &seconds
		return tx.Put(podKey(namespace, name), encodePod(result))
	})
	if err != nil && !errors.Is(err, errUnchanged) {
		return nil, err
	}
	w.requestDeletion(deadline)
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
	limited, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	w.stop(ctx, limited, c, nil)
	return c.id, waitFor(ctx, c.over)
}
