package pod

import (
	"fmt"
	"net"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Validate checks a defaulted pod by the rules of the Kubernetes API server
// (pkg/apis/core/validation of Kubernetes 1.37), in its words, as far as
// podrun supports the fields.
func Validate(p *corev1.Pod) field.ErrorList {
	meta := field.NewPath("metadata")
	errs := apivalidation.ValidateObjectMeta(&p.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, meta)
	return append(errs, validateSpec(p, field.NewPath("spec"))...)
}

func validateSpec(p *corev1.Pod, at *field.Path) field.ErrorList {
	s := &p.Spec
	var errs field.ErrorList
	volumes := sets.New[string]()
	for i := range s.Volumes {
		errs = append(errs, validateVolume(&s.Volumes[i], volumes, at.Child("volumes").Index(i))...)
	}
	names := sets.New[string]()
	if len(s.Containers) == 0 {
		errs = append(errs, field.Required(at.Child("containers"), ""))
	}
	for i := range s.Containers {
		errs = append(errs, validateContainer(&s.Containers[i], names, volumes, at.Child("containers").Index(i))...)
	}
	for i := range s.InitContainers {
		errs = append(errs, validateContainer(&s.InitContainers[i], names, volumes, at.Child("initContainers").Index(i))...)
	}
	errs = append(errs, oneOf(s.RestartPolicy, at.Child("restartPolicy"), corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	errs = append(errs, oneOf(s.DNSPolicy, at.Child("dnsPolicy"), corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)...)
	if s.TerminationGracePeriodSeconds != nil && *s.TerminationGracePeriodSeconds < 0 {
		errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), *s.TerminationGracePeriodSeconds, "must be greater than or equal to 0"))
	}
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > 1<<31-1) {
		errs = append(errs, field.Invalid(at.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, 1<<31-1)))
	}
	for path, name := range map[*field.Path]string{at.Child("hostname"): s.Hostname, at.Child("subdomain"): s.Subdomain} {
		if name != "" {
			errs = append(errs, invalidEach(path, name, validation.IsDNS1123Label(name))...)
		}
	}
	errs = append(errs, validateDNSConfig(s, at.Child("dnsConfig"))...)
	for i, a := range s.HostAliases {
		path := at.Child("hostAliases").Index(i)
		if net.ParseIP(a.IP) == nil {
			errs = append(errs, field.Invalid(path.Child("ip"), a.IP, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"))
		}
		for j, name := range a.Hostnames {
			errs = append(errs, invalidEach(path.Child("hostnames").Index(j), name, validation.IsDNS1123Subdomain(name))...)
		}
	}
	if c := s.SecurityContext; c != nil {
		path := at.Child("securityContext")
		errs = append(errs, validateIDs(c.RunAsUser, c.RunAsGroup, path)...)
		for i, g := range c.SupplementalGroups {
			errs = append(errs, invalidEach(path.Child("supplementalGroups").Index(i), g, validation.IsValidGroupID(g))...)
		}
		errs = append(errs, validateSysctls(c.Sysctls, path.Child("sysctls"))...)
		errs = append(errs, validateSeccomp(c.SeccompProfile, path.Child("seccompProfile"))...)
	}
	errs = append(errs, metav1validation.ValidateLabels(s.NodeSelector, at.Child("nodeSelector"))...)
	return errs
}

func validateContainer(c *corev1.Container, names, volumes sets.Set[string], at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case c.Name == "":
		errs = append(errs, field.Required(at.Child("name"), ""))
	case names.Has(c.Name):
		errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
	default:
		errs = append(errs, invalidEach(at.Child("name"), c.Name, validation.IsDNS1123Label(c.Name))...)
	}
	names.Insert(c.Name)
	if c.Image == "" {
		errs = append(errs, field.Required(at.Child("image"), ""))
	} else if strings.TrimSpace(c.Image) != c.Image {
		errs = append(errs, field.Invalid(at.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	errs = append(errs, oneOf(c.ImagePullPolicy, at.Child("imagePullPolicy"), corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, oneOf(c.TerminationMessagePolicy, at.Child("terminationMessagePolicy"), corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, validatePorts(c.Ports, at.Child("ports"))...)
	errs = append(errs, validateEnv(c.Env, at.Child("env"))...)
	errs = append(errs, validateResources(&c.Resources, at.Child("resources"))...)

	mounted := sets.New[string]()
	for i, m := range c.VolumeMounts {
		path := at.Child("volumeMounts").Index(i)
		switch {
		case m.Name == "":
			errs = append(errs, field.Required(path.Child("name"), ""))
		case !volumes.Has(m.Name):
			errs = append(errs, field.NotFound(path.Child("name"), m.Name))
		}
		switch {
		case m.MountPath == "":
			errs = append(errs, field.Required(path.Child("mountPath"), ""))
		case mounted.Has(m.MountPath):
			errs = append(errs, field.Invalid(path.Child("mountPath"), m.MountPath, "must be unique"))
		}
		mounted.Insert(m.MountPath)
	}
	if s := c.SecurityContext; s != nil {
		path := at.Child("securityContext")
		errs = append(errs, validateIDs(s.RunAsUser, s.RunAsGroup, path)...)
		errs = append(errs, validateSeccomp(s.SeccompProfile, path.Child("seccompProfile"))...)
	}
	return errs
}

func validatePorts(ports []corev1.ContainerPort, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, p := range ports {
		path := at.Index(i)
		if p.Name != "" {
			errs = append(errs, invalidEach(path.Child("name"), p.Name, validation.IsValidPortName(p.Name))...)
			if names.Has(p.Name) {
				errs = append(errs, field.Duplicate(path.Child("name"), p.Name))
			}
			names.Insert(p.Name)
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(path.Child("containerPort"), ""))
		} else {
			errs = append(errs, invalidEach(path.Child("containerPort"), p.ContainerPort, validation.IsValidPortNum(int(p.ContainerPort)))...)
		}
		errs = append(errs, oneOf(p.Protocol, path.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	}
	return errs
}

func validateEnv(env []corev1.EnvVar, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, e := range env {
		path := at.Index(i)
		if e.Name == "" {
			errs = append(errs, field.Required(path.Child("name"), ""))
		} else {
			errs = append(errs, invalidEach(path.Child("name"), e.Name, validation.IsRelaxedEnvVarName(e.Name))...)
		}
		if e.ValueFrom == nil {
			continue
		}
		if e.Value != "" {
			errs = append(errs, field.Invalid(path.Child("valueFrom"), "", "may not be specified when `value` is not empty"))
		}
		if r := e.ValueFrom.FieldRef; r != nil {
			ref := path.Child("valueFrom", "fieldRef", "fieldPath")
			if r.FieldPath == "" {
				errs = append(errs, field.Required(ref, ""))
			} else if _, err := Field(&corev1.Pod{}, r.FieldPath); err != nil {
				errs = append(errs, field.NotSupported(ref, r.FieldPath, []string{
					"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
					"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
				}))
			}
		}
	}
	return errs
}

func validateResources(r *corev1.ResourceRequirements, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for what, list := range map[string]corev1.ResourceList{"limits": r.Limits, "requests": r.Requests} {
		for name, q := range list {
			path := at.Child(what).Key(string(name))
			switch name {
			case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			default:
				if !strings.Contains(string(name), "/") && !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
					errs = append(errs, field.Invalid(path, string(name), "must be a standard resource for containers"))
				}
			}
			if q.Sign() < 0 {
				errs = append(errs, field.Invalid(path, q.String(), "must be greater than or equal to 0"))
			}
		}
	}
	for name, request := range r.Requests {
		if limit, ok := r.Limits[name]; ok && request.Cmp(limit) > 0 {
			errs = append(errs, field.Invalid(at.Child("requests"), request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		}
	}
	return errs
}

func validateVolume(v *corev1.Volume, names sets.Set[string], at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case v.Name == "":
		errs = append(errs, field.Required(at.Child("name"), ""))
	case names.Has(v.Name):
		errs = append(errs, field.Duplicate(at.Child("name"), v.Name))
	default:
		errs = append(errs, invalidEach(at.Child("name"), v.Name, validation.IsDNS1123Label(v.Name))...)
	}
	names.Insert(v.Name)
	if h := v.HostPath; h != nil {
		path := at.Child("hostPath")
		if h.Path == "" {
			errs = append(errs, field.Required(path.Child("path"), ""))
		}
		for part := range strings.SplitSeq(h.Path, "/") {
			if part == ".." {
				errs = append(errs, field.Invalid(path.Child("path"), h.Path, "must not contain '..'"))
				break
			}
		}
		if h.Type != nil {
			errs = append(errs, oneOf(*h.Type, path.Child("type"), corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory,
				corev1.HostPathFileOrCreate, corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)...)
		}
	}
	if e := v.EmptyDir; e != nil && e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
		errs = append(errs, field.Forbidden(at.Child("emptyDir", "sizeLimit"), "SizeLimit field must be a valid resource quantity"))
	}
	return errs
}

func validateDNSConfig(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.DNSPolicy == corev1.DNSNone && (s.DNSConfig == nil || len(s.DNSConfig.Nameservers) == 0) {
		errs = append(errs, field.Required(at.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone)))
	}
	if s.DNSConfig == nil {
		return errs
	}
	if n := len(s.DNSConfig.Nameservers); n > 3 {
		errs = append(errs, field.Invalid(at.Child("nameservers"), s.DNSConfig.Nameservers, "must not have more than 3 nameservers"))
	}
	for i, ns := range s.DNSConfig.Nameservers {
		if net.ParseIP(ns) == nil {
			errs = append(errs, field.Invalid(at.Child("nameservers").Index(i), ns, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"))
		}
	}
	if n := len(s.DNSConfig.Searches); n > 32 {
		errs = append(errs, field.Invalid(at.Child("searches"), s.DNSConfig.Searches, "must not have more than 32 search paths"))
	}
	for i, o := range s.DNSConfig.Options {
		if o.Name == "" {
			errs = append(errs, field.Required(at.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

func validateIDs(user, group *int64, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if user != nil {
		errs = append(errs, invalidEach(at.Child("runAsUser"), *user, validation.IsValidUserID(*user))...)
	}
	if group != nil {
		errs = append(errs, invalidEach(at.Child("runAsGroup"), *group, validation.IsValidGroupID(*group))...)
	}
	return errs
}

func validateSysctls(sysctls []corev1.Sysctl, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, s := range sysctls {
		path := at.Index(i).Child("name")
		switch {
		case s.Name == "":
			errs = append(errs, field.Required(path, ""))
		case seen.Has(s.Name):
			errs = append(errs, field.Duplicate(path, s.Name))
		}
		seen.Insert(s.Name)
	}
	return errs
}

func validateSeccomp(s *corev1.SeccompProfile, at *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	return oneOf(s.Type, at.Child("type"), corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
}

// oneOf checks a value of an enumeration.
func oneOf[T ~string](v T, at *field.Path, allowed ...T) field.ErrorList {
	for _, a := range allowed {
		if v == a {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(at, v, allowed)}
}

func invalidEach(at *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(at, value, m))
	}
	return errs
}
