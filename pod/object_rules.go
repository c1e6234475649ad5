package pod

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The rules of the kinds beside pods are those of the Kubernetes API server
// (pkg/apis/core/v1/defaults.go and pkg/apis/core/validation of Kubernetes
// 1.37), in its words.

const immutableMessage = "field is immutable when `immutable` is set"

// ValidateConfigMap checks a completed ConfigMap.
func ValidateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	size := 0
	for _, key := range slices.Sorted(maps.Keys(c.Data)) {
		at := field.NewPath("data").Key(key)
		errs = append(errs, invalidEach(at, key, validation.IsConfigMapKey(key))...)
		if _, twice := c.BinaryData[key]; twice {
			errs = append(errs, field.Invalid(at, key, "duplicate of key present in binaryData"))
		}
		size += len(c.Data[key])
	}
	for _, key := range slices.Sorted(maps.Keys(c.BinaryData)) {
		errs = append(errs, invalidEach(field.NewPath("binaryData").Key(key), key, validation.IsConfigMapKey(key))...)
		size += len(c.BinaryData[key])
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	return errs
}

// ValidateConfigMapUpdate checks the change of a ConfigMap.
func ValidateConfigMapUpdate(old, updated *corev1.ConfigMap) field.ErrorList {
	if !deref(old.Immutable) {
		return nil
	}
	var errs field.ErrorList
	if !deref(updated.Immutable) {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), immutableMessage))
	}
	if !equality.Semantic.DeepEqual(old.Data, updated.Data) {
		errs = append(errs, field.Forbidden(field.NewPath("data"), immutableMessage))
	}
	if !equality.Semantic.DeepEqual(old.BinaryData, updated.BinaryData) {
		errs = append(errs, field.Forbidden(field.NewPath("binaryData"), immutableMessage))
	}
	return errs
}

// DefaultSecret completes a Secret: its stringData goes into data.
func DefaultSecret(s *corev1.Secret) {
	setTo(&s.Namespace, corev1.NamespaceDefault)
	setTo(&s.Type, corev1.SecretTypeOpaque)
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = map[string][]byte{}
	}
	for key, value := range s.StringData {
		s.Data[key] = []byte(value)
	}
	s.StringData = nil
}

