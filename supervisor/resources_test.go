package supervisor

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"get.podrun.dev/podrun/sandbox"
)

// amounts reads "cpu=500m memory=64Mi"-like pairs.
func amounts(pairs ...string) corev1.ResourceList {
	if len(pairs) == 0 {
		return nil
	}
	list := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return list
}

func requirements(requests, limits corev1.ResourceList) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: requests, Limits: limits}
}

// The numbers are those of the kubelet's own tests (pkg/kubelet/cm).
func TestCgroupResources(t *testing.T) {
	for _, c := range []struct {
		name string
		r    corev1.ResourceRequirements
		want sandbox.Resources
	}{
		{"nothing", requirements(nil, nil), sandbox.Resources{CPUShares: 2}},
		{"100m", requirements(amounts("cpu", "100m"), nil), sandbox.Resources{CPUShares: 102}},
		{"one cpu", requirements(amounts("cpu", "1"), amounts("cpu", "1")), sandbox.Resources{CPUShares: 1024, CPUQuotaMicros: 100_000, CPUPeriodMicros: 100_000}},
		{"200m limit", requirements(amounts("cpu", "100m"), amounts("cpu", "200m", "memory", "200Mi")),
			sandbox.Resources{CPUShares: 102, CPUQuotaMicros: 20_000, CPUPeriodMicros: 100_000, MemoryBytes: 200 << 20}},
		{"the least", requirements(amounts("cpu", "1m"), amounts("cpu", "1m")), sandbox.Resources{CPUShares: 2, CPUQuotaMicros: 1000, CPUPeriodMicros: 100_000}},
		{"the most", requirements(amounts("cpu", "500"), nil), sandbox.Resources{CPUShares: 262_144}},
		{"a limit alone", requirements(nil, amounts("cpu", "500m")), sandbox.Resources{CPUShares: 512, CPUQuotaMicros: 50_000, CPUPeriodMicros: 100_000}},
		{"a request of nothing", requirements(amounts("cpu", "0"), amounts("cpu", "500m")), sandbox.Resources{CPUShares: 2, CPUQuotaMicros: 50_000, CPUPeriodMicros: 100_000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := cgroupResources(&c.r); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			c.want.Pids = defaultPids
			if got := containerResources(&c.r); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestPodResources(t *testing.T) {
	p := onePod()
	if got := podResources(p); got != (sandbox.Resources{}) {
		t.Errorf("without any: %+v", got)
	}
	p.Spec.Resources = &corev1.ResourceRequirements{Limits: amounts("memory", "64Mi", "cpu", "500m"), Requests: amounts("cpu", "250m")}
	want := sandbox.Resources{MemoryBytes: 64 << 20, CPUQuotaMicros: 50_000, CPUPeriodMicros: 100_000, CPUShares: 256}
	if got := podResources(p); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestQOSOfPodResources(t *testing.T) {
	for _, c := range []struct {
		r    corev1.ResourceRequirements
		want corev1.PodQOSClass
	}{
		{requirements(amounts("cpu", "1", "memory", "1Gi"), amounts("cpu", "1", "memory", "1Gi")), corev1.PodQOSGuaranteed},
		{requirements(amounts("cpu", "1"), amounts("cpu", "1", "memory", "1Gi")), corev1.PodQOSGuaranteed},
		{requirements(nil, amounts("cpu", "1")), corev1.PodQOSBurstable},
		{requirements(amounts("memory", "1Gi"), nil), corev1.PodQOSBurstable},
	} {
		p := onePod()
		p.Spec.Resources = &c.r
		if got := qosClass(p); got != c.want {
			t.Errorf("%+v: got %s, want %s", c.r, got, c.want)
		}
	}
}

// The numbers are those of the kubelet's own tests (pkg/kubelet/qos), on a
// machine of 4,000,000,000 bytes.
func TestOOMScore(t *testing.T) {
	const memory = 4_000_000_000
	always := corev1.ContainerRestartPolicyAlways
	one := func(r corev1.ResourceRequirements) *corev1.Pod {
		p := onePod()
		p.Spec.Containers = []corev1.Container{{Name: "a", Resources: r}}
		return p
	}
	sidecar := one(requirements(amounts("memory", "2000000000"), nil))
	sidecar.Spec.InitContainers = []corev1.Container{{Name: "s", RestartPolicy: &always, Resources: requirements(amounts("memory", "100000000"), nil)}}
	shared := onePod()
	shared.Spec.Resources = &corev1.ResourceRequirements{Requests: amounts("memory", "2000000000")}
	shared.Spec.Containers[0].Resources = requirements(amounts("memory", "1000000000"), nil)
	for _, c := range []struct {
		name string
		p    *corev1.Pod
		c    *corev1.Container
		want int
	}{
		{"best effort", one(requirements(nil, nil)), nil, 1000},
		{"guaranteed", one(requirements(amounts("cpu", "5m", "memory", "10G"), amounts("cpu", "5m", "memory", "10G"))), nil, -997},
		{"half of the memory", one(requirements(amounts("memory", "2000000000"), nil)), nil, 500},
		{"nearly all of it", one(requirements(amounts("memory", "3999999999"), nil)), nil, 3},
		{"processor time alone", one(requirements(nil, amounts("cpu", "2"))), nil, 999},
		{"a sidecar is as safe as its containers", sidecar, &sidecar.Spec.InitContainers[0], 500},
		{"a share of the pod's", shared, &shared.Spec.Containers[0], 625},
		{"a share of the pod's, nothing of its own", shared, &shared.Spec.Containers[1], 875},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.c == nil {
				c.c = &c.p.Spec.Containers[0]
			}
			if got := oomScore(c.p, c.c, memory); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestHasLimits(t *testing.T) {
	p := onePod()
	p.Spec.Containers[0].Resources.Requests = amounts("cpu", "1", "memory", "1Gi")
	if hasLimits(p) {
		t.Error("requests are taken for limits")
	}
	p.Spec.Resources = &corev1.ResourceRequirements{Limits: amounts("memory", "1Gi")}
	if !hasLimits(p) {
		t.Error("the pod's own limits do not count")
	}
	p = onePod()
	p.Spec.Containers[1].Resources.Limits = amounts("cpu", "1")
	if !hasLimits(p) {
		t.Error("a container's limits do not count")
	}
}
