package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/internal/hint"
)

// image finds or pulls one image for the container name of p. It runs beside
// the worker's goroutine.
func (w *worker) image(ctx context.Context, p *corev1.Pod, name, reference string, policy corev1.PullPolicy) (*image.Image, error) {
	fail := func(reason string, err error) error {
		return &startError{container: name, reason: reason, err: fmt.Errorf("pull image %q: %w", reference, err)}
	}
	ref, err := image.ParseReference(reference)
	if err != nil {
		return nil, fail(reasonInvalidName, err)
	}
	field := ""
	if name != "" { // not a volume's
		field = containerField(p, name)
	}
	if policy != corev1.PullAlways {
		img, err := w.s.images.Lookup(ref)
		if err == nil {
			w.note("Pulled", field, fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", reference))
			return img, nil
		}
		if policy == corev1.PullNever {
			return nil, fail(reasonNeverPull, errors.New("the image is not on this machine and imagePullPolicy is Never"))
		}
		if !errors.Is(err, image.ErrNotFound) {
			return nil, fail(reasonErrPull, err)
		}
	}
	w.note("Pulling", field, fmt.Sprintf("Pulling image %q", reference))
	began := time.Now()
	img, err := w.s.images.Pull(ctx, ref, image.PullOptions{Credentials: w.pullCredentials(p, field)})
	if err != nil {
		// Who loaded the image, or built it, has no registry that has it.
		if _, here := w.s.images.Lookup(ref); here == nil && (errors.Is(err, image.ErrNotFound) || image.Unanswered(err)) {
			err = hint.Wrap(err, "an image of that name is on this machine: imagePullPolicy IfNotPresent, which is the default for other tags than latest, uses it")
		}
		return nil, fail(reasonErrPull, err)
	}
	took := time.Since(began).Round(time.Millisecond)
	w.note("Pulled", field, fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.", reference, took, took, img.Size))
	return img, nil
}

// waitsFor tells whether a container waits for reason.
func (w *worker) waitsFor(reason string) bool {
	for _, s := range slices.Concat(w.pod.Status.InitContainerStatuses, w.pod.Status.ContainerStatuses) {
		if s.State.Waiting != nil && s.State.Waiting.Reason == reason {
			return true
		}
	}
	return false
}

// pullBacksOff tells that podrun waits before it pulls again.
func (w *worker) pullBacksOff(ctx context.Context) {
	for _, c := range allContainers(w.pod) {
		if s := lookStatus(w.pod, c.Name); s != nil && s.State.Waiting != nil && s.State.Waiting.Reason == reasonErrPull {
			w.note("BackOff", containerField(w.pod, c.Name), fmt.Sprintf("Back-off pulling image %q", c.Image))
			w.warn("Failed", containerField(w.pod, c.Name), "Error: "+reasonPullBackOff)
		}
	}
	w.save(ctx, func(p *corev1.Pod, r *run) { pullBackOff(p) })
}

// pullBackOff turns ErrImagePull into the reason that kubectl shows until the
// next try.
func pullBackOff(p *corev1.Pod) {
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			if s := list[i].State.Waiting; s != nil && s.Reason == reasonErrPull {
				s.Reason = reasonPullBackOff
				s.Message = fmt.Sprintf("Back-off pulling image %q: %s: %s", list[i].Image, reasonErrPull, s.Message)
			}
		}
	}
}

// pin saves which images the pod has, as far as they are there, before a
// container is made of them. References are those that were pulled: somebody may
// have changed the stored pod meanwhile.
func (w *worker) pin(ctx context.Context, from *pulls) {
	containers, volumes := map[string]pinnedImage{}, map[string]pinnedImage{}
	from.mu.Lock()
	for _, c := range allContainers(from.pod) {
		if img, ok := from.images[c.Name]; ok {
			pin := w.pinned(c.Image, img)
			if c.ImagePullPolicy == corev1.PullAlways {
				pin.Incarnation = w.run.Incarnation[c.Name]
			}
			containers[c.Name] = pin
		}
	}
	for _, v := range from.pod.Spec.Volumes {
		if img, ok := from.volumes[v.Name]; ok {
			volumes[volumePin(v.Name)] = w.pinned(v.Image.Reference, img)
		}
	}
	from.mu.Unlock()
	same := func(name string, pin pinnedImage) bool { return w.run.Images[name] == pin }
	maps.DeleteFunc(containers, same)
	maps.DeleteFunc(volumes, same)
	if len(containers)+len(volumes) == 0 {
		return
	}
	w.save(ctx, func(p *corev1.Pod, r *run) {
		maps.Copy(r.Images, volumes)
		for name, pin := range containers {
			r.Images[name] = pin
			s := statusOf(p, name)
			s.Image, s.ImageID = pin.Reference, imageID(pin)
		}
	})
}

func (w *worker) pinned(reference string, img *image.Image) pinnedImage {
	pin := pinnedImage{Reference: reference, Name: reference, ID: string(img.ID), Digest: string(img.Digest)}
	if ref, err := image.ParseReference(reference); err == nil {
		if ref, err = w.s.images.Resolved(ref); err == nil {
			pin.Name = ref.String()
		}
	}
	return pin
}

// imageID is status.containerStatuses[*].imageID: the repository with the
// digest of what was pulled.
func imageID(pin pinnedImage) string {
	ref, err := image.ParseReference(cmp.Or(pin.Name, pin.Reference)) // an older podrun kept no name
	if err != nil || pin.Digest == "" {
		return pin.ID
	}
	return ref.Registry() + "/" + ref.Repository() + "@" + pin.Digest
}

// explain is err on one line, with its mend.
func explain(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if mend := hint.Of(err); mend != "" {
		text += "; " + mend
	}
	return text
}