// ValidateSecret checks a completed Secret. No complaint holds a value; one
// about JSON names the character where that went wrong, as Kubernetes does.
func ValidateSecret(s *corev1.Secret) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&s.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	at := field.NewPath("data")
	size := 0
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		errs = append(errs, invalidEach(at.Key(key), key, validation.IsConfigMapKey(key))...)
		size += len(s.Data[key])
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(at, "", corev1.MaxSecretSize))
	}
	require := func(keys ...string) {
		for _, key := range keys {
			if _, ok := s.Data[key]; !ok {
				errs = append(errs, field.Required(at.Key(key), ""))
			}
		}
	}
	requireJSON := func(key string) {
		value, ok := s.Data[key]
		if !ok {
			errs = append(errs, field.Required(at.Key(key), ""))
		} else if err := json.Unmarshal(value, &map[string]any{}); err != nil {
			errs = append(errs, field.Invalid(at.Key(key), "<secret contents redacted>", err.Error()))
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeDockercfg:
		requireJSON(corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		requireJSON(corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			require(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			errs = append(errs, field.Required(at.Key(corev1.SSHAuthPrivateKey), ""))
		}
	case corev1.SecretTypeTLS:
		require(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return errs
}

// ValidateSecretUpdate checks the change of a Secret.
func ValidateSecretUpdate(old, updated *corev1.Secret) field.ErrorList {
	errs := apivalidation.ValidateImmutableField(updated.Type, old.Type, field.NewPath("type"))
	if !deref(old.Immutable) {
		return errs
	}
	if !deref(updated.Immutable) {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), immutableMessage))
	}
	if !equality.Semantic.DeepEqual(old.Data, updated.Data) {
		errs = append(errs, field.Forbidden(field.NewPath("data"), immutableMessage))
	}
	return errs
}

// DefaultPersistentVolumeClaim completes a claim.
func DefaultPersistentVolumeClaim(c *corev1.PersistentVolumeClaim) {
	setTo(&c.Namespace, corev1.NamespaceDefault)
	setPtr(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
}

// ValidatePersistentVolumeClaim checks a completed claim.
func ValidatePersistentVolumeClaim(c *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	at := field.NewPath("spec")
	if len(c.Spec.AccessModes) == 0 {
		errs = append(errs, field.Required(at.Child("accessModes"), "at least 1 access mode is required"))
	}
	modes := []corev1.PersistentVolumeAccessMode{
		corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod,
	}
	for _, mode := range c.Spec.AccessModes {
		if !slices.Contains(modes, mode) {
			errs = append(errs, field.NotSupported(at.Child("accessModes"), mode, modes))
		}
	}
	other := func(m corev1.PersistentVolumeAccessMode) bool {
		return m != corev1.ReadWriteOncePod && slices.Contains(modes, m)
	}
	if slices.Contains(c.Spec.AccessModes, corev1.ReadWriteOncePod) && slices.ContainsFunc(c.Spec.AccessModes, other) {
		errs = append(errs, field.Forbidden(at.Child("accessModes"), "may not use ReadWriteOncePod with other access modes"))
	}
	size, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]
	if path := at.Child("resources").Key(string(corev1.ResourceStorage)); !ok {
		errs = append(errs, field.Required(path, ""))
	} else if size.Sign() <= 0 {
		errs = append(errs, field.Invalid(path, size.String(), "must be greater than zero"))
	}
	for path, class := range map[string]*string{
		"storageClassName": c.Spec.StorageClassName, "volumeAttributesClassName": c.Spec.VolumeAttributesClassName,
	} {
		if name := deref(class); name != "" {
			errs = append(errs, invalidEach(at.Child(path), name, apivalidation.NameIsDNSSubdomain(name, false))...)
		}
	}
	errs = append(errs, metav1validation.ValidateLabelSelector(c.Spec.Selector, metav1validation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	const filesystem = corev1.PersistentVolumeFilesystem
	switch mode := deref(c.Spec.VolumeMode); mode {
	case filesystem:
	case corev1.PersistentVolumeBlock:
		errs = append(errs, field.Forbidden(at.Child("volumeMode"), "a claim is a local directory, which is no block device"))
	default:
		errs = append(errs, field.NotSupported(at.Child("volumeMode"), mode, []corev1.PersistentVolumeMode{corev1.PersistentVolumeBlock, filesystem}))
	}
	if c.Spec.DataSource != nil || c.Spec.DataSourceRef != nil {
		errs = append(errs, field.Forbidden(at.Child("dataSource"), "a claim begins as an empty directory"))
	}
	return errs
}

// ValidatePersistentVolumeClaimUpdate checks the change of a claim: it can
// only ask for more.
func ValidatePersistentVolumeClaimUpdate(old, updated *corev1.PersistentVolumeClaim) field.ErrorList {
	at := field.NewPath("spec")
	was, is := old.Spec.Resources.Requests[corev1.ResourceStorage], updated.Spec.Resources.Requests[corev1.ResourceStorage]
	same := updated.Spec.DeepCopy()
	same.Resources.Requests = old.Spec.Resources.Requests
	same.VolumeAttributesClassName = old.Spec.VolumeAttributesClassName
	if !equality.Semantic.DeepEqual(&old.Spec, same) {
		return field.ErrorList{field.Forbidden(at, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims")}
	}
	if is.Cmp(was) < 0 {
		return field.ErrorList{field.Forbidden(at.Child("resources", "requests", "storage"),
			fmt.Sprintf("field can not be less than status.capacity (%s)", was.String()))}
	}
	return nil
}

// DefaultNamespace completes a Namespace as the API server does: with a label
// that selectors can name it by.
func DefaultNamespace(n *corev1.Namespace) {
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
	if len(n.Spec.Finalizers) == 0 {
		n.Spec.Finalizers = []corev1.FinalizerName{corev1.FinalizerKubernetes}
	}
}

// ValidateNamespace checks a completed Namespace.
func ValidateNamespace(n *corev1.Namespace) field.ErrorList {
	return apivalidation.ValidateObjectMeta(&n.ObjectMeta, false, apivalidation.ValidateNamespaceName, field.NewPath("metadata"))
}

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}
