package object

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"get.podrun.dev/podrun/pod"
)

// Action is what a write did.
type Action string

// The actions, in kubectl's words.
const (
	Created    Action = "created"
	Configured Action = "configured"
	Unchanged  Action = "unchanged"
)

// Change tells what a write makes of the stored object, which is nil when
// there is none. It leaves old as it is.
type Change func(old pod.Value) (pod.Value, error)

// Create makes an object that must not be there.
func Create(want pod.Value) Change {
	return func(old pod.Value) (pod.Value, error) {
		if old != nil {
			return nil, apierrors.NewAlreadyExists(corev1.Resource(pod.KindOf(want).Resource), want.GetName())
		}
		return manifestOnly(want), nil
	}
}

// Replace puts want in the place of an object, which must be there, and be as
// want's resourceVersion says if it has one.
func Replace(want pod.Value) Change {
	return func(old pod.Value) (pod.Value, error) {
		if old == nil {
			return nil, notFound(pod.KindOf(want), want.GetName())
		}
		return clone(want), nil
	}
}

// Apply is kubectl's apply: what the manifest says is set, what an earlier
// manifest said and this one does not is removed, the rest stays. The manifest
// is kept in an annotation for the next apply.
func Apply(want pod.Value) Change {
	return func(old pod.Value) (pod.Value, error) {
		kind := pod.KindOf(want)
		want := manifestOnly(want)
		text, err := json.Marshal(want)
		if err != nil {
			return nil, err
		}
		annotations := map[string]string{}
		for k, v := range want.GetAnnotations() {
			annotations[k] = v
		}
		annotations[corev1.LastAppliedConfigAnnotation] = string(text)
		want.SetAnnotations(annotations)
		if old == nil {
			return want, nil
		}
		var before map[string]any
		if last := old.GetAnnotations()[corev1.LastAppliedConfigAnnotation]; last != "" {
			before, _ = decodeMap([]byte(last)) // a person's own text counts as none
		}
		live, err := toMap(old)
		if err != nil {
			return nil, err
		}
		wanted, err := toMap(want)
		if err != nil {
			return nil, err
		}
		return fromMap(kind, merge(before, wanted, live))
	}
}

// Patch applies a JSON merge patch (RFC 7386) to an object of the kind, which
// must be there.
func Patch(kind *pod.Kind, name string, patch []byte) Change {
	return func(old pod.Value) (pod.Value, error) {
		if old == nil {
			return nil, notFound(kind, name)
		}
		changes, err := decodeMap(patch)
		if err != nil {
			return nil, apierrors.NewBadRequest("merge patch: " + err.Error())
		}
		live, err := toMap(old)
		if err != nil {
			return nil, err
		}
		return fromMap(kind, mergePatch(live, changes))
	}
}

// On makes the change of old, nil when there is none: the result is complete
// and valid, has what the API server gives a new object, and keeps of old what
// no write can change.
func (c Change) On(old pod.Value) (pod.Value, Action, error) {
	next, err := c(old)
	if err != nil {
		return nil, "", err
	}
	kind := pod.KindOf(next)
	next.SetManagedFields(nil)
	if old == nil {
		pod.Complete(next)
		next.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind.Name))
		next.SetUID(uuid.NewUUID())
		next.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
		return next, Created, Invalid(kind, next.GetName(), pod.Check(next))
	}
	if old.GetDeletionTimestamp() != nil {
		return nil, "", apierrors.NewConflict(corev1.Resource(kind.Resource), old.GetName(),
			fmt.Errorf("the %s is being deleted; apply it again when it is gone", strings.ToLower(kind.Name)))
	}
	if err := keep(old, next); err != nil {
		return nil, "", err
	}
	pod.Complete(next)
	if equality.Semantic.DeepEqual(old, next) {
		return old, Unchanged, nil
	}
	errs := pod.Check(next)
	if len(errs) == 0 {
		errs = pod.CheckUpdate(old, next)
	}
	return next, Configured, Invalid(kind, next.GetName(), errs)
}

// keep gives next what old has and no write can change.
func keep(old, next pod.Value) error {
	kind := pod.KindOf(next)
	conflict := func(why string) error {
		return apierrors.NewConflict(corev1.Resource(kind.Resource), old.GetName(), errors.New(why))
	}
	if v := next.GetResourceVersion(); v != "" && v != old.GetResourceVersion() {
		return conflict("the object has been modified; please apply your changes to the latest version and try again")
	}
	if v := next.GetUID(); v != "" && v != old.GetUID() {
		return conflict(fmt.Sprintf("Precondition failed: UID in precondition: %s, UID in object meta: %s", v, old.GetUID()))
	}
	next.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind.Name))
	next.SetName(old.GetName())
	next.SetNamespace(old.GetNamespace())
	next.SetUID(old.GetUID())
	next.SetResourceVersion(old.GetResourceVersion())
	next.SetCreationTimestamp(old.GetCreationTimestamp())
	next.SetGeneration(old.GetGeneration())
	next.SetDeletionTimestamp(nil) // old has none
	next.SetDeletionGracePeriodSeconds(nil)
	switch o := old.(type) {
	case *corev1.Pod:
		p := next.(*corev1.Pod)
		p.Status = *o.Status.DeepCopy()
		p.Spec.NodeName = o.Spec.NodeName // there is one, whatever a manifest says
	case *corev1.PersistentVolumeClaim:
		c := next.(*corev1.PersistentVolumeClaim)
		c.Finalizers = o.Finalizers
		c.Status = *o.Status.DeepCopy()
		if c.Spec.VolumeName == "" {
			c.Spec.VolumeName = o.Spec.VolumeName
		}
		if c.Spec.StorageClassName == nil {
			c.Spec.StorageClassName = o.Spec.StorageClassName
		}
	case *corev1.Namespace:
		next.(*corev1.Namespace).Status = *o.Status.DeepCopy()
	}
	return nil
}

// manifestOnly is an object as a manifest can say it: without what the API
// server sets.
func manifestOnly(v pod.Value) pod.Value {
	v = clone(v)
	annotations := v.GetAnnotations()
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	v.SetAnnotations(annotations)
	v.SetUID("")
	v.SetResourceVersion("")
	v.SetGeneration(0)
	v.SetCreationTimestamp(metav1.Time{})
	v.SetDeletionTimestamp(nil)
	v.SetDeletionGracePeriodSeconds(nil)
	v.SetManagedFields(nil)
	switch o := v.(type) {
	case *corev1.Pod:
		o.Status = corev1.PodStatus{}
	case *corev1.PersistentVolumeClaim:
		o.Finalizers = nil // the one that it may have, the store sets
		o.Status = corev1.PersistentVolumeClaimStatus{}
	case *corev1.Namespace:
		o.Status = corev1.NamespaceStatus{}
	}
	return v
}

func clone(v pod.Value) pod.Value { return v.DeepCopyObject().(pod.Value) }

// Invalid is the API server's error for complaints about an object; none is no
// error.
func Invalid(kind *pod.Kind, name string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind(kind.Name).GroupKind(), name, errs)
}

func notFound(kind *pod.Kind, name string) error {
	return apierrors.NewNotFound(corev1.Resource(kind.Resource), name)
}
