package pod

import corev1 "k8s.io/api/core/v1"

// ConditionLimits is the type of the condition that tells whether the limits
// that a pod asks for are kept to on this machine. A pod that asks for none
// does not have it.
const ConditionLimits corev1.PodConditionType = "podrun.dev/ResourceLimits"
