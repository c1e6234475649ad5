package pod

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// onlyThese ends every refusal of a change, in the API server's words.
const onlyThese = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`," +
	"`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// ValidateUpdate checks that a pod can become what an update makes of it: of
// the spec only images, the deadline and more tolerations can change. The
// complaint names each field that differs.
func ValidateUpdate(old, updated *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("spec")
	if len(old.Spec.Containers) != len(updated.Spec.Containers) {
		return field.ErrorList{field.Forbidden(at.Child("containers"), "pod updates may not add or remove containers")}
	}
	if len(old.Spec.InitContainers) != len(updated.Spec.InitContainers) {
		return field.ErrorList{field.Forbidden(at.Child("initContainers"), "pod updates may not add or remove containers")}
	}
	deadline := at.Child("activeDeadlineSeconds")
	switch d, was := updated.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds; {
	case d == nil && was != nil:
		errs = append(errs, field.Invalid(deadline, d, "must not update from a positive integer to nil value"))
	case d != nil && (*d < 0 || *d > math.MaxInt32):
		return field.ErrorList{field.Invalid(deadline, *d, validation.InclusiveRangeError(0, math.MaxInt32))}
	case d != nil && was != nil && *d > *was:
		return field.ErrorList{field.Invalid(deadline, *d, "must be less than or equal to previous value")}
	}
	for _, t := range old.Spec.Tolerations {
		if !slices.ContainsFunc(updated.Spec.Tolerations, func(u corev1.Toleration) bool {
			t.TolerationSeconds = u.TolerationSeconds // how long it is tolerated may change
			return equality.Semantic.DeepEqual(t, u)
		}) {
			errs = append(errs, field.Forbidden(at.Child("tolerations"), "existing toleration can not be modified except its tolerationSeconds"))
			break
		}
	}
	// What may change is made the same; what differs then may not.
	same := updated.Spec.DeepCopy()
	for i := range same.Containers {
		same.Containers[i].Image = old.Spec.Containers[i].Image
		// The default follows the image's tag.
		if samePolicyByDefault(&old.Spec.Containers[i], &updated.Spec.Containers[i]) {
			same.Containers[i].ImagePullPolicy = old.Spec.Containers[i].ImagePullPolicy
		}
	}
	for i := range same.InitContainers {
		same.InitContainers[i].Image = old.Spec.InitContainers[i].Image
		if samePolicyByDefault(&old.Spec.InitContainers[i], &updated.Spec.InitContainers[i]) {
			same.InitContainers[i].ImagePullPolicy = old.Spec.InitContainers[i].ImagePullPolicy
		}
	}
	same.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	same.Tolerations = old.Spec.Tolerations
	if t := old.Spec.TerminationGracePeriodSeconds; t != nil && *t < 0 && *same.TerminationGracePeriodSeconds == 1 {
		same.TerminationGracePeriodSeconds = t
	}
	for _, path := range differences(reflect.ValueOf(old.Spec), reflect.ValueOf(*same), "spec") {
		errs = append(errs, field.Forbidden(rawPath(path), onlyThese))
	}
	return errs
}

func samePolicyByDefault(old, updated *corev1.Container) bool {
	byDefault := func(c *corev1.Container) bool {
		return c.ImagePullPolicy == corev1.PullAlways == latest(c.Image) && c.ImagePullPolicy != corev1.PullNever
	}
	return byDefault(old) && byDefault(updated)
}

// rawPath makes a field.Path of a path that is written already.
func rawPath(path string) *field.Path { return field.NewPath(path) }

// differences returns the paths of the smallest fields in which two values of
// one type differ.
func differences(a, b reflect.Value, path string) []string {
	if equality.Semantic.DeepEqual(a.Interface(), b.Interface()) {
		return nil
	}
	if a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil() {
		return differences(a.Elem(), b.Elem(), path)
	}
	var out []string
	switch a.Kind() {
	case reflect.Struct:
		if _, leaf := special[a.Type()]; leaf {
			break
		}
		for i := range a.NumField() {
			f := a.Type().Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			at := path + "." + name
			if name == "" {
				at = path
			}
			out = append(out, differences(a.Field(i), b.Field(i), at)...)
		}
		return out
	case reflect.Slice:
		if a.Len() == b.Len() && a.Type().Elem().Kind() == reflect.Struct {
			for i := range a.Len() {
				out = append(out, differences(a.Index(i), b.Index(i), fmt.Sprintf("%s[%d]", path, i))...)
			}
			return out
		}
	}
	return []string{path}
}
