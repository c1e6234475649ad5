package node

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/volume"
)

// diskUsage answers "system df". It walks what containers and claims hold, as
// du does, which may take a while.
func (a *api) diskUsage(w http.ResponseWriter, _ *http.Request) error {
	images, err := a.images.Usage()
	if err != nil {
		return err
	}
	u := DiskUsage{Images: *images, Containers: []ContainerUsage{}, Claims: []ClaimUsage{}, ImageUsers: map[string][]string{}}
	users, err := a.supervisor.ImageUsers()
	if err != nil {
		return err
	}
	for id, list := range users {
		u.ImageUsers[string(id)] = list
	}
	containers, err := a.supervisor.Containers(true)
	if err != nil {
		return err
	}
	for _, c := range containers {
		size, err := treeSize(filepath.Join(a.paths.Data, "containers", c.ID))
		if err != nil {
			return err
		}
		u.Containers = append(u.Containers, ContainerUsage{Container: c, Size: size})
	}
	claims, _, err := a.store.List("PersistentVolumeClaim", "")
	if err != nil {
		return err
	}
	pods, err := a.claimUsers()
	if err != nil {
		return err
	}
	for _, c := range claims {
		size, err := treeSize(volume.ClaimDir(a.paths.Data, c.Namespace, c.Name))
		if err != nil {
			return err
		}
		u.Claims = append(u.Claims, ClaimUsage{Namespace: c.Namespace, Name: c.Name, Pods: pods[c.Namespace+"/"+c.Name], Size: size})
	}
	respond(w, http.StatusOK, u)
	return nil
}

// claimUsers are the pods that name each claim, by NAMESPACE/NAME.
func (a *api) claimUsers() (map[string][]string, error) {
	objects, _, err := a.store.List("Pod", "")
	if err != nil {
		return nil, err
	}
	users := map[string][]string{}
	for _, o := range objects {
		var p corev1.Pod
		if err := json.Unmarshal(o.Value, &p); err != nil {
			return nil, err
		}
		for _, v := range p.Spec.Volumes {
			if v.PersistentVolumeClaim != nil {
				key := o.Namespace + "/" + v.PersistentVolumeClaim.ClaimName
				users[key] = append(users[key], o.Name)
			}
		}
	}
	return users, nil
}

// treeSize is what the files below dir take on disk. What goes away meanwhile
// counts nothing.
func treeSize(dir string) (int64, error) {
	var size int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil && !d.IsDir() {
				size += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			return nil
		}
		return err
	})
	return size, err
}
