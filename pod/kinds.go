package pod

import (
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Value is an object of one of the kinds that podrun takes, such as a
// *corev1.Pod or a *corev1.ConfigMap.
type Value interface {
	metav1.Object
	runtime.Object
}

// Kind is a kind of object of Kubernetes' core API, version v1.
type Kind struct {
	Name       string // ConfigMap
	Resource   string // configmaps, as paths and messages have it
	Namespaced bool
	New        func() Value
}

// Kinds are the kinds that podrun takes, in the order in which the objects of
// a manifest are made: what others refer to goes first.
var Kinds = []*Kind{
	{"Namespace", "namespaces", false, func() Value { return new(corev1.Namespace) }},
	{"Secret", "secrets", true, func() Value { return new(corev1.Secret) }},
	{"ConfigMap", "configmaps", true, func() Value { return new(corev1.ConfigMap) }},
	{"PersistentVolumeClaim", "persistentvolumeclaims", true, func() Value { return new(corev1.PersistentVolumeClaim) }},
	{"Pod", "pods", true, func() Value { return new(corev1.Pod) }},
}

// EventKind is the kind of the events that the node writes. No manifest has
// one.
var EventKind = &Kind{"Event", "events", true, func() Value { return new(corev1.Event) }}

// KindNamed returns the kind of a name such as ConfigMap, nil when podrun does
// not take it.
func KindNamed(name string) *Kind {
	for _, k := range Kinds {
		if k.Name == name {
			return k
		}
	}
	return nil
}

// KindOf returns the kind of an object by its Go type.
func KindOf(v Value) *Kind {
	switch v.(type) {
	case *corev1.Namespace:
		return KindNamed("Namespace")
	case *corev1.Secret:
		return KindNamed("Secret")
	case *corev1.ConfigMap:
		return KindNamed("ConfigMap")
	case *corev1.PersistentVolumeClaim:
		return KindNamed("PersistentVolumeClaim")
	case *corev1.Pod:
		return KindNamed("Pod")
	case *corev1.Event:
		return EventKind
	}
	panic(fmt.Sprintf("internal error: %T is of no kind that podrun takes", v))
}

// Decode reads an object of the kind from JSON and sees to it that it says its
// kind, which the items of a list need not.
func (k *Kind) Decode(data []byte) (Value, error) {
	v := k.New()
	if err := json.Unmarshal(data, v); err != nil {
		return nil, fmt.Errorf("%s: %w", k.Name, err)
	}
	v.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(k.Name))
	return v, nil
}

// kindNames lists the kinds that podrun takes, for messages.
func kindNames() []string {
	names := make([]string, len(Kinds))
	for i, k := range Kinds {
		names[len(Kinds)-1-i] = k.Name // Pod first
	}
	return names
}

// takes says which kinds podrun takes.
func takes() string {
	names := kindNames()
	return "podrun takes " + strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// otherKinds are the kinds of Kubernetes that podrun knows by name and does
// not take.
var otherKinds = []string{
	"APIService", "Binding", "CSIDriver", "CSINode", "CSIStorageCapacity", "CertificateSigningRequest", "ClusterRole",
	"ClusterRoleBinding", "ControllerRevision", "CronJob", "CustomResourceDefinition", "DaemonSet", "Deployment",
	"DeviceClass", "EndpointSlice", "Endpoints", "Event", "FlowSchema", "HorizontalPodAutoscaler", "IPAddress", "Ingress",
	"IngressClass", "Job", "Kustomization", "Lease", "LimitRange", "MutatingAdmissionPolicy", "MutatingWebhookConfiguration",
	"NetworkPolicy", "Node", "PersistentVolume", "PodDisruptionBudget", "PodTemplate",
	"PriorityClass", "PriorityLevelConfiguration", "ReplicaSet", "ReplicationController", "ResourceClaim",
	"ResourceClaimTemplate", "ResourceQuota", "ResourceSlice", "Role", "RoleBinding", "RuntimeClass", "Service",
	"ServiceAccount", "ServiceCIDR", "StatefulSet", "StorageClass", "ValidatingAdmissionPolicy",
	"ValidatingAdmissionPolicyBinding", "ValidatingWebhookConfiguration", "VolumeAttachment", "VolumeAttributesClass",
}

// isOtherKind tells whether a kind, or what a list of that kind holds, is one
// of Kubernetes that podrun does not take.
func isOtherKind(kind string) bool {
	for _, k := range otherKinds {
		if kind == k || strings.TrimSuffix(kind, "List") == k {
			return true
		}
	}
	return false
}
