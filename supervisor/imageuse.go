package supervisor

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"get.podrun.dev/podrun/image"
)

// ImageUsers tells which containers and volumes use each image. Those of a pod
// that is finished use none: nothing of them is left but their logs.
func (s *Supervisor) ImageUsers() (map[image.Digest][]string, error) {
	runs, _, err := s.store.List(kindRun, "")
	if err != nil {
		return nil, err
	}
	users := map[image.Digest][]string{}
	for _, o := range runs {
		r := new(run)
		if err := json.Unmarshal(o.Value, r); err != nil {
			return nil, fmt.Errorf("pod %s/%s: %w", o.Namespace, o.Name, err)
		}
		if r.State == Finished {
			continue
		}
		for name, pin := range r.Images {
			if !strings.HasPrefix(name, volumePin("")) {
				name = "container " + name
			}
			id := image.Digest(pin.ID)
			users[id] = append(users[id], fmt.Sprintf("%s of pod %s/%s", name, o.Namespace, o.Name))
		}
	}
	for _, list := range users {
		slices.Sort(list)
	}
	return users, nil
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
