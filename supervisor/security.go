package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"get.podrun.dev/podrun/pod"
	"get.podrun.dev/podrun/sandbox"
)

// applySecurity carries the security contexts over; the container's goes
// before the pod's
// (https://kubernetes.io/docs/tasks/configure-pod-container/security-context/).
// profiles is the directory of Localhost seccomp profiles.
func applySecurity(cfg *sandbox.ContainerConfig, p *corev1.Pod, spec *corev1.Container, profiles string) error {
	ps, cs := p.Spec.SecurityContext, spec.SecurityContext
	if ps == nil {
		ps = &corev1.PodSecurityContext{}
	}
	if cs == nil {
		cs = &corev1.SecurityContext{}
	}
	if err := applyUser(cfg, p, spec, ps, cs); err != nil {
		return err
	}
	cfg.ReadonlyRootfs = isTrue(cs.ReadOnlyRootFilesystem)
	cfg.NoNewPrivileges = cs.AllowPrivilegeEscalation != nil && !*cs.AllowPrivilegeEscalation
	cfg.UnmaskedProc = cs.ProcMount != nil && *cs.ProcMount == corev1.UnmaskedProcMount
	if profile := firstSet(cs.AppArmorProfile, ps.AppArmorProfile); profile != nil && profile.LocalhostProfile != nil {
		cfg.AppArmor = *profile.LocalhostProfile
	}
	if isTrue(cs.Privileged) {
		// As containerd has it, what else is said of the two does not count.
		cfg.Privileged, cfg.Capabilities, cfg.Seccomp = true, sandbox.AllCapabilities(), seccompUnconfined
		return nil
	}
	var err error
	if cs.Capabilities != nil {
		if cfg.Capabilities, err = capabilities(cs.Capabilities, sandbox.AllCapabilities()); err != nil {
			return err
		}
	}
	cfg.Seccomp, err = seccompProfile(firstSet(cs.SeccompProfile, ps.SeccompProfile), profiles)
	return err
}

// applyUser sets who the container runs as.
func applyUser(cfg *sandbox.ContainerConfig, p *corev1.Pod, spec *corev1.Container, ps *corev1.PodSecurityContext, cs *corev1.SecurityContext) error {
	user, group := firstSet(cs.RunAsUser, ps.RunAsUser), firstSet(cs.RunAsGroup, ps.RunAsGroup)
	if user != nil {
		cfg.User = fmt.Sprint(*user)
	}
	if nonRoot := firstSet(cs.RunAsNonRoot, ps.RunAsNonRoot); isTrue(nonRoot) {
		if why := nonRootViolation(cfg.User, user != nil); why != "" {
			return fmt.Errorf("%s (pod: \"%s_%s(%s)\", container: %s)", why, p.Name, p.Namespace, p.UID, spec.Name)
		}
	}
	if group != nil {
		name, _, _ := strings.Cut(first(cfg.User, "0"), ":")
		cfg.User = fmt.Sprintf("%s:%d", name, *group)
	}
	if ps.FSGroup != nil {
		cfg.SupplementalGroups = append(cfg.SupplementalGroups, int(*ps.FSGroup))
	}
	for _, g := range ps.SupplementalGroups {
		cfg.SupplementalGroups = append(cfg.SupplementalGroups, int(g))
	}
	cfg.StrictGroups = ps.SupplementalGroupsPolicy != nil && *ps.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict
	return nil
}

// nonRootViolation tells, in the kubelet's words, why a user is root or cannot
// be told from it, and "" of any other; fromManifest tells runAsUser from the
// image's user.
func nonRootViolation(user string, fromManifest bool) string {
	name, _, _ := strings.Cut(user, ":")
	id, err := strconv.Atoi(first(name, "0"))
	switch {
	case err != nil:
		return fmt.Sprintf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root", name)
	case id == 0 && fromManifest:
		return "container's runAsUser breaks non-root policy"
	case id == 0:
		return "container has runAsNonRoot and image will run as root"
	}
	return ""
}

// capabilities is the default set changed in containerd's order: ALL first,
// then what is added, then what is dropped. Names may have "CAP_" before them;
// known are those that there are.
func capabilities(c *corev1.Capabilities, known []string) ([]string, error) {
	const all = "CAP_ALL"
	names := func(list []corev1.Capability) ([]string, error) {
		var full []string
		for _, capability := range list {
			name := "CAP_" + strings.TrimPrefix(strings.ToUpper(string(capability)), "CAP_")
			if name != all && !slices.Contains(known, name) {
				return nil, fmt.Errorf("capability %q is not one that podrun has to give", capability)
			}
			full = append(full, name)
		}
		return full, nil
	}
	add, err := names(c.Add)
	if err != nil {
		return nil, err
	}
	drop, err := names(c.Drop)
	if err != nil {
		return nil, err
	}
	set := sandbox.DefaultCapabilities()
	if slices.Contains(add, all) {
		set = slices.Clone(known)
	}
	if slices.Contains(drop, all) {
		set = nil
	}
	set = slices.DeleteFunc(append(set, add...), func(name string) bool { return name == all || slices.Contains(drop, name) })
	slices.Sort(set)
	return append([]string{}, slices.Compact(set)...), nil // nil would stand for the default
}

