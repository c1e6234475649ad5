package supervisor

import (
	"errors"
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/pod"
	"get.podrun.dev/podrun/sandbox"
	"get.podrun.dev/podrun/volume"
)

// prepareVolumes makes the pod's volumes, or finds them made, and sees to it
// that they show what changes. images are those of image volumes.
func (w *worker) prepareVolumes(images map[string]*image.Image) (map[string]volume.Volume, error) {
	w.attempt = revisionOf(w.pod)
	if len(w.pod.Spec.Volumes) == 0 {
		return nil, nil
	}
	from := objects{s: w.s, pod: w.pod}
	if err := missingClaims(w.pod, from); err != nil {
		return nil, &startError{reason: reasonCreating, event: "FailedScheduling", err: err}
	}
	var err error
	if from.images, err = w.volumeImages(images); err != nil {
		return nil, err
	}
	volumes, err := w.s.volumes.Prepare(w.pod, from)
	if err != nil {
		return nil, &startError{reason: reasonCreating, event: "FailedMount", err: err}
	}
	w.follow(w.attempt, false)
	return volumes, nil
}

// missingClaims says in the scheduler's words which claim the pod waits for.
func missingClaims(p *corev1.Pod, from objects) error {
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			if _, err := from.Claim(v.PersistentVolumeClaim.ClaimName); err != nil {
				return err
			}
		}
	}
	return nil
}

// mounts resolves the container's volume mounts. Those of a part of a volume
// are to be released once the container is made.
func (b builder) mounts(spec *corev1.Container, id string, env *pod.Env) ([]sandbox.Mount, error) {
	var mounts []sandbox.Mount
	for i := range spec.VolumeMounts {
		m := &spec.VolumeMounts[i]
		v, ok := b.volumes[m.Name]
		if !ok {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, spec.Name)
		}
		source := v.Path
		path, err := env.SubPath(m)
		if err != nil {
			return nil, err
		}
		if path != "" {
			source, err = b.w.s.volumes.SubPath(string(b.w.uid), id, i, v, path)
			if err != nil {
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", m.Name, spec.Name, err)
			}
		}
		mount := sandbox.Mount{
			Source: source, Destination: filepath.Clean(m.MountPath),
			ReadOnly: m.ReadOnly || v.ReadOnly, NoExec: v.NoExec, NoSUID: v.NoExec, NoDev: v.NoExec,
		}
		if m.MountPropagation != nil {
			mount.Propagation = string(*m.MountPropagation)
		}
		if mount.RecursiveReadOnly, err = recursiveReadOnly(m); err != nil {
			return nil, err
		}
		mounts = append(mounts, mount)
	}
	return mounts, nil
}

// releaseSubPaths takes back what mounts made for the container id, which has
// mounts of its own now or was not made.
func (w *worker) releaseSubPaths(spec *corev1.Container, id string) {
	for i, m := range spec.VolumeMounts {
		if m.SubPath == "" && m.SubPathExpr == "" {
			continue
		}
		if err := w.s.volumes.ReleaseSubPath(string(w.uid), id, i); err != nil {
			w.log.Warn("release a subPath", "container", spec.Name, "err", err)
		}
	}
}

// recursiveReadOnly tells whether what is mounted below a read-only mount is
// read-only too.
func recursiveReadOnly(m *corev1.VolumeMount) (bool, error) {
	if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	err := sandbox.RecursiveReadOnly()
	if err != nil && *m.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled {
		return false, fmt.Errorf("failed to resolve recursive read-only mode: volume %q requested recursive read-only mode, but it is not supported by the runtime: %w", m.Name, err)
	}
	return err == nil, nil
}

// putMounts writes into the status of running containers how their volumes are
// mounted.
func putMounts(p *corev1.Pod, r *run) {
	for _, c := range allContainers(p) {
		if len(c.VolumeMounts) == 0 {
			continue
		}
		s := statusOf(p, c.Name)
		if s.State.Running == nil || len(s.VolumeMounts) > 0 {
			continue
		}
		for i := range c.VolumeMounts {
			m := &c.VolumeMounts[i]
			status := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
			if m.ReadOnly {
				mode := corev1.RecursiveReadOnlyDisabled
				if on, err := recursiveReadOnly(m); on && err == nil {
					mode = corev1.RecursiveReadOnlyEnabled
				}
				status.RecursiveReadOnly = &mode
			}
			if pin, ok := r.Images[volumePin(m.Name)]; ok {
				status.VolumeStatus = &corev1.VolumeStatus{Image: &corev1.ImageVolumeStatus{ImageRef: imageID(pin)}}
			}
			s.VolumeMounts = append(s.VolumeMounts, status)
		}
	}
}

// warnStartFailed notes for "describe" why the pod was not started, with the
// kubelet's reasons.
func (w *worker) warnStartFailed(f *startError) {
	switch {
	case f.event == "FailedMount":
		for _, err := range joined(f.err) {
			w.warn(f.event, "", explain(err))
		}
	case f.event == "FailedScheduling":
		w.warn(f.event, "", unschedulable(f.err))
	case f.container == "":
		w.warn("FailedCreatePodSandBox", "", "Failed to create pod sandbox: "+explain(f.err))
	case f.reason == reasonNeverPull:
		w.warn(f.reason, containerField(w.pod, f.container), fmt.Sprintf("Container image %q is not present with pull policy of Never", w.specOf(f.container).Image))
		w.warn("Failed", containerField(w.pod, f.container), "Error: "+f.reason)
	case f.reason == reasonErrPull || f.reason == reasonInvalidName:
		w.warn("Failed", containerField(w.pod, f.container), "Failed to "+explain(f.err))
		w.warn("Failed", containerField(w.pod, f.container), "Error: "+f.reason)
	default:
		w.warn("Failed", containerField(w.pod, f.container), "Error: "+explain(f.err))
	}
}

// unschedulable says in the scheduler's words why a pod waits.
func unschedulable(err error) string { return "0/1 nodes are available: " + explain(err) + "." }

// joined returns the errors that errors.Join made one.
func joined(err error) []error {
	var many interface{ Unwrap() []error }
	if errors.As(err, &many) {
		return many.Unwrap()
	}
	return []error{err}
}
