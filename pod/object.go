package pod

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Complete fills in what the manifest of an object leaves out, whatever its
// kind.
func Complete(v Value) {
	switch o := v.(type) {
	case *corev1.Pod:
		Default(o)
	case *corev1.ConfigMap:
		setTo(&o.Namespace, corev1.NamespaceDefault)
	case *corev1.Secret:
		DefaultSecret(o)
	case *corev1.PersistentVolumeClaim:
		DefaultPersistentVolumeClaim(o)
	case *corev1.Namespace:
		DefaultNamespace(o)
	}
}

// ClaimProtection is the finalizer that keeps a claim while a pod uses it.
const ClaimProtection = "kubernetes.io/pvc-protection"

// checkMetadata refuses what of the metadata of an object beside pods nothing
// here acts on.
func checkMetadata(v Value) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("metadata")
	if v.GetGenerateName() != "" {
		errs = append(errs, field.Forbidden(at.Child("generateName"), "an object without a name cannot be applied again; write metadata.name"))
	}
	_, claim := v.(*corev1.PersistentVolumeClaim)
	for i, f := range v.GetFinalizers() {
		if !claim || f != ClaimProtection {
			errs = append(errs, field.Forbidden(at.Child("finalizers").Index(i), "nothing on this node removes finalizers, so that the object could not be deleted"))
		}
	}
	return errs
}

// Check validates a completed object. Fields that podrun refuses are among
// the complaints.
func Check(v Value) field.ErrorList {
	switch o := v.(type) {
	case *corev1.Pod:
		errs := Validate(o)
		refused, _ := Unsupported(o)
		for _, r := range refused {
			errs = append(errs, field.Forbidden(field.NewPath(r.Field), r.Reason))
		}
		return errs
	case *corev1.ConfigMap:
		return append(ValidateConfigMap(o), checkMetadata(o)...)
	case *corev1.Secret:
		return append(ValidateSecret(o), checkMetadata(o)...)
	case *corev1.PersistentVolumeClaim:
		return append(ValidatePersistentVolumeClaim(o), checkMetadata(o)...)
	case *corev1.Namespace:
		return append(ValidateNamespace(o), checkMetadata(o)...)
	}
	return nil
}

// CheckUpdate checks that an object can become what an update makes of it.
// Both are completed and of one kind.
func CheckUpdate(old, updated Value) field.ErrorList {
	switch o := updated.(type) {
	case *corev1.Pod:
		return ValidateUpdate(old.(*corev1.Pod), o)
	case *corev1.ConfigMap:
		return ValidateConfigMapUpdate(old.(*corev1.ConfigMap), o)
	case *corev1.Secret:
		return ValidateSecretUpdate(old.(*corev1.Secret), o)
	case *corev1.PersistentVolumeClaim:
		return ValidatePersistentVolumeClaimUpdate(old.(*corev1.PersistentVolumeClaim), o)
	}
	return nil
}
