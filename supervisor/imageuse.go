package supervisor

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"get.podrun.dev/podrun/image"
)

// ImageUsers tells which containers and volumes use each image, or will when
// their pod has found all of its images. Those of a pod that is finished use
// none: nothing of them is left but their logs.
func (s *Supervisor) ImageUsers() (map[image.Digest][]string, error) {
	runs, _, err := s.store.List(kindRun, "")
	if err != nil {
		return nil, err
	}
	users := map[image.Digest][]string{}
	pinned := map[types.NamespacedName]*run{}
	for _, o := range runs {
		r := new(run)
		if err := json.Unmarshal(o.Value, r); err != nil {
			return nil, fmt.Errorf("pod %s/%s: %w", o.Namespace, o.Name, err)
		}
		pinned[types.NamespacedName{Namespace: o.Namespace, Name: o.Name}] = r
		if r.State == Finished {
			continue
		}
		for name, pin := range r.Images {
			if !strings.HasPrefix(name, volumePin("")) {
				name = "container " + name
			}
			id := image.Digest(pin.ID)
			users[id] = append(users[id], imageUserOf(name, o.Namespace, o.Name))
		}
	}
	if err := s.imagesToBe(pinned, users); err != nil {
		return nil, err
	}
	for _, list := range users {
		slices.Sort(list)
	}
	return users, nil
}

func imageUserOf(what, namespace, pod string) string {
	return fmt.Sprintf("%s of pod %s/%s", what, namespace, pod)
}

// imagesToBe adds the images that are here of containers and volumes that have
// none pinned yet.
func (s *Supervisor) imagesToBe(pinned map[types.NamespacedName]*run, users map[image.Digest][]string) error {
	pods, _, err := s.store.List(kindPod, "")
	if err != nil {
		return err
	}
	for _, o := range pods {
		p := new(corev1.Pod)
		if err := json.Unmarshal(o.Value, p); err != nil {
			return fmt.Errorf("pod %s/%s: %w", o.Namespace, o.Name, err)
		}
		r := pinned[types.NamespacedName{Namespace: o.Namespace, Name: o.Name}]
		if r != nil && r.State == Finished {
			continue
		}
		add := func(pin, what, reference string) {
			if r != nil && r.Images[pin].ID != "" {
				return
			}
			if ref, err := image.ParseReference(reference); err == nil {
				if id, ok := s.images.Named(ref); ok {
					users[id] = append(users[id], imageUserOf(what, o.Namespace, o.Name))
				}
			}
		}
		for _, c := range allContainers(p) {
			add(c.Name, "container "+c.Name, c.Image)
		}
		for _, v := range p.Spec.Volumes {
			if v.Image != nil {
				add(volumePin(v.Name), volumePin(v.Name), v.Image.Reference)
			}
		}
	}
	return nil
}

// ImageUser returns a container that uses the image id, for "rmi".
func (s *Supervisor) ImageUser(id image.Digest) (user string, used bool) {
	users, err := s.ImageUsers()
	switch {
	case err != nil:
		return "a pod that cannot be read", true
	case len(users[id]) > 0:
		return users[id][0], true
	}
	return "", false
}
