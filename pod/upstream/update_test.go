package upstream_test

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"

	"get.podrun.dev/podrun/pod"
)

// TestRandomUpdates compares what may become of a pod that is there.
func TestRandomUpdates(t *testing.T) {
	const n = 2000
	allowed, differences := 0, 0
	for seed := range uint64(n) {
		r := rand.New(rand.NewPCG(seed, 1))
		old := seeds[r.IntN(len(seeds))].DeepCopy()
		pod.Default(old)
		if r.IntN(2) == 0 {
			deadline := int64(r.IntN(100)) + 1
			old.Spec.ActiveDeadlineSeconds = &deadline
			old.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}
		}
		updated := old.DeepCopy()
		updated.Labels = map[string]string{"a": "b"}
		m := mutator{r, updated, 2 + r.IntN(3)}
		switch s := &updated.Spec; r.IntN(6) {
		case 0:
			s.Containers[0].Image = m.word()
		case 1:
			m.change(reflect.ValueOf(&s.ActiveDeadlineSeconds).Elem(), "spec.activeDeadlineSeconds")
		case 2:
			m.change(reflect.ValueOf(&s.Tolerations).Elem(), "spec.tolerations")
		case 3:
			s.Containers = append(s.Containers, corev1.Container{Name: "x", Image: "x"})
		default:
			m.change(reflect.ValueOf(s).Elem(), "spec")
		}
		pod.Default(updated)
		if refused, _ := pod.Unsupported(updated); len(refused) > 0 {
			continue
		}
		got := updateComplaints(append(pod.Validate(updated), pod.ValidateUpdate(old, updated)...))
		want := updateComplaints(validatedUpdate(old, updated))
		if len(got) == 0 {
			allowed++
		}
		if !slices.Equal(got, want) {
			t.Errorf("seed %d: podrun says\n  %s\nKubernetes says\n  %s\nof what was %s\nand is to be %s", seed,
				strings.Join(got, "\n  "), strings.Join(want, "\n  "), toJSON(old), toJSON(updated))
			if differences++; differences == 5 {
				t.Fatal("these are enough")
			}
		}
	}
	if allowed < n/10 || allowed > n*9/10 {
		t.Errorf("%d of %d updates are allowed", allowed, n)
	}
}

func validatedUpdate(old, updated *corev1.Pod) field.ErrorList {
	convert := func(p *corev1.Pod) *core.Pod {
		internal := &core.Pod{}
		if err := legacyscheme.Scheme.Convert(p.DeepCopy(), internal, nil); err != nil {
			panic(err)
		}
		return internal
	}
	was, is := convert(old), convert(updated)
	was.ResourceVersion, is.ResourceVersion = "1", "1"
	opts := podutil.GetValidationOptionsFromPodSpecAndMeta(&is.Spec, &was.Spec, &is.ObjectMeta, &was.ObjectMeta)
	opts.ResourceIsPod = true
	return validation.ValidatePodUpdate(is, was, opts)
}

// updateComplaints are complaints without what podrun says more exactly: it
// names each field that differs, Kubernetes prints the difference. Kubernetes
// checks some fields twice.
func updateComplaints(errs field.ErrorList) []string {
	for _, e := range errs {
		if what, _, ok := strings.Cut(e.Detail, "\n"); ok || strings.HasPrefix(e.Detail, "pod updates may not change fields") {
			e.Field, e.Detail = "spec", what
		}
	}
	return slices.Compact(complaints(errs))
}
