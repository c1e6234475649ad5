package supervisor

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/internal/linux"
)

// volumePin is the name under which the image of a volume is pinned, beside
// those of containers. It is no container's name.
func volumePin(volume string) string { return "volume " + volume }

// hasImageVolumes tells whether a volume of the pod is an image.
func (w *worker) hasImageVolumes() bool {
	return slices.ContainsFunc(w.pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Image != nil })
}

// volumeImages says how to mount the images of image volumes; both are by the
// volumes' names.
func (w *worker) volumeImages(images map[string]*image.Image) (map[string]linux.Mount, error) {
	mounts := map[string]linux.Mount{}
	for name, img := range images {
		mount, err := w.s.images.ReadOnly(img)
		if err != nil {
			return nil, &startError{reason: reasonCreating, event: "FailedMount", err: err}
		}
		mounts[name] = mount
	}
	return mounts, nil
}
