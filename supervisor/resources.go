package supervisor

import (
	"bufio"
	"fmt"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/pod"
	"get.podrun.dev/podrun/sandbox"
)

// The kubelet's numbers (pkg/kubelet/cm/helpers_linux.go and
// pkg/kubelet/qos/policy.go of Kubernetes).
const (
	minShares     = 2
	maxShares     = 262_144
	quotaPeriod   = 100_000 // microseconds, the kernel's default
	minQuota      = 1_000
	oomGuaranteed = -997
	oomBestEffort = 1000
)

// defaultPids is how many processes and threads a container may have where
// that can be limited. A kubelet's default is no limit; a person's own machine
// is better off with one.
const defaultPids = 8192

// containerResources translates limits and requests into what a cgroup takes.
func containerResources(r *corev1.ResourceRequirements) sandbox.Resources {
	out := cgroupResources(r)
	out.Pids = defaultPids
	return out
}

// podResources are those of the pod as such, zero when the manifest gives it
// none.
func podResources(p *corev1.Pod) sandbox.Resources {
	if r := p.Spec.Resources; r != nil && len(r.Limits)+len(r.Requests) > 0 {
		return cgroupResources(r)
	}
	return sandbox.Resources{}
}

func cgroupResources(r *corev1.ResourceRequirements) sandbox.Resources {
	var out sandbox.Resources
	if memory, ok := r.Limits[corev1.ResourceMemory]; ok {
		out.MemoryBytes = memory.Value()
	}
	limit := r.Limits.Cpu().MilliValue()
	if limit != 0 {
		out.CPUPeriodMicros = quotaPeriod
		out.CPUQuotaMicros = max(limit*quotaPeriod/1000, minQuota)
	}
	request := limit
	if cpu, ok := r.Requests[corev1.ResourceCPU]; ok {
		request = cpu.MilliValue()
	}
	out.CPUShares = uint64(min(max(request*1024/1000, minShares), maxShares))
	return out
}

// qosClass is the class that requests and limits give a pod: the pod's own
// where it has any, else its containers'
// (https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/).
func qosClass(p *corev1.Pod) corev1.PodQOSClass {
	var all []*corev1.ResourceRequirements
	if r := p.Spec.Resources; r != nil && len(r.Limits)+len(r.Requests) > 0 {
		all = append(all, r)
	} else {
		for _, c := range allContainers(p) {
			all = append(all, &c.Resources)
		}
	}
	guaranteed, none := true, true
	for _, r := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := r.Requests[name], r.Limits[name]
			if !request.IsZero() || !limit.IsZero() {
				none = false
			}
			if limit.IsZero() || (!request.IsZero() && request.Cmp(limit) != 0) {
				guaranteed = false
			}
		}
	}
	switch {
	case none:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// oomScore is the oom_score_adj of a container's processes on a machine with so
// much memory: the more of its request a container uses, the sooner it is
// chosen.
func oomScore(p *corev1.Pod, c *corev1.Container, memory int64) int {
	switch qosClass(p) {
	case corev1.PodQOSGuaranteed:
		return oomGuaranteed
	case corev1.PodQOSBestEffort:
		return oomBestEffort
	}
	unallocated := unallocatedMemory(p)
	score := func(request int64) int { return int(1000 - 1000*(request+unallocated)/memory) }
	s := score(c.Resources.Requests.Memory().Value())
	if isSidecar(c) {
		// Never chosen before the containers that it is there for.
		smallest := p.Spec.Containers[0].Resources.Requests.Memory().Value()
		for i := range p.Spec.Containers {
			smallest = min(smallest, p.Spec.Containers[i].Resources.Requests.Memory().Value())
		}
		s = min(s, score(smallest))
	}
	return max(min(s, oomBestEffort-1), 1000+oomGuaranteed)
}

// unallocatedMemory is each container's share of what the pod asks for beyond
// what its containers ask for.
func unallocatedMemory(p *corev1.Pod) int64 {
	if p.Spec.Resources == nil || p.Spec.Resources.Requests.Memory().IsZero() {
		return 0
	}
	rest := p.Spec.Resources.Requests.Memory().Value()
	n := int64(0)
	for _, c := range allContainers(p) {
		if isInit(p, c.Name) && !isSidecar(&c) {
			continue
		}
		rest -= c.Resources.Requests.Memory().Value()
		n++
	}
	return max(rest, 0) / n
}

func isInit(p *corev1.Pod, name string) bool {
	for i := range p.Spec.InitContainers {
		if p.Spec.InitContainers[i].Name == name {
			return true
		}
	}
	return false
}

// machineMemory is how much memory this machine has.
var machineMemory = sync.OnceValues(func() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kib int64
		if _, err := fmt.Sscanf(lines.Text(), "MemTotal: %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("no MemTotal in %s", f.Name())
})

// hasLimits tells whether a pod asks for limits of memory or processor time.
func hasLimits(p *corev1.Pod) bool {
	has := func(r *corev1.ResourceRequirements) bool {
		return r != nil && (!r.Limits.Cpu().IsZero() || !r.Limits.Memory().IsZero())
	}
	for _, c := range allContainers(p) {
		if has(&c.Resources) {
			return true
		}
	}
	return has(p.Spec.Resources)
}

// setLimits says on a pod with limits whether this machine keeps to them.
func (s *Supervisor) setLimits(p *corev1.Pod, now time.Time) {
	if !hasLimits(p) {
		return
	}
	kept, why := s.sandboxes.Limits()
	reason, message := "", ""
	if !kept {
		reason, message = "NotDelegated", notDelegated(why)
	}
	status := corev1.ConditionTrue
	if !kept {
		status = corev1.ConditionFalse
	}
	setCondition(p, corev1.PodCondition{Type: pod.ConditionLimits, Status: status, Reason: reason, Message: message}, now)
}

// notDelegated is the message of limits that nobody keeps to.
func notDelegated(why string) string {
	return "limits of cpu and memory have no effect: " + why + `; see "podrun doctor"`
}
