package pod

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Field returns the value of a field of p that the downward API may name
// (https://kubernetes.io/docs/concepts/workloads/pods/downward-api/).
func Field(p *corev1.Pod, path string) (string, error) {
	if name, ok := subscript(path, "metadata.labels"); ok {
		return p.Labels[name], nil
	}
	if name, ok := subscript(path, "metadata.annotations"); ok {
		return p.Annotations[name], nil
	}
	switch path {
	case "metadata.labels":
		return formatMap(p.Labels), nil
	case "metadata.annotations":
		return formatMap(p.Annotations), nil
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "metadata.uid":
		return string(p.UID), nil
	case "spec.nodeName":
		return p.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return p.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return p.Status.HostIP, nil
	case "status.hostIPs":
		var ips []string
		for _, ip := range p.Status.HostIPs {
			ips = append(ips, ip.IP)
		}
		return strings.Join(ips, ","), nil
	case "status.podIP":
		return p.Status.PodIP, nil
	case "status.podIPs":
		var ips []string
		for _, ip := range p.Status.PodIPs {
			ips = append(ips, ip.IP)
		}
		return strings.Join(ips, ","), nil
	}
	return "", fmt.Errorf("field %q is not one that fieldRef can name", path)
}

// NeedsIP tells whether a fieldRef path asks for the address of the pod.
func NeedsIP(path string) bool { return path == "status.podIP" || path == "status.podIPs" }

// subscript returns KEY of path PREFIX['KEY'].
func subscript(path, prefix string) (string, bool) {
	rest, ok := strings.CutPrefix(path, prefix+"['")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, "']")
}

// formatMap writes a map as the downward API does: a line KEY="VALUE" for each
// entry, sorted.
func formatMap(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, key+"="+strconv.Quote(m[key]))
	}
	return strings.Join(lines, "\n")
}

// ResourceField returns the limit or request that a resourceFieldRef names, in
// units of its divisor, rounded up. A limit that neither the container nor the
// pod has is what the node can give. self is the container that asks, nil for
// a volume.
func ResourceField(p *corev1.Pod, self *corev1.Container, ref *corev1.ResourceFieldSelector, allocatable func() corev1.ResourceList) (string, error) {
	c := self
	if ref.ContainerName != "" {
		if c = findContainer(p, ref.ContainerName); c == nil {
			return "", fmt.Errorf("container %s not found", ref.ContainerName)
		}
	}
	if c == nil {
		return "", fmt.Errorf("resource %q is of no container", ref.Resource)
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	resourceName := corev1.ResourceName(name)
	huge := strings.HasPrefix(name, corev1.ResourceHugePagesPrefix)
	switch resourceName {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
	default:
		if !huge {
			return "", fmt.Errorf("unsupported container resource : %s", ref.Resource)
		}
	}
	var amount resource.Quantity
	switch kind {
	case "requests":
		amount = c.Resources.Requests[resourceName]
	case "limits":
		amount = c.Resources.Limits[resourceName]
		if amount.IsZero() && !huge && p.Spec.Resources != nil {
			amount = p.Spec.Resources.Limits[resourceName]
		}
		if amount.IsZero() && !huge {
			amount = allocatable()[resourceName]
		}
	default:
		return "", fmt.Errorf("unsupported container resource : %s", ref.Resource)
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	value, unit := amount.Value(), divisor.Value()
	if resourceName == corev1.ResourceCPU {
		value, unit = amount.MilliValue(), divisor.MilliValue()
	}
	return strconv.FormatInt(int64(math.Ceil(float64(value)/float64(unit))), 10), nil
}

func findContainer(p *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
