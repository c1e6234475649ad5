package pod

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podSecurity checks the security context of the pod and what it shares with
// the host.
func (v *validator) podSecurity(spec *field.Path) {
	s := v.spec
	if s.HostPID && deref(s.ShareProcessNamespace) {
		v.invalid(spec.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	if !v.hostUsers() {
		for name, shared := range map[string]bool{"hostNetwork": s.HostNetwork, "hostPID": s.HostPID, "hostIPC": s.HostIPC} {
			if shared {
				v.forbidden(spec.Child(name), "when `hostUsers` is false")
			}
		}
	}
	c, at := s.SecurityContext, spec.Child("securityContext")
	if c == nil {
		return
	}
	v.userID(c.RunAsUser, at.Child("runAsUser"))
	v.groupID(c.RunAsGroup, at.Child("runAsGroup"))
	v.groupID(c.FSGroup, at.Child("fsGroup"))
	for i := range c.SupplementalGroups {
		v.groupID(&c.SupplementalGroups[i], at.Child("supplementalGroups").Index(i))
	}
	v.sysctls(c.Sysctls, at.Child("sysctls"))
	if p := c.FSGroupChangePolicy; p != nil {
		oneOf(v, at.Child("fsGroupChangePolicy"), *p, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
	}
	if p := c.SupplementalGroupsPolicy; p != nil {
		oneOf(v, at.Child("supplementalGroupsPolicy"), *p, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)
	}
	if p := c.SELinuxChangePolicy; p != nil {
		oneOf(v, at.Child("seLinuxChangePolicy"), *p, corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)
	}
	v.seccomp(c.SeccompProfile, at.Child("seccompProfile"))
	v.appArmor(c.AppArmorProfile, at.Child("appArmorProfile"))
}

// hostUsers tells whether the pod has the users of the host, as it does unless
// it says otherwise.
func (v *validator) hostUsers() bool { return v.spec.HostUsers == nil || *v.spec.HostUsers }

func (v *validator) security(c *corev1.SecurityContext, at *field.Path) {
	if c == nil {
		return
	}
	v.userID(c.RunAsUser, at.Child("runAsUser"))
	v.groupID(c.RunAsGroup, at.Child("runAsGroup"))
	if p := c.ProcMount; p != nil {
		oneOf(v, at.Child("procMount"), *p, corev1.DefaultProcMount, corev1.UnmaskedProcMount)
		if v.hostUsers() && *p == corev1.UnmaskedProcMount {
			v.invalid(at.Child("procMount"), *p, "`hostUsers` must be false to use `Unmasked`")
		}
	}
	v.seccomp(c.SeccompProfile, at.Child("seccompProfile"))
	v.appArmor(c.AppArmorProfile, at.Child("appArmorProfile"))
	if e := c.AllowPrivilegeEscalation; e == nil || *e {
		return
	}
	at = at.Child("allowPrivilegeEscalation")
	if deref(c.Privileged) {
		v.invalid(at, false, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
	}
	if c.Capabilities != nil && slices.Contains(c.Capabilities.Add, "CAP_SYS_ADMIN") {
		v.invalid(at, false, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
	}
}

func (v *validator) userID(id *int64, at *field.Path) {
	if id != nil {
		v.invalid(at, *id, validation.IsValidUserID(*id)...)
	}
}

func (v *validator) groupID(id *int64, at *field.Path) {
	if id != nil {
		v.invalid(at, *id, validation.IsValidGroupID(*id)...)
	}
}

const (
	sysctlPattern   = `^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`
	maxSysctlLength = 253
)

var sysctlRegexp = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(sysctlPattern) })

func (v *validator) sysctls(sysctls []corev1.Sysctl, at *field.Path) {
	seen := sets.New[string]()
	for i, s := range sysctls {
		at := at.Index(i).Child("name")
		switch {
		case s.Name == "":
			v.required(at, "")
		case len(s.Name) > maxSysctlLength || !sysctlRegexp().MatchString(s.Name):
			v.invalid(at, s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", maxSysctlLength, sysctlPattern))
		case seen.Has(s.Name):
			v.add(field.Duplicate(at, s.Name))
		}
		seen.Insert(s.Name)
		switch namespace := sysctlNamespace(s.Name); {
		case v.spec.HostNetwork && namespace == "net":
			v.invalid(at, s.Name, "may not be specified when 'hostNetwork' is true")
		case v.spec.HostIPC && namespace == "ipc":
			v.invalid(at, s.Name, "may not be specified when 'hostIPC' is true")
		}
	}
}

// sysctlNamespace is the kind of the namespace that a sysctl belongs to: "net",
// "ipc", or "" for any other.
func sysctlNamespace(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' {
		name = strings.Map(func(r rune) rune {
			switch r {
			case '/':
				return '.'
			case '.':
				return '/'
			}
			return r
		}, name)
	}
	switch name {
	case "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced", "kernel.msgmax", "kernel.msgmnb",
		"kernel.msgmni", "kernel.shm", "kernel.msg":
		return "ipc"
	}
	switch {
	case strings.HasPrefix(name, "net."):
		return "net"
	case strings.HasPrefix(name, "fs.mqueue."):
		return "ipc"
	}
	return ""
}

func (v *validator) seccomp(p *corev1.SeccompProfile, at *field.Path) {
	if p == nil {
		return
	}
	if p.Type == "" {
		v.required(at.Child("type"), "type is required when seccompProfile is set")
	} else {
		oneOf(v, at.Child("type"), p.Type, corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	}
	at = at.Child("localhostProfile")
	switch local := p.Type == corev1.SeccompProfileTypeLocalhost; {
	case local && p.LocalhostProfile == nil:
		v.required(at, "must be set when seccomp type is Localhost")
	case local:
		v.descending(*p.LocalhostProfile, at)
	case p.LocalhostProfile != nil:
		v.invalid(at, *p.LocalhostProfile, "can only be set when seccomp type is Localhost")
	}
}

func (v *validator) appArmor(p *corev1.AppArmorProfile, at *field.Path) {
	if p == nil {
		return
	}
	const needed = "must be set when AppArmor type is Localhost"
	const pathMax = 4095 // PATH_MAX - 1
	local := at.Child("localhostProfile")
	switch p.Type {
	case "":
		v.required(at.Child("type"), "type is required when appArmorProfile is set")
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			v.invalid(local, *p.LocalhostProfile, "can only be set when AppArmor type is Localhost")
		}
	case corev1.AppArmorProfileTypeLocalhost:
		if p.LocalhostProfile == nil || *p.LocalhostProfile == "" {
			v.required(local, needed)
			break
		}
		if strings.TrimSpace(*p.LocalhostProfile) != *p.LocalhostProfile {
			v.invalid(local, *p.LocalhostProfile, "must not be padded with whitespace")
		}
		if len(*p.LocalhostProfile) > pathMax {
			v.add(field.TooLong(local, "", pathMax))
		}
	default:
		oneOf(v, at.Child("type"), p.Type, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	}
}
