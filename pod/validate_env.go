package pod

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const oneSource = "may not have more than one field specified at a time"

func (v *validator) env(env []corev1.EnvVar, at *field.Path) {
	for i, e := range env {
		at := at.Index(i)
		if e.Name == "" {
			v.required(at.Child("name"), "")
		} else {
			v.invalid(at.Child("name"), e.Name, validation.IsRelaxedEnvVarName(e.Name)...)
		}
		if e.ValueFrom == nil {
			continue
		}
		at = at.Child("valueFrom")
		switch n := v.envSource(e.ValueFrom, at); {
		case n == 0:
			v.invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
		case e.Value != "":
			v.invalid(at, "", "may not be specified when `value` is not empty")
		case n > 1:
			v.invalid(at, "", oneSource)
		}
	}
}

// envSource checks where a value comes from, and counts the sources.
func (v *validator) envSource(s *corev1.EnvVarSource, at *field.Path) (sources int) {
	if r := s.FieldRef; r != nil {
		sources++
		v.fieldRef(r, at.Child("fieldRef"), "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
			"spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")
	}
	if r := s.ResourceFieldRef; r != nil {
		sources++
		v.resourceFieldRef(r, at.Child("resourceFieldRef"), false)
	}
	if r := s.ConfigMapKeyRef; r != nil {
		sources++
		v.key(r.Name, r.Key, at.Child("configMapKeyRef"))
	}
	if r := s.SecretKeyRef; r != nil {
		sources++
		v.key(r.Name, r.Key, at.Child("secretKeyRef"))
	}
	if r := s.FileKeyRef; r != nil {
		sources++
		v.fileKey(r, at.Child("fileKeyRef"))
	}
	return sources
}

// key checks a reference to one key of an object.
func (v *validator) key(name, key string, at *field.Path) {
	v.invalid(at.Child("name"), name, apivalidation.NameIsDNSSubdomain(name, false)...)
	if key == "" {
		v.required(at.Child("key"), "")
	} else {
		v.invalid(at.Child("key"), key, validation.IsConfigMapKey(key)...)
	}
}

func (v *validator) fileKey(r *corev1.FileKeySelector, at *field.Path) {
	if r.Key == "" {
		v.required(at.Child("key"), "")
	} else {
		v.invalid(at.Child("key"), r.Key, validation.IsRelaxedEnvVarName(r.Key)...)
	}
	if r.VolumeName == "" {
		v.required(at.Child("volumeName"), "")
	} else {
		v.label(at.Child("volumeName"), r.VolumeName)
	}
	if r.Path == "" {
		v.required(at.Child("path"), "")
	} else {
		v.noBacksteps(r.Path, at.Child("path"))
	}
	for i := len(v.spec.Volumes) - 1; i >= 0; i-- {
		if volume := &v.spec.Volumes[i]; volume.Name == r.VolumeName {
			if volume.EmptyDir == nil {
				v.invalid(at.Child("volumeName"), r.VolumeName, "referenced volume must be of type emptyDir")
			}
			return
		}
	}
	v.add(field.NotFound(at.Child("volumeName"), r.VolumeName))
}

func (v *validator) envFrom(sources []corev1.EnvFromSource, at *field.Path) {
	object := func(name string, at *field.Path) {
		if name == "" {
			v.required(at.Child("name"), "")
		} else {
			// A prefix of a name would do here: Kubernetes checks no more.
			v.invalid(at.Child("name"), name, apivalidation.NameIsDNSSubdomain(name, true)...)
		}
	}
	for i, s := range sources {
		at := at.Index(i)
		if s.Prefix != "" {
			v.invalid(at.Child("prefix"), s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix)...)
		}
		if s.ConfigMapRef != nil {
			object(s.ConfigMapRef.Name, at.Child("configMapRef"))
		}
		if s.SecretRef != nil {
			object(s.SecretRef.Name, at.Child("secretRef"))
		}
		switch {
		case s.ConfigMapRef == nil && s.SecretRef == nil:
			v.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`")
		case s.ConfigMapRef != nil && s.SecretRef != nil:
			v.invalid(at, "", oneSource)
		}
	}
}

// fieldPaths are the fields that a fieldRef may name at all.
var fieldPaths = []string{
	"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid", "spec.host", "spec.nodeName",
	"spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.phase",
	"status.podIP", "status.podIPs",
}

// fieldRef checks a reference to a field of the pod, which is to be one of
// those that are allowed here.
func (v *validator) fieldRef(r *corev1.ObjectFieldSelector, at *field.Path, allowed ...string) {
	path := at.Child("fieldPath")
	cannot := func(format string, args ...any) {
		v.invalid(path, r.FieldPath, "error converting fieldPath: "+fmt.Sprintf(format, args...))
	}
	switch {
	case r.APIVersion == "":
		v.required(at.Child("apiVersion"), "")
		return
	case r.FieldPath == "":
		v.required(path, "")
		return
	case r.APIVersion != "v1":
		cannot("unsupported pod version: %s", r.APIVersion)
		return
	}
	if of, key, ok := cutSubscript(r.FieldPath); ok {
		switch of {
		case "metadata.annotations":
			v.invalid(path, key, validation.IsQualifiedName(strings.ToLower(key))...)
		case "metadata.labels":
			v.invalid(path, key, validation.IsQualifiedName(key)...)
		default:
			cannot("field label does not support subscript: %s", r.FieldPath)
		}
		return
	}
	if !slices.Contains(fieldPaths, r.FieldPath) {
		cannot("field label not supported: %s", r.FieldPath)
	} else if r.FieldPath != "spec.host" || !slices.Contains(allowed, "spec.nodeName") { // its old name
		oneOf(v, path, r.FieldPath, allowed...)
	}
}

// cutSubscript returns OF and KEY of OF['KEY'].
func cutSubscript(path string) (of, key string, ok bool) {
	if path, ok = strings.CutSuffix(path, "']"); !ok {
		return "", "", false
	}
	of, key, ok = strings.Cut(path, "['")
	return of, key, ok && of != ""
}

// resourceFields are the resources that a resourceFieldRef may name.
var resourceFields = []string{
	"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory",
}

// resourceFieldRef checks a reference to a resource of a container, which a
// volume has to name.
func (v *validator) resourceFieldRef(r *corev1.ResourceFieldSelector, at *field.Path, volume bool) {
	_, name, _ := strings.Cut(r.Resource, ".")
	huge := strings.HasPrefix(r.Resource, "limits.hugepages-") || strings.HasPrefix(r.Resource, "requests.hugepages-")
	known := slices.Contains(resourceFields, r.Resource)
	switch {
	case volume && r.ContainerName == "":
		v.required(at.Child("containerName"), "")
	case r.Resource == "":
		v.required(at.Child("resource"), "")
	case !known && !huge:
		v.add(field.NotSupported(at.Child("resource"), r.Resource, resourceFields))
	}
	if r.Divisor.IsZero() || !known && !huge {
		return
	}
	const bytes = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei"
	allowed, what := bytes, name
	switch {
	case huge:
		what = "hugepages"
	case name == string(corev1.ResourceCPU):
		allowed = "1m and 1"
	case name == string(corev1.ResourceEphemeralStorage):
		what = "local ephemeral storage"
	}
	if !slices.Contains(strings.Fields(strings.NewReplacer(",", "", "and", "").Replace(allowed)), r.Divisor.String()) {
		v.invalid(at.Child("divisor"), r.Divisor.String(), fmt.Sprintf("only divisor's values %s are supported with the %s resource", allowed, what))
	}
}
