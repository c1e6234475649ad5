package pod

import "strings"

// otherKinds are the kinds of Kubernetes that podrun knows by name and does
// not take.
var otherKinds = []string{
	"APIService", "Binding", "CSIDriver", "CSINode", "CSIStorageCapacity", "CertificateSigningRequest", "ClusterRole",
	"ClusterRoleBinding", "ConfigMap", "ControllerRevision", "CronJob", "CustomResourceDefinition", "DaemonSet", "Deployment",
	"DeviceClass", "EndpointSlice", "Endpoints", "Event", "FlowSchema", "HorizontalPodAutoscaler", "IPAddress", "Ingress",
	"IngressClass", "Job", "Kustomization", "Lease", "LimitRange", "MutatingAdmissionPolicy", "MutatingWebhookConfiguration",
	"Namespace", "NetworkPolicy", "Node", "PersistentVolume", "PersistentVolumeClaim", "PodDisruptionBudget", "PodTemplate",
	"PriorityClass", "PriorityLevelConfiguration", "ReplicaSet", "ReplicationController", "ResourceClaim",
	"ResourceClaimTemplate", "ResourceQuota", "ResourceSlice", "Role", "RoleBinding", "RuntimeClass", "Secret", "Service",
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