const seccompUnconfined = "unconfined"

// seccompProfile is a profile in the sandbox's terms. One that is not given is
// RuntimeDefault: podrun has SeccompDefault, which a kubelet can be told, on.
func seccompProfile(profile *corev1.SeccompProfile, dir string) (string, error) {
	switch {
	case profile == nil || profile.Type == corev1.SeccompProfileTypeRuntimeDefault:
		return "", nil
	case profile.Type == corev1.SeccompProfileTypeUnconfined:
		return seccompUnconfined, nil
	}
	name := ""
	if profile.LocalhostProfile != nil {
		name = *profile.LocalhostProfile
	}
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("localhostProfile %q is not a path below %s", name, dir)
	}
	return filepath.Join(dir, name), nil
}

// seccompDir is where Localhost profiles are, as the kubelet has them below
// its own root.
func (s *Supervisor) seccompDir() string { return filepath.Join(s.paths.Data, "seccomp") }

// machine is what the host has of the kernel's security modules.
type machine struct {
	appArmor, seLinux bool
	rootless          bool
	// noUsers is why the node's pods cannot have users of their own.
	noUsers func() error
}

func lookAtMachine(rootless bool, sandboxes *sandbox.Runtime) machine {
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	_, serr := os.Stat("/sys/fs/selinux/enforce")
	return machine{appArmor: err == nil && strings.HasPrefix(string(enabled), "Y"), seLinux: serr == nil, rootless: rootless, noUsers: sandboxes.OwnUsers}
}

// check says which of a pod's fields this machine cannot honour: those that a
// pod must not run without, and those that it runs without.
func (m machine) check(p *corev1.Pod) (refused field.ErrorList, ignored []pod.Problem) {
	appArmor := func(profile *corev1.AppArmorProfile, at *field.Path) {
		switch {
		case profile == nil || profile.Type == corev1.AppArmorProfileTypeUnconfined:
		case profile.Type == corev1.AppArmorProfileTypeRuntimeDefault:
			ignored = append(ignored, pod.Problem{Field: at.String(), Reason: "podrun loads no AppArmor profile"})
		case !m.appArmor:
			refused = append(refused, field.Forbidden(at, "Cannot enforce AppArmor: AppArmor is not enabled on the host"))
		}
	}
	seLinux := func(options *corev1.SELinuxOptions, at *field.Path) {
		switch {
		case options == nil:
		case m.seLinux:
			refused = append(refused, field.Forbidden(at, "podrun sets no SELinux labels"))
		default:
			ignored = append(ignored, pod.Problem{Field: at.String(), Reason: "SELinux is not enabled on the host"})
		}
	}
	spec := field.NewPath("spec")
	if c := p.Spec.SecurityContext; c != nil {
		at := spec.Child("securityContext")
		appArmor(c.AppArmorProfile, at.Child("appArmorProfile"))
		seLinux(c.SELinuxOptions, at.Child("seLinuxOptions"))
	}
	lists := map[string][]corev1.Container{"initContainers": p.Spec.InitContainers, "containers": p.Spec.Containers}
	for _, list := range []string{"initContainers", "containers"} {
		for i := range lists[list] {
			if c := lists[list][i].SecurityContext; c != nil {
				at := spec.Child(list).Index(i).Child("securityContext")
				appArmor(c.AppArmorProfile, at.Child("appArmorProfile"))
				seLinux(c.SELinuxOptions, at.Child("seLinuxOptions"))
			}
		}
	}
	if users := p.Spec.HostUsers; users != nil && !*users && !m.rootless {
		if err := m.noUsers(); err != nil {
			refused = append(refused, field.Forbidden(spec.Child("hostUsers"), "podrun as root cannot give the pod users of its own: "+explain(err)))
		}
	}
	return refused, ignored
}

// rejection is why the pod is not to run here at all, in the kubelet's words;
// reason is "" when it may.
func rejection(p *corev1.Pod) (reason, message string) {
	if p.Spec.SecurityContext == nil {
		return "", ""
	}
	for _, s := range p.Spec.SecurityContext.Sysctls {
		name := sandbox.SysctlName(s.Name)
		switch owner := sandbox.SysctlNamespace(name); {
		case owner == "":
			return "SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", name)
		case owner == "ipc" && p.Spec.HostIPC, owner == "net" && p.Spec.HostNetwork:
			return "SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowed with host %s enabled", name, owner)
		}
	}
	return "", ""
}

func isTrue(b *bool) bool { return b != nil && *b }
