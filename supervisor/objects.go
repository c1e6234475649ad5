package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"

	"get.podrun.dev/podrun/internal/linux"
	"get.podrun.dev/podrun/pod"
	"get.podrun.dev/podrun/store"
	"get.podrun.dev/podrun/volume"
)

// Kinds of the stored objects that pods refer to: those of the corev1 types.
const (
	kindConfigMap = "ConfigMap"
	kindSecret    = "Secret"
	kindClaim     = "PersistentVolumeClaim"
)

// objects gives what the volumes and environments of a pod are made of. It is
// pod.Sources and volume.Sources, and reads nothing that is not asked for.
type objects struct {
	s       *Supervisor
	pod     *corev1.Pod              // as the downward API shows it
	volumes map[string]volume.Volume // for files of volumes; nil while there are none
	images  map[string]linux.Mount   // of image volumes
}

func (o objects) ConfigMap(name string) (*corev1.ConfigMap, error) {
	m := new(corev1.ConfigMap)
	return m, o.get(kindConfigMap, "configmap", name, m)
}

func (o objects) Secret(name string) (*corev1.Secret, error) {
	s := new(corev1.Secret)
	return s, o.get(kindSecret, "secret", name, s)
}

func (o objects) Claim(name string) (*corev1.PersistentVolumeClaim, error) {
	c := new(corev1.PersistentVolumeClaim)
	err := o.get(kindClaim, "persistentvolumeclaim", name, c)
	if err == nil && c.DeletionTimestamp != nil {
		err = fmt.Errorf("persistentvolumeclaim %q is being deleted", name)
	}
	return c, err
}

// get reads one object. resource is what the kubelet and the scheduler call
// its kind in the error for one that is not there.
func (o objects) get(kind, resource, name string, into any) error {
	stored, err := o.s.store.Get(store.Key{Kind: kind, Namespace: o.pod.Namespace, Name: name})
	if errors.Is(err, store.ErrNotFound) {
		return apierrors.NewNotFound(corev1.Resource(resource), name)
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(stored.Value, into); err != nil {
		return fmt.Errorf("stored %s %s/%s: %w", resource, o.pod.Namespace, name, err)
	}
	return nil
}

func (o objects) Field(path string) (string, error) { return pod.Field(o.pod, path) }

func (o objects) Resource(ref *corev1.ResourceFieldSelector) (string, error) {
	return pod.ResourceField(o.pod, nil, ref, o.Allocatable)
}

// Image returns what was found for an image volume.
func (o objects) Image(name string) (linux.Mount, error) {
	m, ok := o.images[name]
	if !ok {
		return m, fmt.Errorf("internal error: no image for volume %q", name)
	}
	return m, nil
}

func (o objects) OpenFile(name, path string) (io.ReadCloser, error) {
	v, ok := o.volumes[name]
	if !ok {
		return nil, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef", name)
	}
	f, err := volume.Open(v, path)
	if err != nil {
		return nil, err // not a nil *os.File in an interface
	}
	return f, nil
}

// Allocatable is what this node has for pods: all that the machine has. What
// cannot be found out is left out.
func (o objects) Allocatable() corev1.ResourceList {
	list := corev1.ResourceList{corev1.ResourceCPU: *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI)}
	var memory unix.Sysinfo_t
	if err := unix.Sysinfo(&memory); err == nil {
		list[corev1.ResourceMemory] = *resource.NewQuantity(int64(memory.Totalram)*int64(memory.Unit), resource.BinarySI)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(o.s.paths.Data, &disk); err == nil {
		list[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(disk.Blocks)*disk.Bsize, resource.BinarySI)
	}
	return list
}

// references returns the objects that p is made of.
func references(p *corev1.Pod) map[store.Key]bool {
	keys := map[store.Key]bool{}
	add := func(kind, name string) {
		keys[store.Key{Kind: kind, Namespace: p.Namespace, Name: name}] = true
	}
	for _, s := range p.Spec.ImagePullSecrets {
		add(kindSecret, s.Name)
	}
	for _, c := range allContainers(p) {
		for _, e := range c.EnvFrom {
			switch {
			case e.ConfigMapRef != nil:
				add(kindConfigMap, e.ConfigMapRef.Name)
			case e.SecretRef != nil:
				add(kindSecret, e.SecretRef.Name)
			}
		}
		for _, e := range c.Env {
			switch from := e.ValueFrom; {
			case from == nil:
			case from.ConfigMapKeyRef != nil:
				add(kindConfigMap, from.ConfigMapKeyRef.Name)
			case from.SecretKeyRef != nil:
				add(kindSecret, from.SecretKeyRef.Name)
			}
		}
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		shownObjects(v, add)
		if v.PersistentVolumeClaim != nil {
			add(kindClaim, v.PersistentVolumeClaim.ClaimName)
		}
	}
	return keys
}

// shownObjects names the objects that a volume shows, and the pod itself for
// one that shows fields of it.
func shownObjects(v *corev1.Volume, add func(kind, name string)) {
	switch {
	case v.ConfigMap != nil:
		add(kindConfigMap, v.ConfigMap.Name)
	case v.Secret != nil:
		add(kindSecret, v.Secret.SecretName)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			switch {
			case s.ConfigMap != nil:
				add(kindConfigMap, s.ConfigMap.Name)
			case s.Secret != nil:
				add(kindSecret, s.Secret.Name)
			}
		}
	}
}

var _ interface {
	pod.Sources
	volume.Sources
} = objects{}
