package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/internal/hint"
)

// images finds the image of every container, pulling by its imagePullPolicy
// where it is not pinned yet
// (https://kubernetes.io/docs/concepts/containers/images/#image-pull-policy).
// A container that started once keeps its image and needs no registry; one
// that need not be made has none in the answer.
func (w *worker) images(ctx context.Context) (map[string]*image.Image, error) {
	specs := allContainers(w.pod)
	found := make(map[string]*image.Image, len(specs))
	type request struct {
		reference string
		policy    corev1.PullPolicy
	}
	asked := map[request][]string{}
	for i := range specs {
		c := &specs[i]
		if w.container(c.Name) != nil || w.completed(c.Name) {
			continue // made already
		}
		if pin, ok := w.run.Images[c.Name]; ok && pin.Reference == c.Image {
			if img, err := w.s.images.Get(pin.ID); err == nil {
				found[c.Name] = img
				continue
			}
		}
		r := request{c.Image, c.ImagePullPolicy}
		asked[r] = append(asked[r], c.Name)
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for r, names := range asked {
		g.Go(func() error {
			img, err := w.image(ctx, names[0], r.reference, r.policy)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, name := range names {
				found[name] = img
			}
			return nil
		})
	}
	return found, g.Wait()
}

// image finds or pulls one image for the container name.
func (w *worker) image(ctx context.Context, name, reference string, policy corev1.PullPolicy) (*image.Image, error) {
	fail := func(reason string, err error) error {
		return &startError{container: name, reason: reason, err: fmt.Errorf("pull image %q: %w", reference, err)}
	}
	ref, err := image.ParseReference(reference)
	if err != nil {
		return nil, fail(reasonInvalidName, err)
	}
	field := ""
	if name != "" { // not a volume's
		field = containerField(w.pod, name)
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
	img, err := w.s.images.Pull(ctx, ref, image.PullOptions{Credentials: w.pullCredentials(field)})
	if err != nil {
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

// pin saves which image each container has, before a container is made of it.
func (w *worker) pin(ctx context.Context, images map[string]*image.Image) {
	pins := map[string]pinnedImage{}
	for _, c := range allContainers(w.pod) {
		img, asked := images[c.Name]
		if !asked {
			continue
		}
		pin := w.pinned(c.Image, img)
		if w.run.Images[c.Name] != pin {
			pins[c.Name] = pin
		}
	}
	volumes := map[string]pinnedImage{}
	for _, v := range w.pod.Spec.Volumes {
		img, asked := w.found[v.Name]
		if !asked {
			continue
		}
		pin := w.pinned(v.Image.Reference, img)
		if w.run.Images[volumePin(v.Name)] != pin {
			volumes[volumePin(v.Name)] = pin
		}
	}
	if len(pins)+len(volumes) == 0 {
		return
	}
	w.save(ctx, func(p *corev1.Pod, r *run) {
		maps.Copy(r.Images, volumes)
		for name, pin := range pins {
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
