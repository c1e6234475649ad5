package main

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// volumes writes what describe says of a pod's volumes: those that a pod of
// podrun's may have.
func (d *description) volumes(volumes []corev1.Volume) {
	if len(volumes) == 0 {
		d.line(0, "Volumes", none)
		return
	}
	d.head(0, "Volumes")
	for i := range volumes {
		d.head(1, volumes[i].Name)
		d.volume(&volumes[i])
	}
}

func (d *description) volume(v *corev1.Volume) {
	switch {
	case v.EmptyDir != nil:
		d.line(2, "Type", "EmptyDir (a temporary directory that shares a pod's lifetime)")
		d.line(2, "Medium", string(v.EmptyDir.Medium))
		limit := "<unset>"
		if v.EmptyDir.SizeLimit != nil {
			limit = v.EmptyDir.SizeLimit.String()
		}
		d.line(2, "SizeLimit", limit)
	case v.HostPath != nil:
		d.line(2, "Type", "HostPath (bare host directory volume)")
		d.line(2, "Path", v.HostPath.Path)
		d.line(2, "HostPathType", string(deref(v.HostPath.Type)))
	case v.Secret != nil:
		d.line(2, "Type", "Secret (a volume populated by a Secret)")
		d.line(2, "SecretName", v.Secret.SecretName)
		d.line(2, "Optional", fmt.Sprint(deref(v.Secret.Optional)))
	case v.ConfigMap != nil:
		d.line(2, "Type", "ConfigMap (a volume populated by a ConfigMap)")
		d.line(2, "Name", v.ConfigMap.Name)
		d.line(2, "Optional", fmt.Sprint(deref(v.ConfigMap.Optional)))
	case v.DownwardAPI != nil:
		d.line(2, "Type", "DownwardAPI (a volume populated by information about the pod)")
		d.head(2, "Items")
		for _, f := range v.DownwardAPI.Items {
			switch {
			case f.FieldRef != nil:
				d.row(3, f.FieldRef.FieldPath+" -> "+f.Path)
			case f.ResourceFieldRef != nil:
				d.row(3, f.ResourceFieldRef.Resource+" -> "+f.Path)
			}
		}
	case v.Projected != nil:
		d.line(2, "Type", "Projected (a volume that contains injected data from multiple sources)")
		for _, source := range v.Projected.Sources {
			switch {
			case source.Secret != nil:
				d.line(2, "SecretName", source.Secret.Name)
				d.line(2, "Optional", fmt.Sprint(deref(source.Secret.Optional)))
			case source.ConfigMap != nil:
				d.line(2, "ConfigMapName", source.ConfigMap.Name)
				d.line(2, "Optional", fmt.Sprint(deref(source.ConfigMap.Optional)))
			case source.DownwardAPI != nil:
				d.line(2, "DownwardAPI", "true")
			}
		}
	case v.PersistentVolumeClaim != nil:
		d.line(2, "Type", "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)")
		d.line(2, "ClaimName", v.PersistentVolumeClaim.ClaimName)
		d.line(2, "ReadOnly", fmt.Sprint(v.PersistentVolumeClaim.ReadOnly))
	case v.Image != nil:
		d.line(2, "Type", "Image (a container image or OCI artifact)")
		d.line(2, "Reference", v.Image.Reference)
		d.line(2, "PullPolicy", string(v.Image.PullPolicy))
	default:
		d.line(2, "Type", "<unknown>")
	}
}
