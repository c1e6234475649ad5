package pod

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
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
}

func defaultContainer(c *corev1.Container) {
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = corev1.PullIfNotPresent
		if latest(c.Image) {
			c.ImagePullPolicy = corev1.PullAlways
		}
	}
	setTo(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	setTo(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		setTo(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if v := c.Env[i].ValueFrom; v != nil && v.FieldRef != nil {
			setTo(&v.FieldRef.APIVersion, "v1")
		}
	}
	for name, limit := range c.Resources.Limits {
		if _, ok := c.Resources.Requests[name]; !ok {
			if c.Resources.Requests == nil {
				c.Resources.Requests = corev1.ResourceList{}
			}
			c.Resources.Requests[name] = limit.DeepCopy()
		}
	}
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

// latest tells whether an image reference names the tag latest, by itself or
// by naming none, and no digest.
func latest(image string) bool {
	if strings.Contains(image, "@") {
		return false
	}
	name := image[strings.LastIndexByte(image, '/')+1:]
	_, tag, tagged := strings.Cut(name, ":")
	return !tagged || tag == "latest"
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
	if h.Port.Type == intstr.String && h.Port.StrVal == "" {
		h.Port = intstr.FromInt32(0)
	}
}

func defaultVolume(v *corev1.Volume) {
	if v.VolumeSource == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	const mode = int32(0o644)
	switch {
	case v.HostPath != nil:
		setPtr(&v.HostPath.Type, corev1.HostPathUnset)
	case v.Secret != nil:
		setPtr(&v.Secret.DefaultMode, mode)
	case v.ConfigMap != nil:
		setPtr(&v.ConfigMap.DefaultMode, mode)
	case v.DownwardAPI != nil:
		setPtr(&v.DownwardAPI.DefaultMode, mode)
	case v.Projected != nil:
		setPtr(&v.Projected.DefaultMode, mode)
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
