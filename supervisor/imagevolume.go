package supervisor

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/internal/linux"
)

// volumePin is the name under which the image of a volume is pinned, beside
// those of containers. It is no container's name.
func volumePin(volume string) string { return "volume " + volume }

// volumeImages finds the image of every image volume, pulling by its
// pullPolicy where it is not pinned yet, and returns how to mount them by the
// volumes' names.
func (w *worker) volumeImages(ctx context.Context) (map[string]linux.Mount, error) {
	var mounts map[string]linux.Mount
	for _, v := range w.pod.Spec.Volumes {
		if v.Image == nil {
			continue
		}
		img, err := w.volumeImage(ctx, v.Name, v.Image)
		if err != nil {
			return nil, err
		}
		mount, err := w.s.images.ReadOnly(img)
		if err != nil {
			return nil, &startError{reason: reasonCreating, event: "FailedMount", err: err}
		}
		if mounts == nil {
			mounts, w.found = map[string]linux.Mount{}, map[string]*image.Image{}
		}
		mounts[v.Name], w.found[v.Name] = mount, img
	}
	return mounts, nil
}

func (w *worker) volumeImage(ctx context.Context, name string, source *corev1.ImageVolumeSource) (*image.Image, error) {
	if pin, ok := w.run.Images[volumePin(name)]; ok && pin.Reference == source.Reference {
		if img, err := w.s.images.Get(pin.ID); err == nil {
			return img, nil
		}
	}
	img, err := w.image(ctx, "", source.Reference, source.PullPolicy)
	var f *startError
	if errors.As(err, &f) {
		f.err = fmt.Errorf("volume %q: %w", name, f.err)
	}
	return img, err
}
