package pod

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// resources checks limits and requests; check that of a pod has other names
// than that of a container.
func (v *validator) resources(r *corev1.ResourceRequirements, at *field.Path, checkName func(*validator, corev1.ResourceName, *field.Path)) {
	for _, list := range []struct {
		name string
		of   corev1.ResourceList
	}{{"limits", r.Limits}, {"requests", r.Requests}} {
		for _, name := range slices.Sorted(maps.Keys(list.of)) {
			q, at := list.of[name], at.Child(list.name).Key(string(name))
			checkName(v, name, at)
			if q.Sign() < 0 {
				v.invalid(at, q.String(), "must be greater than or equal to 0")
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Requests)) {
		request := r.Requests[name]
		if limit, ok := r.Limits[name]; ok && request.Cmp(limit) > 0 {
			v.invalid(at.Child("requests"), request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String()))
		}
	}
}

// quotaResources are standard resources that no container has.
var quotaResources = []corev1.ResourceName{
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsCPU,
	corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage, corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices,
	corev1.ResourceReplicationControllers, corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
	corev1.ResourceStorage, corev1.ResourceRequestsStorage, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
}

// resourceName checks what the names of all resources have in common.
func (v *validator) resourceName(name corev1.ResourceName, at *field.Path) (ok bool) {
	before := len(v.errs)
	v.invalid(at, name, validation.IsQualifiedName(string(name))...)
	if len(v.errs) == before && !strings.Contains(string(name), "/") && !isContainerResource(name) && !slices.Contains(quotaResources, name) {
		v.invalid(at, name, "must be a standard resource type or fully qualified")
	}
	return len(v.errs) == before
}

func isContainerResource(name corev1.ResourceName) bool {
	return name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage ||
		strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

func containerResourceName(v *validator, name corev1.ResourceName, at *field.Path) {
	v.resourceName(name, at)
	if !strings.Contains(string(name), "/") && !isContainerResource(name) {
		v.invalid(at, name, "must be a standard resource for containers")
	}
}

func podResourceName(v *validator, name corev1.ResourceName, at *field.Path) {
	if v.resourceName(name, at) && name != corev1.ResourceCPU && name != corev1.ResourceMemory && !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
		v.add(field.NotSupported(at, name, []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceHugePagesPrefix, corev1.ResourceMemory}))
	}
}

// podResources checks the resources of the pod as a whole against those of its
// containers.
func (v *validator) podResources(spec *field.Path) {
	r, at := v.spec.Resources, spec.Child("resources")
	if r == nil {
		return
	}
	v.resources(r, at, podResourceName)
	needed := ContainerRequests(v.spec)
	for _, name := range slices.Sorted(maps.Keys(r.Requests)) {
		request := r.Requests[name]
		if sum, ok := needed[name]; ok && sum.Cmp(request) > 0 {
			v.invalid(at.Child("requests").Key(string(name)), request.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", sum.String()))
		}
	}
	for i := range v.spec.Containers {
		limits := v.spec.Containers[i].Resources.Limits
		for _, name := range slices.Sorted(maps.Keys(limits)) {
			limit := limits[name]
			if most, ok := r.Limits[name]; ok && limit.Cmp(most) > 0 {
				v.invalid(spec.Child("containers").Index(i).Child("resources", "limits").Key(string(name)), limit.String(),
					fmt.Sprintf("must be less than or equal to pod limits of %s", most.String()))
			}
		}
	}
}
