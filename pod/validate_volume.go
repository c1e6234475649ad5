package pod

import (
	"path"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podVolumes checks the volumes, and keeps those that are valid for the mounts.
func (v *validator) podVolumes(at *field.Path) {
	v.volumes = map[string]*corev1.VolumeSource{}
	for i := range v.spec.Volumes {
		volume, at := &v.spec.Volumes[i], at.Index(i)
		before := len(v.errs)
		v.volumeSource(&volume.VolumeSource, at)
		if volume.Name == "" {
			v.required(at.Child("name"), "")
		} else {
			v.label(at.Child("name"), volume.Name)
		}
		if v.volumes[volume.Name] != nil {
			v.add(field.Duplicate(at.Child("name"), volume.Name))
		}
		if len(v.errs) == before {
			v.volumes[volume.Name] = &volume.VolumeSource
		}
	}
}

func (v *validator) volumeSource(s *corev1.VolumeSource, at *field.Path) {
	source := reflect.ValueOf(s).Elem()
	var types []string // that are set, by the names of their fields
	for i := range source.NumField() {
		if !source.Field(i).IsNil() {
			name, _, _ := strings.Cut(source.Type().Field(i).Tag.Get("json"), ",")
			types = append(types, name)
		}
	}
	if len(types) == 0 {
		v.required(at, "must specify a volume type")
		return
	}
	first := types[0]
	if s.EmptyDir != nil {
		first = "emptyDir"
	}
	for _, name := range types {
		if name != first {
			v.forbidden(at.Child(name), "may not specify more than 1 volume type")
		}
	}
	at = at.Child(first)
	switch first {
	case "emptyDir":
		if limit := s.EmptyDir.SizeLimit; limit != nil && limit.Sign() < 0 {
			v.forbidden(at.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")
		}
	case "hostPath":
		v.hostPath(s.HostPath, at)
	case "secret":
		if s.Secret.SecretName == "" {
			v.required(at.Child("secretName"), "")
		}
		v.mode(s.Secret.DefaultMode, at.Child("defaultMode"))
		v.items(s.Secret.Items, at.Child("items"))
	case "configMap":
		if s.ConfigMap.Name == "" {
			v.required(at.Child("name"), "")
		}
		v.mode(s.ConfigMap.DefaultMode, at.Child("defaultMode"))
		v.items(s.ConfigMap.Items, at.Child("items"))
	case "downwardAPI":
		v.mode(s.DownwardAPI.DefaultMode, at.Child("defaultMode"))
		v.downwardFiles(s.DownwardAPI.Items, at.Child("items"))
	case "persistentVolumeClaim":
		if s.PersistentVolumeClaim.ClaimName == "" {
			v.required(at.Child("claimName"), "")
		}
	case "projected":
		v.mode(s.Projected.DefaultMode, at.Child("defaultMode"))
		v.projected(s.Projected.Sources, at)
	case "image":
		if s.Image.Reference == "" {
			v.required(at.Child("reference"), "")
		}
		v.pullPolicy(s.Image.PullPolicy, at.Child("pullPolicy"))
	}
}

func (v *validator) hostPath(h *corev1.HostPathVolumeSource, at *field.Path) {
	if h.Path == "" {
		v.required(at.Child("path"), "")
		return
	}
	v.noBacksteps(h.Path, at.Child("path"))
	if h.Type != nil {
		oneOf(v, at.Child("type"), *h.Type, corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
			corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)
	}
}

// projected checks the sources of a projected volume, no two of which may write
// one file.
func (v *validator) projected(sources []corev1.VolumeProjection, at *field.Path) {
	paths := sets.New[string]()
	write := func(path, by string) {
		if path == "" {
			return
		}
		if paths.Has(path) {
			v.invalid(at, by, "conflicting duplicate paths")
		}
		paths.Insert(path)
	}
	object := func(name string, items []corev1.KeyToPath, at *field.Path) {
		if name == "" {
			v.required(at.Child("name"), "")
		}
		v.items(items, at.Child("items"))
		for _, item := range items {
			write(item.Path, name)
		}
	}
	for i, s := range sources {
		at := at.Child("sources").Index(i)
		n := 0
		if s.Secret != nil {
			n++
			object(s.Secret.Name, s.Secret.Items, at.Child("secret"))
		}
		if s.ConfigMap != nil {
			n++
			object(s.ConfigMap.Name, s.ConfigMap.Items, at.Child("configMap"))
		}
		if s.DownwardAPI != nil {
			n++
			v.downwardFiles(s.DownwardAPI.Items, at.Child("downwardAPI", "items"))
			for _, file := range s.DownwardAPI.Items {
				write(file.Path, file.Path)
			}
		}
		for _, refused := range []bool{s.ServiceAccountToken != nil, s.ClusterTrustBundle != nil, s.PodCertificate != nil} {
			if refused {
				n++
			}
		}
		if n > 1 {
			v.forbidden(at, "may not specify more than 1 volume type per source")
		}
	}
}

func (v *validator) items(items []corev1.KeyToPath, at *field.Path) {
	for i, item := range items {
		at := at.Index(i)
		if item.Key == "" {
			v.required(at.Child("key"), "")
		}
		v.fileName(item.Path, at.Child("path"))
		v.mode(item.Mode, at.Child("mode"))
	}
}

func (v *validator) downwardFiles(files []corev1.DownwardAPIVolumeFile, at *field.Path) {
	for i, file := range files {
		at := at.Index(i)
		v.fileName(file.Path, at.Child("path"))
		v.mode(file.Mode, at.Child("mode"))
		switch {
		case file.FieldRef != nil:
			v.fieldRef(file.FieldRef, at.Child("fieldRef"), "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")
			if file.ResourceFieldRef != nil {
				v.invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
			}
		case file.ResourceFieldRef == nil:
			v.required(at, "one of fieldRef and resourceFieldRef is required")
		default:
			v.resourceFieldRef(file.ResourceFieldRef, at.Child("resourceFieldRef"), true)
		}
	}
}

// mode checks the mode of a file.
func (v *validator) mode(mode *int32, at *field.Path) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		v.invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")
	}
}

