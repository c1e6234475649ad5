package pod

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Default fills in what a manifest leaves out, as the Kubernetes API server
// does before it validates (pkg/apis/core/v1/defaults.go of Kubernetes 1.37),
// and the namespace "default".
func Default(p *corev1.Pod) {
	setTo(&p.Namespace, corev1.NamespaceDefault)
	s := &p.Spec
	setTo(&s.RestartPolicy, corev1.RestartPolicyAlways)
	setTo(&s.DNSPolicy, corev1.DNSClusterFirst)
	setTo(&s.SchedulerName, corev1.DefaultSchedulerName)
	setPtr(&s.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	if *s.TerminationGracePeriodSeconds < 0 {
		*s.TerminationGracePeriodSeconds = 1
	}
	setPtr(&s.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	setPtr(&s.SecurityContext, corev1.PodSecurityContext{})
	setPtr(&s.Priority, 0)
	setPtr(&s.PreemptionPolicy, corev1.PreemptLowerPriority)
	setTo(&s.ServiceAccountName, s.DeprecatedServiceAccount)
	setTo(&s.ServiceAccountName, "default")
	s.DeprecatedServiceAccount = s.ServiceAccountName
	for i := range s.InitContainers {
		defaultContainer(&s.InitContainers[i])
	}
	for i := range s.Containers {
		defaultContainer(&s.Containers[i])
	}
	for i := range s.Volumes {
		defaultVolume(&s.Volumes[i])
	}
	if s.HostNetwork {
		hostPorts(s.InitContainers)
		hostPorts(s.Containers)
	}
	if s.Resources != nil {
		defaultPodResources(s)
	}
}

// hostPorts says of each port that it is one of the host's, where the network
// is the host's.
func hostPorts(containers []corev1.Container) {
	for i := range containers {
		for j := range containers[i].Ports {
			p := &containers[i].Ports[j]
			setTo(&p.HostPort, p.ContainerPort)
		}
	}
}

func defaultContainer(c *corev1.Container) {
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = pullPolicy(c.Image)
	}
	setTo(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	setTo(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		setTo(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		v := c.Env[i].ValueFrom
		if v != nil && v.FieldRef != nil {
			setTo(&v.FieldRef.APIVersion, "v1")
		}
		if v != nil && v.FileKeyRef != nil {
			setPtr(&v.FileKeyRef.Optional, false)
		}
	}
	defaultResources(&c.Resources)
	for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if probe != nil {
			defaultProbe(probe)
		}
	}
	if c.Lifecycle != nil {
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil && h.HTTPGet != nil {
				defaultHTTPGet(h.HTTPGet)
			}
		}
	}
}

// pullPolicy is that of an image for which none is given.
func pullPolicy(image string) corev1.PullPolicy {
	if latest(image) {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

// latest tells whether an image reference names the tag latest, by itself or
// by naming none, and no digest.
func latest(image string) bool {
	name, _, digested := strings.Cut(image, "@")
	name = name[strings.LastIndexByte(name, '/')+1:]
	_, tag, tagged := strings.Cut(name, ":")
	return tag == "latest" || !tagged && !digested
}

// defaultResources requests what is limited.
func defaultResources(r *corev1.ResourceRequirements) {
	roundUp(r.Limits)
	roundUp(r.Requests)
	if r.Limits != nil && r.Requests == nil {
		r.Requests = corev1.ResourceList{}
	}
	for name, limit := range r.Limits {
		if _, ok := r.Requests[name]; !ok {
			r.Requests[name] = limit.DeepCopy()
		}
	}
}

// roundUp rounds quantities to thousandths, the finest that Kubernetes keeps.
func roundUp(list corev1.ResourceList) {
	for name, q := range list {
		q.RoundUp(resource.Milli)
		list[name] = q
	}
}

// defaultPodResources completes what is said for the pod as a whole from what
// its containers say: requests from theirs or the limits, and limits where all
// containers have one.
func defaultPodResources(s *corev1.PodSpec) {
	r := s.Resources
	roundUp(r.Limits)
	roundUp(r.Requests)
	if len(r.Limits) == 0 && len(r.Requests) == 0 {
		return
	}
	requests, limits := ContainerRequests(s), ContainerLimits(s)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		limit, limited := r.Limits[name]
		request, requested := r.Requests[name]
		if !requested {
			if request, requested = requests[name]; !requested && limited {
				request, requested = limit.DeepCopy(), true
			}
			if requested {
				set(&r.Requests, name, request)
			}
		}
		if limited || !requested || !allLimit(s, name) {
			continue
		}
		if limit = limits[name]; request.Cmp(limit) > 0 {
			limit = request
		}
		set(&r.Limits, name, limit)
	}
}

func allLimit(s *corev1.PodSpec, name corev1.ResourceName) bool {
	unlimited := func(c corev1.Container) bool { _, ok := c.Resources.Limits[name]; return !ok }
	return len(s.Containers) > 0 && !slices.ContainsFunc(s.Containers, unlimited) && !slices.ContainsFunc(s.InitContainers, unlimited)
}

func set(list *corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	if *list == nil {
		*list = corev1.ResourceList{}
	}
	(*list)[name] = q
}

func defaultProbe(p *corev1.Probe) {
	setTo(&p.TimeoutSeconds, 1)
	setTo(&p.PeriodSeconds, 10)
	setTo(&p.SuccessThreshold, 1)
	setTo(&p.FailureThreshold, 3)
	if p.HTTPGet != nil {
		defaultHTTPGet(p.HTTPGet)
	}
	if p.GRPC != nil {
		setPtr(&p.GRPC.Service, "")
	}
}

func defaultHTTPGet(h *corev1.HTTPGetAction) {
	setTo(&h.Path, "/")
	setTo(&h.Scheme, corev1.URISchemeHTTP)
}

func defaultVolume(v *corev1.Volume) {
	if v.VolumeSource == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	const mode = int32(0o644)
	if v.HostPath != nil {
		setPtr(&v.HostPath.Type, corev1.HostPathUnset)
	}
	if v.Secret != nil {
		setPtr(&v.Secret.DefaultMode, mode)
	}
	if v.ConfigMap != nil {
		setPtr(&v.ConfigMap.DefaultMode, mode)
	}
	if v.DownwardAPI != nil {
		setPtr(&v.DownwardAPI.DefaultMode, mode)
		defaultFieldRefs(v.DownwardAPI.Items)
	}
	if v.Image != nil {
		setTo(&v.Image.PullPolicy, pullPolicy(v.Image.Reference))
	}
	if v.Projected != nil {
		setPtr(&v.Projected.DefaultMode, mode)
		for _, s := range v.Projected.Sources {
			if s.DownwardAPI != nil {
				defaultFieldRefs(s.DownwardAPI.Items)
			}
			if s.ServiceAccountToken != nil {
				setPtr(&s.ServiceAccountToken.ExpirationSeconds, 3600)
			}
		}
	}
}

func defaultFieldRefs(files []corev1.DownwardAPIVolumeFile) {
	for _, f := range files {
		if f.FieldRef != nil {
			setTo(&f.FieldRef.APIVersion, "v1")
		}
	}
}

func setTo[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

func setPtr[T any](v **T, to T) {
	if *v == nil {
		*v = &to
	}
}
