package pod

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (v *validator) containers(at *field.Path) {
	if len(v.spec.Containers) == 0 {
		v.required(at, "")
	}
	names, ports := sets.New[string](), map[hostPort]bool{}
	for i := range v.spec.Containers {
		c, at := &v.spec.Containers[i], at.Index(i)
		v.container(c, at)
		if names.Has(c.Name) {
			v.add(field.Duplicate(at.Child("name"), c.Name))
		}
		names.Insert(c.Name)
		v.lifecycle(c.Lifecycle, at.Child("lifecycle"))
		v.probes(c, at)
		v.restartRules(c, at)
		v.hostPorts(c, at, ports)
	}
}

func (v *validator) initContainers(at *field.Path) {
	names := sets.New[string]()
	for _, c := range v.spec.Containers {
		names.Insert(c.Name)
	}
	const sidecarsOnly = "may not be set for init containers without restartPolicy=Always"
	for i := range v.spec.InitContainers {
		c, at := &v.spec.InitContainers[i], at.Index(i)
		v.container(c, at)
		v.restartRules(c, at)
		if names.Has(c.Name) {
			v.add(field.Duplicate(at.Child("name"), c.Name))
		} else if c.Name != "" {
			names.Insert(c.Name)
		}
		v.hostPorts(c, at, map[hostPort]bool{}) // they run one after the other
		if IsSidecar(c) {
			v.lifecycle(c.Lifecycle, at.Child("lifecycle"))
			v.probes(c, at)
			continue
		}
		if c.Lifecycle != nil {
			v.forbidden(at.Child("lifecycle"), sidecarsOnly)
		}
		for _, p := range probesOf(c) {
			if p.probe != nil {
				v.forbidden(at.Child(p.name), sidecarsOnly)
			}
		}
		for j, p := range c.ResizePolicy {
			if p.RestartPolicy == corev1.RestartContainer {
				v.invalid(at.Child("resizePolicy").Index(j).Child("restartPolicy"), p.RestartPolicy,
					"must not be set to 'RestartContainer' for non-sidecar initContainers")
			}
		}
	}
}

// IsSidecar tells whether an init container runs beside those that follow it.
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// container checks what containers of either list have.
func (v *validator) container(c *corev1.Container, at *field.Path) {
	if c.Name == "" {
		v.required(at.Child("name"), "")
	} else {
		v.label(at.Child("name"), c.Name)
	}
	if c.Image == "" {
		v.required(at.Child("image"), "")
	} else if strings.TrimSpace(c.Image) != c.Image {
		v.invalid(at.Child("image"), c.Image, "must not have leading or trailing whitespace")
	}
	v.pullPolicy(c.ImagePullPolicy, at.Child("imagePullPolicy"))
	if c.TerminationMessagePolicy == "" {
		v.required(at.Child("terminationMessagePolicy"), "")
	} else {
		oneOf(v, at.Child("terminationMessagePolicy"), c.TerminationMessagePolicy,
			corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	}
	v.ports(c.Ports, at.Child("ports"))
	v.env(c.Env, at.Child("env"))
	v.envFrom(c.EnvFrom, at.Child("envFrom"))
	v.mounts(c, at.Child("volumeMounts"))
	v.resources(&c.Resources, at.Child("resources"), containerResourceName)
	v.resizePolicy(c.ResizePolicy, at.Child("resizePolicy"))
	v.security(c.SecurityContext, at.Child("securityContext"))
}

func (v *validator) pullPolicy(p corev1.PullPolicy, at *field.Path) {
	if p == "" {
		v.required(at, "")
	} else {
		oneOf(v, at, p, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	}
}

func (v *validator) ports(ports []corev1.ContainerPort, at *field.Path) {
	names := sets.New[string]()
	for i, p := range ports {
		at := at.Index(i)
		if p.Name != "" {
			if messages := validation.IsValidPortName(p.Name); len(messages) > 0 {
				v.invalid(at.Child("name"), p.Name, messages...)
			} else if names.Has(p.Name) {
				v.add(field.Duplicate(at.Child("name"), p.Name))
			} else {
				names.Insert(p.Name)
			}
		}
		if p.ContainerPort == 0 {
			v.required(at.Child("containerPort"), "")
		} else {
			v.invalid(at.Child("containerPort"), p.ContainerPort, validation.IsValidPortNum(int(p.ContainerPort))...)
		}
		if p.HostPort != 0 {
			v.invalid(at.Child("hostPort"), p.HostPort, validation.IsValidPortNum(int(p.HostPort))...)
		}
		if p.Protocol == "" {
			v.required(at.Child("protocol"), "")
		} else {
			oneOf(v, at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
		}
	}
}

// hostPort is a port of the host that a container asks for.
type hostPort struct {
	protocol corev1.Protocol
	ip       string
	port     int32
}

// hostPorts checks that no port of the host is asked for twice.
func (v *validator) hostPorts(c *corev1.Container, at *field.Path, taken map[hostPort]bool) {
	for i, p := range c.Ports {
		if p.HostPort == 0 {
			continue
		}
		key := hostPort{p.Protocol, p.HostIP, p.HostPort}
		if taken[key] {
			v.add(field.Duplicate(at.Child("ports").Index(i).Child("hostPort"), p.HostPort))
		}
		taken[key] = true
	}
}

const (
	maxRestartRules = 20
	maxExitCodes    = 255
)

func (v *validator) restartRules(c *corev1.Container, at *field.Path) {
	if policy := at.Child("restartPolicy"); c.RestartPolicy != nil {
		oneOf(v, policy, *c.RestartPolicy, corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	} else if len(c.RestartPolicyRules) > 0 {
		v.required(policy, "must specify restartPolicy when restart rules are used")
		if isInit(at) {
			return // as Kubernetes, which stops here for init containers
		}
	}
	at = at.Child("restartPolicyRules")
	if n := len(c.RestartPolicyRules); n > maxRestartRules {
		v.add(field.TooMany(at, n, maxRestartRules))
	}
	for i, r := range c.RestartPolicyRules {
		at := at.Index(i)
		oneOf(v, at.Child("action"), r.Action, corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		codes := at.Child("exitCodes")
		if r.ExitCodes == nil {
			v.required(codes, "must be specified")
			continue
		}
		oneOf(v, codes.Child("operator"), r.ExitCodes.Operator, corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
		if n := len(r.ExitCodes.Values); n > maxExitCodes {
			v.add(field.TooMany(codes.Child("values"), n, maxExitCodes))
		}
	}
}

func isInit(at *field.Path) bool { return strings.HasPrefix(at.String(), "spec.initContainers") }

func (v *validator) resizePolicy(policies []corev1.ContainerResizePolicy, at *field.Path) {
	seen := sets.New[corev1.ResourceName]()
	for i, p := range policies {
		at := at.Index(i)
		if seen.Has(p.ResourceName) {
			v.add(field.Duplicate(at, p.ResourceName))
		}
		seen.Insert(p.ResourceName)
		if p.ResourceName == "" {
			v.required(at, "")
		} else {
			oneOf(v, at, p.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)
		}
		if p.RestartPolicy == "" {
			v.required(at, "")
		} else {
			oneOf(v, at, p.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)
		}
		if v.spec.RestartPolicy == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			v.invalid(at, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'")
		}
	}
}
