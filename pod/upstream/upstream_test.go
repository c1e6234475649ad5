// Package upstream_test compares podrun's defaults and validation of pods with
// those of Kubernetes itself. It is a module of its own, so that podrun does
// not depend on k8s.io/kubernetes.
package upstream_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/capabilities"

	"get.podrun.dev/podrun/pod"
)

func TestMain(m *testing.M) {
	// As the API server is started by every installer.
	capabilities.Initialize(capabilities.Capabilities{AllowPrivileged: true})
	os.Exit(m.Run())
}

// defaulted is what the API server makes of a pod that is created, by the
// scheme and by the strategy of pods.
func defaulted(p *corev1.Pod) (*corev1.Pod, *core.Pod) {
	p = p.DeepCopy()
	if p.Namespace == "" {
		p.Namespace = corev1.NamespaceDefault // it is in the request's path
	}
	legacyscheme.Scheme.Default(p)
	internal := &core.Pod{}
	if err := legacyscheme.Scheme.Convert(p, internal, nil); err != nil {
		panic(err)
	}
	podutil.DefaultPodLevelResources(internal)
	out := &corev1.Pod{}
	if err := legacyscheme.Scheme.Convert(internal, out, nil); err != nil {
		panic(err)
	}
	out.TypeMeta = p.TypeMeta
	admit(&out.Spec)
	return out, internal
}

// validated is what the API server says of a defaulted pod that is created.
func validated(p *core.Pod) field.ErrorList {
	opts := podutil.GetValidationOptionsFromPodSpecAndMeta(&p.Spec, nil, &p.ObjectMeta, nil)
	opts.ResourceIsPod = true
	return validation.ValidatePodCreate(p, opts)
}

// complaints makes errors comparable.
func complaints(errs field.ErrorList) []string {
	var out []string
	for _, e := range errs {
		if !ignored(e) {
			out = append(out, fmt.Sprintf("%s: %s: %s", samePath(e.Field), e.Type, sameDetail(e.Detail)))
		}
	}
	slices.Sort(out)
	return out
}

// verdict is what podrun says of a pod.
type verdict int

const (
	accepted verdict = iota
	invalid
	refused // before anybody asks whether it is valid
)

func (v verdict) String() string { return [...]string{"accepted", "invalid", "refused"}[v] }

// differ returns what podrun says of a pod, and in what it differs from
// Kubernetes: "" is what is wanted.
func differ(p *corev1.Pod) (verdict, string) {
	ours := p.DeepCopy()
	pod.Default(ours)
	if refusals, _ := pod.Unsupported(ours); len(refusals) > 0 {
		return refused, ""
	}
	theirs, internal := defaulted(p)
	sameDefaults(&ours.Spec, &theirs.Spec)
	if !equality.Semantic.DeepEqual(ours, theirs) {
		return accepted, "the defaults differ: -kubernetes +podrun\n" + diff.Diff(theirs, ours)
	}
	got, want := complaints(pod.Validate(ours)), complaints(validated(internal))
	if !slices.Equal(got, want) {
		return invalid, fmt.Sprintf("podrun says\n  %s\nKubernetes says\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	if len(got) > 0 {
		return invalid, ""
	}
	return accepted, ""
}

// compare fails when podrun and Kubernetes differ about a pod.
func compare(t *testing.T, p *corev1.Pod) verdict {
	t.Helper()
	v, difference := differ(p)
	if difference != "" {
		t.Errorf("%s\nThe pod is %s", difference, toJSON(p))
	}
	return v
}
