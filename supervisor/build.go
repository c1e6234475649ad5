package supervisor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/pod"
	"get.podrun.dev/podrun/sandbox"
	"get.podrun.dev/podrun/volume"
)

// builder makes the containers of one attempt to start a pod from what that
// attempt prepared.
type builder struct {
	w       *worker
	images  map[string]*image.Image  // by container
	volumes map[string]volume.Volume // by volume name
}

// find returns the current incarnation of a container if it is there, and nil
// if it has to be created. One that ran and has vanished is returned as ended.
func (b builder) find(spec *corev1.Container) *container {
	w := b.w
	id := w.run.id(spec.Name)
	if c := w.container(spec.Name); c != nil && c.id == id {
		return c
	}
	if !w.wasRunning(spec.Name, id) {
		return nil
	}
	c := newContainer(spec.Name, id, w.run.Incarnation[spec.Name])
	c.end = unknownEnd(time.Now())
	w.setLive(c)
	w.over(w.ctx, c)
	return c
}

// create makes a container, held before its first instruction.
func (b builder) create(ctx context.Context, spec *corev1.Container) (*container, error) {
	w := b.w
	cfg, err := b.config(spec)
	if err != nil {
		return nil, &startError{container: spec.Name, reason: reasonCreateConfig, err: err}
	}
	c := newContainer(spec.Name, cfg.ID, w.run.Incarnation[spec.Name])
	fail := func(err error) (*container, error) {
		return nil, &startError{container: spec.Name, reason: reasonCreate, err: err}
	}
	if cfg.Rootfs, err = w.s.images.Rootfs(b.images[spec.Name], w.s.rootfsDir(c.id)); err != nil {
		return fail(err)
	}
	c.box, err = w.box.CreateContainer(ctx, cfg)
	var refused *sandbox.StartError
	if errors.As(err, &refused) {
		w.refused(c, refused)
		w.setLive(c)
		return c, nil
	}
	if err != nil {
		return fail(errors.Join(err, w.s.images.RemoveRootfs(w.s.rootfsDir(c.id))))
	}
	w.setLive(c)
	if err := w.copyOutput(w.ctx, c); err != nil {
		return fail(err)
	}
	w.note("Created", containerField(w.pod, c.name), "Created container "+c.name)
	return c, nil
}

// config says what the sandbox is to make of a container of the manifest and
// its image.
func (b builder) config(spec *corev1.Container) (sandbox.ContainerConfig, error) {
	w := b.w
	img := b.images[spec.Name]
	env, err := b.environment(spec, img)
	if err != nil {
		return sandbox.ContainerConfig{}, err
	}
	args := pod.Command(spec, img.Config.Entrypoint, img.Config.Cmd, env)
	if len(args) == 0 {
		return sandbox.ContainerConfig{}, fmt.Errorf("container %q has no command, and neither has its image %q", spec.Name, spec.Image)
	}
	cfg := sandbox.ContainerConfig{
		ID:       w.run.id(spec.Name),
		Name:     spec.Name,
		Args:     args,
		Env:      env,
		Cwd:      first(spec.WorkingDir, img.Config.WorkingDir, "/"),
		User:     img.Config.User,
		Hostname: hostname(w.pod),
		TTY:      spec.TTY,
		Stdin:    spec.Stdin,
		Mounts:   w.etcMounts(),
	}
	if err := applySecurity(&cfg, w.pod.Spec.SecurityContext, spec.SecurityContext); err != nil {
		return cfg, err
	}
	cfg.Resources = resources(spec)
	mounts, err := b.mounts(spec)
	if err != nil {
		return cfg, err
	}
	cfg.Mounts = append(cfg.Mounts, mounts...)
	return cfg, nil
}

// environment is the environment of a container: the image's, then the
// manifest's on top, in "NAME=value" form.
func (b builder) environment(spec *corev1.Container, img *image.Image) ([]string, error) {
	w := b.w
	base := append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=" + hostname(w.pod)}, img.Config.Env...)
	if spec.TTY {
		base = append(base, "TERM=xterm")
	}
	live := w.pod.DeepCopy()
	putAddress(live, w.net)
	return pod.Environment(base, spec, live)
}

// mounts resolves the container's volume mounts.
func (b builder) mounts(spec *corev1.Container) ([]sandbox.Mount, error) {
	var mounts []sandbox.Mount
	for _, m := range spec.VolumeMounts {
		v, ok := b.volumes[m.Name]
		if !ok {
			return nil, fmt.Errorf("volume mount %q of container %q names no volume", m.Name, spec.Name)
		}
		mounts = append(mounts, sandbox.Mount{
			Source: v.Path, Destination: filepath.Clean(m.MountPath), ReadOnly: m.ReadOnly,
		})
	}
	return mounts, nil
}

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

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func firstSet[T any](values ...*T) *T {
	for _, v := range values {
		if v != nil {
			return v
		}
	}
	return nil
}