// fileName checks the path of a file in a volume. Names that begin with two
// dots are podrun's own there.
func (v *validator) fileName(name string, at *field.Path) {
	if name == "" {
		v.required(at, "")
	}
	v.descending(name, at)
	if strings.HasPrefix(name, "..") && !strings.HasPrefix(name, "../") {
		v.invalid(at, name, "must not start with '..'")
	}
}

// descending checks a path that stays below where it begins.
func (v *validator) descending(name string, at *field.Path) {
	if path.IsAbs(name) {
		v.invalid(at, name, "must be a relative path")
	}
	v.noBacksteps(name, at)
}

func (v *validator) noBacksteps(name string, at *field.Path) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			v.invalid(at, name, "must not contain '..'")
			return
		}
	}
}

func (v *validator) mounts(c *corev1.Container, at *field.Path) {
	paths := sets.New[string]()
	for i := range c.VolumeMounts {
		m, at := &c.VolumeMounts[i], at.Index(i)
		if m.Name == "" {
			v.required(at.Child("name"), "")
		}
		if v.volumes[m.Name] == nil {
			v.add(field.NotFound(at.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			v.required(at.Child("mountPath"), "")
		}
		if paths.Has(m.MountPath) {
			v.invalid(at.Child("mountPath"), m.MountPath, "must be unique")
		}
		paths.Insert(m.MountPath)
		if m.SubPath != "" {
			v.descending(m.SubPath, at.Child("subPath"))
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				v.invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
			}
			v.descending(m.SubPathExpr, at.Child("subPathExpr"))
		}
		v.propagation(m, c, at)
	}
}

func (v *validator) propagation(m *corev1.VolumeMount, c *corev1.Container, at *field.Path) {
	if p := m.MountPropagation; p != nil {
		at := at.Child("mountPropagation")
		oneOf(v, at, *p, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
		if *p == corev1.MountPropagationBidirectional && (c.SecurityContext == nil || !deref(c.SecurityContext.Privileged)) {
			v.forbidden(at, "Bidirectional mount propagation is available only to privileged containers")
		}
	}
	if r := m.RecursiveReadOnly; r != nil {
		at := at.Child("recursiveReadOnly")
		oneOf(v, at, *r, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)
		if *r != corev1.RecursiveReadOnlyEnabled && *r != corev1.RecursiveReadOnlyIfPossible {
			return
		}
		if !m.ReadOnly {
			v.forbidden(at, "may only be specified when readOnly is true")
		}
		if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
			v.forbidden(at, "may only be specified when mountPropagation is None or not specified")
		}
	}
}
