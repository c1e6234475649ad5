package supervisor

import (
	"context"
	"errors"
	"fmt"
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
	c := w.newContainer(spec.Name)
	c.end = unknownEnd(time.Now())
	w.setLive(c)
	w.over(w.ctx, c)
	return c
}

// create makes a container, held before its first instruction.
func (b builder) create(ctx context.Context, spec *corev1.Container) (*container, error) {
	w := b.w
	cfg, err := b.config(spec)
	defer w.releaseSubPaths(spec, w.run.id(spec.Name))
	if err != nil {
		return nil, &startError{container: spec.Name, reason: reasonCreateConfig, err: err}
	}
	c := w.newContainer(spec.Name)
	fail := func(err error) (*container, error) {
		return nil, &startError{container: spec.Name, reason: reasonCreate, err: err}
	}
	if cfg.Rootfs, err = w.s.images.Rootfs(b.images[spec.Name], w.s.rootfsDir(c.id)); err != nil {
		return fail(err)
	}
	if err := w.s.makeMessage(c.id); err != nil {
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
	w.note("Created", c.field, "Container created")
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
	args := env.Command(spec, img.Config.Entrypoint, img.Config.Cmd)
	if len(args) == 0 {
		return sandbox.ContainerConfig{}, fmt.Errorf("container %q has no command, and neither has its image %q", spec.Name, spec.Image)
	}
	nodename, err := w.s.nodename(w.pod)
	if err != nil {
		return sandbox.ContainerConfig{}, err
	}
	cfg := sandbox.ContainerConfig{
		ID:       w.run.id(spec.Name),
		Name:     spec.Name,
		Args:     args,
		Env:      env.List(),
		Cwd:      first(spec.WorkingDir, img.Config.WorkingDir, "/"),
		User:     img.Config.User,
		Hostname: nodename,
		TTY:      spec.TTY,
		Stdin:    spec.Stdin,
		Mounts:   append(w.etcMounts(), w.s.messageMount(spec, w.run.id(spec.Name))...),
	}
	if err := applySecurity(&cfg, w.pod, spec, w.s.seccompDir()); err != nil {
		return cfg, err
	}
	cfg.Resources = containerResources(&spec.Resources)
	if memory, err := machineMemory(); err == nil {
		score := oomScore(w.pod, spec, memory)
		cfg.OOMScoreAdj = &score
	}
	mounts, err := b.mounts(spec, cfg.ID, env)
	if err != nil {
		return cfg, err
	}
	cfg.Mounts = append(cfg.Mounts, mounts...)
	return cfg, nil
}

// environment is the environment of a container: the image's, then the
// manifest's on top.
func (b builder) environment(spec *corev1.Container, img *image.Image) (*pod.Env, error) {
	w := b.w
	nodename, err := w.s.nodename(w.pod)
	if err != nil {
		return nil, err
	}
	base := append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=" + nodename}, img.Config.Env...)
	if spec.TTY {
		base = append(base, "TERM=xterm")
	}
	live := w.pod.DeepCopy()
	putAddress(live, w.net)
	return pod.Environment(base, spec, live, objects{s: w.s, pod: live, volumes: b.volumes})
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
