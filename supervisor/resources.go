package supervisor

import (
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/sandbox"
)

// resources translates limits and requests into what a cgroup takes, by the
// kubelet's formulas.
func resources(spec *corev1.Container) sandbox.Resources {
	var r sandbox.Resources
	if m, ok := spec.Resources.Limits[corev1.ResourceMemory]; ok {
		r.MemoryBytes = m.Value()
	}
	const period = 100_000 // microseconds, the kernel's default
	if c, ok := spec.Resources.Limits[corev1.ResourceCPU]; ok {
		r.CPUPeriodMicros = period
		r.CPUQuotaMicros = max(c.MilliValue()*period/1000, 1000)
	}
	if c, ok := spec.Resources.Requests[corev1.ResourceCPU]; ok {
		r.CPUShares = uint64(max(c.MilliValue()*1024/1000, 2))
	}
	return r
}
