package pod

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	required  = "requiredDuringSchedulingIgnoredDuringExecution"
	preferred = "preferredDuringSchedulingIgnoredDuringExecution"
)

func (v *validator) affinity(a *corev1.Affinity, at *field.Path) {
	if a == nil {
		return
	}
	if n, at := a.NodeAffinity, at.Child("nodeAffinity"); n != nil {
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			at := at.Child(required, "nodeSelectorTerms")
			if len(r.NodeSelectorTerms) == 0 {
				v.required(at, "must have at least one node selector term")
			}
			for i := range r.NodeSelectorTerms {
				v.nodeTerm(&r.NodeSelectorTerms[i], at.Index(i), true)
			}
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			term, at := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], at.Child(preferred).Index(i)
			v.weight(term.Weight, at)
			v.nodeTerm(&term.Preference, at.Child("preference"), false)
		}
	}
	if p := a.PodAffinity; p != nil {
		v.podTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAffinity"))
	}
	if p := a.PodAntiAffinity; p != nil {
		v.podTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAntiAffinity"))
	}
}

func (v *validator) weight(w int32, at *field.Path) {
	if w < 1 || w > 100 {
		v.invalid(at.Child("weight"), w, "must be in the range 1-100")
	}
}

// nodeTerm checks a term that selects nodes; values tells whether values have
// to be such as labels have.
func (v *validator) nodeTerm(t *corev1.NodeSelectorTerm, at *field.Path, values bool) {
	const noOperator = "not a valid selector operator"
	for i, e := range t.MatchExpressions {
		at := at.Child("matchExpressions").Index(i)
		switch e.Operator {
		case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
			if len(e.Values) == 0 {
				v.required(at.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'")
			}
		case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
			if len(e.Values) > 0 {
				v.forbidden(at.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
			}
		case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
			if len(e.Values) != 1 {
				v.required(at.Child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'")
			}
		default:
			v.invalid(at.Child("operator"), e.Operator, noOperator)
		}
		v.labelName(at.Child("key"), e.Key)
		for j, value := range e.Values {
			if values {
				v.invalid(at.Child("values").Index(j), value, validation.IsValidLabelValue(value)...)
			}
		}
	}
	for i, e := range t.MatchFields {
		at := at.Child("matchFields").Index(i)
		if e.Operator != corev1.NodeSelectorOpIn && e.Operator != corev1.NodeSelectorOpNotIn {
			v.invalid(at.Child("operator"), e.Operator, noOperator)
		} else if len(e.Values) != 1 {
			v.required(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
		}
		if e.Key != metav1.ObjectNameField {
			v.invalid(at.Child("key"), e.Key, "not a valid field selector key")
			continue
		}
		for j, name := range e.Values {
			v.invalid(at.Child("values").Index(j), name, apivalidation.NameIsDNSSubdomain(name, false)...)
		}
	}
}

func (v *validator) podTerms(must []corev1.PodAffinityTerm, may []corev1.WeightedPodAffinityTerm, at *field.Path) {
	for i := range must {
		v.podTerm(&must[i], at.Child(required).Index(i))
	}
	for i := range may {
		at := at.Child(preferred).Index(i)
		v.weight(may[i].Weight, at)
		v.podTerm(&may[i].PodAffinityTerm, at.Child("podAffinityTerm"))
	}
}

func (v *validator) podTerm(t *corev1.PodAffinityTerm, at *field.Path) {
	v.selector(t.LabelSelector, at.Child("labelSelector"))
	v.selector(t.NamespaceSelector, at.Child("namespaceSelector"))
	for i, name := range t.Namespaces {
		v.invalid(at.Child("namespaces").Index(i), name, apivalidation.NameIsDNSLabel(name, false)...)
	}
	v.labelKeys(t.MatchLabelKeys, t.MismatchLabelKeys, t.LabelSelector, at)
	if t.TopologyKey == "" {
		v.required(at.Child("topologyKey"), "can not be empty")
	}
	v.labelName(at.Child("topologyKey"), t.TopologyKey)
}

func (v *validator) labelName(at *field.Path, name string) {
	v.all(metav1validation.ValidateLabelName(name, at))
}

func (v *validator) selector(s *metav1.LabelSelector, at *field.Path) {
	v.all(metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, at))
}

// labelKeys checks the keys of labels that pods are compared by.
func (v *validator) labelKeys(match, mismatch []string, s *metav1.LabelSelector, at *field.Path) {
	for name, keys := range map[string][]string{"matchLabelKeys": match, "mismatchLabelKeys": mismatch} {
		at := at.Child(name)
		if len(keys) > 0 && s == nil {
			v.forbidden(at, "must not be specified when labelSelector is not set")
			continue
		}
		for i, key := range keys {
			v.labelName(at.Index(i), key)
		}
	}
	if s != nil {
		// A cluster turns the match keys into expressions first: only a key
		// that is there twice is the manifest's own doing.
		selected := sets.KeySet(s.MatchLabels)
		for _, e := range s.MatchExpressions {
			if i := lastIndex(match, e.Key); i >= 0 && selected.Has(e.Key) {
				v.invalid(at.Child("matchLabelKeys").Index(i), e.Key, "exists in both matchLabelKeys and labelSelector")
			}
			selected.Insert(e.Key)
		}
	}
	for i, key := range match {
		if slices.Contains(mismatch, key) {
			v.invalid(at.Child("matchLabelKeys").Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys")
		}
	}
}

func lastIndex(list []string, s string) int {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] == s {
			return i
		}
	}
	return -1
}

func (v *validator) spread(constraints []corev1.TopologySpreadConstraint, at *field.Path) {
	for i, c := range constraints {
		at := at.Index(i)
		if c.MaxSkew <= 0 {
			v.invalid(at.Child("maxSkew"), c.MaxSkew, "must be greater than zero")
		}
		if c.TopologyKey == "" {
			v.required(at.Child("topologyKey"), "can not be empty")
		}
		oneOf(v, at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)
		for _, later := range constraints[i+1:] {
			if c.TopologyKey == later.TopologyKey && c.WhenUnsatisfiable == later.WhenUnsatisfiable {
				v.add(field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%s, %s}", c.TopologyKey, c.WhenUnsatisfiable)))
				break
			}
		}
		if n := c.MinDomains; n != nil {
			if *n <= 0 {
				v.invalid(at.Child("minDomains"), *n, "must be greater than zero")
			}
			if c.WhenUnsatisfiable != corev1.DoNotSchedule {
				v.invalid(at.Child("minDomains"), *n, fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, c.WhenUnsatisfiable))
			}
		}
		for name, p := range map[string]*corev1.NodeInclusionPolicy{"nodeAffinityPolicy": c.NodeAffinityPolicy, "nodeTaintsPolicy": c.NodeTaintsPolicy} {
			if p != nil {
				oneOf(v, at.Child(name), *p, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
			}
		}
		v.labelKeys(c.MatchLabelKeys, nil, c.LabelSelector, at)
		v.selector(c.LabelSelector, at.Child("labelSelector"))
	}
}

func (v *validator) tolerations(tolerations []corev1.Toleration, at *field.Path) {
	for i, t := range tolerations {
		at := at.Index(i)
		operator := at.Child("operator")
		if t.Key != "" {
			v.labelName(at.Child("key"), t.Key)
		} else if t.Operator != corev1.TolerationOpExists {
			v.invalid(operator, t.Operator, `operator must be Exists when `+"`key`"+` is empty, which means "match all values and all keys"`)
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			v.invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if messages := validation.IsValidLabelValue(t.Value); len(messages) > 0 {
				v.invalid(operator, t.Value, strings.Join(messages, ";"))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				v.invalid(operator, t.Value, "value must be empty when `operator` is 'Exists'")
			}
		default:
			oneOf(v, operator, t.Operator, corev1.TolerationOpEqual, corev1.TolerationOpExists)
		}
		if t.Effect != "" {
			oneOf(v, at.Child("effect"), t.Effect, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
		}
	}
}
