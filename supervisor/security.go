package supervisor

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/sandbox"
)

// applySecurity carries the security contexts over; the container's goes
// before the pod's
// (https://kubernetes.io/docs/tasks/configure-pod-container/security-context/).
func applySecurity(cfg *sandbox.ContainerConfig, p *corev1.PodSecurityContext, c *corev1.SecurityContext) error {
	if p == nil {
		p = &corev1.PodSecurityContext{}
	}
	if c == nil {
		c = &corev1.SecurityContext{}
	}
	user, group := firstSet(c.RunAsUser, p.RunAsUser), firstSet(c.RunAsGroup, p.RunAsGroup)
	if user != nil {
		cfg.User = fmt.Sprint(*user)
	}
	if group != nil {
		name, _, _ := strings.Cut(first(cfg.User, "0"), ":")
		cfg.User = fmt.Sprintf("%s:%d", name, *group)
	}
	for _, g := range p.SupplementalGroups {
		cfg.SupplementalGroups = append(cfg.SupplementalGroups, int(g))
	}
	if nonRoot := firstSet(c.RunAsNonRoot, p.RunAsNonRoot); nonRoot != nil && *nonRoot {
		if err := checkNonRoot(cfg.User, user != nil); err != nil {
			return err
		}
	}
	if c.ReadOnlyRootFilesystem != nil {
		cfg.ReadonlyRootfs = *c.ReadOnlyRootFilesystem
	}
	if c.AllowPrivilegeEscalation != nil {
		cfg.NoNewPrivileges = !*c.AllowPrivilegeEscalation
	}
	if c.Capabilities != nil {
		cfg.Capabilities = capabilities(c.Capabilities)
	}
	if profile := firstSet(c.SeccompProfile, p.SeccompProfile); profile != nil && profile.Type == corev1.SeccompProfileTypeUnconfined {
		cfg.Seccomp = "unconfined"
	}
	return nil
}

// checkNonRoot refuses a user that is root or cannot be told from it, in the
// kubelet's words; fromManifest tells runAsUser from the image's user.
func checkNonRoot(user string, fromManifest bool) error {
	name, _, _ := strings.Cut(user, ":")
	id, err := strconv.Atoi(first(name, "0"))
	switch {
	case err != nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root", name)
	case id == 0 && fromManifest:
		return errors.New("container's runAsUser breaks non-root policy")
	case id == 0:
		return errors.New("container has runAsNonRoot and image will run as root")
	}
	return nil
}

// capabilities is the default set less what is dropped, plus what is added;
// "ALL" stands for every one.
func capabilities(c *corev1.Capabilities) []string {
	set := map[string]bool{}
	for _, name := range sandbox.DefaultCapabilities() {
		set[name] = true
	}
	change := func(list []corev1.Capability, on bool) {
		for _, capability := range list {
			name := strings.ToUpper(string(capability))
			if name == "ALL" {
				clear(set)
				for _, known := range sandbox.AllCapabilities() {
					set[known] = on
				}
				continue
			}
			if !strings.HasPrefix(name, "CAP_") {
				name = "CAP_" + name
			}
			set[name] = on
		}
	}
	change(c.Drop, false)
	change(c.Add, true)
	list := []string{}
	for name, on := range set {
		if on {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}
