package pod

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Validate checks a defaulted pod by the rules of the Kubernetes API server
// (pkg/apis/core/validation of Kubernetes 1.37), in its words. What Unsupported
// refuses is not looked into. The module in upstream/ compares the two.
func Validate(p *corev1.Pod) field.ErrorList {
	v := &validator{pod: p, spec: &p.Spec}
	v.all(apivalidation.ValidateObjectMeta(&p.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata")))
	v.podSpec(field.NewPath("spec"))
	return v.errs
}

// validator collects what is wrong with a pod.
type validator struct {
	pod  *corev1.Pod
	spec *corev1.PodSpec
	errs field.ErrorList

	volumes map[string]*corev1.VolumeSource // the valid ones, by name
}

func (v *validator) podSpec(at *field.Path) {
	s := v.spec
	v.podVolumes(at.Child("volumes"))
	v.containers(at.Child("containers"))
	v.initContainers(at.Child("initContainers"))
	v.podResources(at)

	if s.RestartPolicy == "" {
		v.required(at.Child("restartPolicy"), "")
	} else {
		oneOf(v, at.Child("restartPolicy"), s.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	}
	if g := s.TerminationGracePeriodSeconds; g == nil {
		v.required(at.Child("terminationGracePeriodSeconds"), "")
	} else {
		v.nonNegative(at.Child("terminationGracePeriodSeconds"), *g)
	}
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		v.invalid(at.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32))
	}
	v.network(at)
	v.podSecurity(at)
	v.scheduling(at)
	for i, g := range s.ReadinessGates {
		name := string(g.ConditionType)
		v.invalid(at.Child("readinessGates").Index(i).Child("conditionType"), name, validation.IsQualifiedName(name)...)
	}
	v.name(at.Child("serviceAccountName"), s.ServiceAccountName)
	if s.OS != nil {
		if name := at.Child("os", "name"); s.OS.Name == "" {
			v.required(name, "")
		} else {
			oneOf(v, name, s.OS.Name, corev1.Linux, corev1.Windows)
		}
	}
}

// scheduling checks what has no effect here, so that a manifest that podrun
// takes is one that a cluster takes.
func (v *validator) scheduling(at *field.Path) {
	s := v.spec
	v.all(metav1validation.ValidateLabels(s.NodeSelector, at.Child("nodeSelector")))
	v.affinity(s.Affinity, at.Child("affinity"))
	v.spread(s.TopologySpreadConstraints, at.Child("topologySpreadConstraints"))
	v.tolerations(s.Tolerations, at.Child("tolerations"))
	v.name(at.Child("nodeName"), s.NodeName)
	v.name(at.Child("priorityClassName"), s.PriorityClassName)
	if p := s.PreemptionPolicy; p != nil {
		if *p == "" {
			v.required(at.Child("preemptionPolicy"), "")
		} else {
			oneOf(v, at.Child("preemptionPolicy"), *p, corev1.PreemptLowerPriority, corev1.PreemptNever)
		}
	}
	if g := s.SchedulingGroup; g != nil {
		at := at.Child("schedulingGroup", "podGroupName")
		if g.PodGroupName == nil {
			v.invalid(at, "", "must specify one of: `podGroupName`")
		} else {
			v.invalid(at, *g.PodGroupName, apivalidation.NameIsDNSSubdomain(*g.PodGroupName, false)...)
		}
	}
}

func (v *validator) add(errs ...*field.Error) { v.errs = append(v.errs, errs...) }

func (v *validator) all(errs field.ErrorList) { v.errs = append(v.errs, errs...) }

// invalid adds a complaint for each message.
func (v *validator) invalid(at *field.Path, value any, messages ...string) {
	for _, m := range messages {
		v.add(field.Invalid(at, value, m))
	}
}

func (v *validator) required(at *field.Path, detail string) { v.add(field.Required(at, detail)) }

func (v *validator) forbidden(at *field.Path, detail string) { v.add(field.Forbidden(at, detail)) }

func (v *validator) nonNegative(at *field.Path, value int64) {
	v.all(apivalidation.ValidateNonnegativeField(value, at))
}

// label checks a name that is a DNS label.
func (v *validator) label(at *field.Path, name string) {
	v.invalid(at, name, validation.IsDNS1123Label(name)...)
}

// name checks the name of an object, which may be left out.
func (v *validator) name(at *field.Path, name string) {
	if name != "" {
		v.invalid(at, name, apivalidation.NameIsDNSSubdomain(name, false)...)
	}
}

// oneOf checks a value of an enumeration.
func oneOf[T ~string](v *validator, at *field.Path, value T, allowed ...T) {
	if !slices.Contains(allowed, value) {
		v.add(field.NotSupported(at, value, allowed))
	}
}

// invalidEach is a complaint for each message.
func invalidEach(at *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(at, value, m))
	}
	return errs
}
