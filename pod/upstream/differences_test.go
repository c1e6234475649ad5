package upstream_test

import (
	"regexp"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Everything in which podrun and Kubernetes may differ is in this file.

// admit does what admission plugins, which are no part of the defaults, do in
// every cluster: ServiceAccount and Priority.
func admit(s *corev1.PodSpec) {
	if s.ServiceAccountName == "" {
		s.ServiceAccountName, s.DeprecatedServiceAccount = "default", "default"
	}
	if s.Priority == nil {
		s.Priority = new(int32)
	}
	if s.PreemptionPolicy == nil {
		policy := corev1.PreemptLowerPriority
		s.PreemptionPolicy = &policy
	}
}

// sameDefaults takes over podrun's pull policy of an image whose name is not
// one: Kubernetes takes it for an image without a tag. It is never pulled.
func sameDefaults(ours, theirs *corev1.PodSpec) {
	policy := func(image string, ours, theirs *corev1.PullPolicy) {
		if _, err := reference.ParseNormalizedNamed(image); err != nil {
			*theirs = *ours
		}
	}
	for i := range ours.Containers {
		policy(ours.Containers[i].Image, &ours.Containers[i].ImagePullPolicy, &theirs.Containers[i].ImagePullPolicy)
	}
	for i := range ours.InitContainers {
		policy(ours.InitContainers[i].Image, &ours.InitContainers[i].ImagePullPolicy, &theirs.InitContainers[i].ImagePullPolicy)
	}
	for i := range ours.Volumes {
		if image := ours.Volumes[i].Image; image != nil {
			policy(image.Reference, &image.PullPolicy, &theirs.Volumes[i].Image.PullPolicy)
		}
	}
}

// paths are complaints that Kubernetes makes about something around the field
// that is wrong, or about a path that is not in the manifest. podrun names the
// field, so that the complaint has its line: the paths are compared without
// the difference.
var paths = []struct {
	why     string
	pattern *regexp.Regexp
	same    string
}{
	{"which mount is not said", regexp.MustCompile(`volumeMounts\[\d+\]\.(subPath|subPathExpr|mountPropagation|recursiveReadOnly)$`), "volumeMounts.$1"},
	{"nor which file of the downward API", regexp.MustCompile(`(downwardAPI)\.items\[\d+\]`), "$1"},
	{"nor which source of the environment", regexp.MustCompile(`(envFrom)\[\d+\]$`), "$1"},
	{"nor which header", regexp.MustCompile(`(httpHeaders)\[\d+\]$`), "$1"},
	{"nor which policy", regexp.MustCompile(`(resizePolicy)\[\d+\]$`), "$1"},
	{"the label or annotation of a fieldRef is in its fieldPath", regexp.MustCompile(`(fieldRef)\.fieldPath$`), "$1"},
	{"a slip of the pen", regexp.MustCompile(`downwarAPI$`), "downwardAPI"},
	{"a field of Go", regexp.MustCompile(`^spec\.Host(PID|IPC)$`), "spec.host$1"},
	{"the limit of a container is not in the resources of the pod", regexp.MustCompile(`^spec\.resources\.containers(\[\d+\])\[(.*)\]\.limits$`),
		"spec.containers$1.resources.limits[$2]"},
	{"the whole struct is printed for the field", regexp.MustCompile(`(securityContext)\.allowPrivilegeEscalation$`), "$1"},
	{"namespaces is the field's name", regexp.MustCompile(`(podAffinityTerm|Execution\[\d+\])\.namespaces?(\[\d+\])?$`), "$1.namespace"},
	{"the index is that of matchLabelKeys", regexp.MustCompile(`(topologySpreadConstraints\[\d+\]|podAffinityTerm|Execution\[\d+\])\.matchLabelKeys(\[\d+\])$`), "$1$2"},
	{"an init container is looked at by itself, as if it were the first", regexp.MustCompile(`(initContainers)\[\d+\](\.ports\[\d+\]\.hostPort)$`), "$1[0]$2"},
}

func samePath(path string) string {
	for _, p := range paths {
		path = p.pattern.ReplaceAllString(path, p.same)
	}
	return path
}

// sameDetail leaves out what Kubernetes says that it supports when it does not:
// comparing tolerations are alpha, and off.
func sameDetail(detail string) string {
	return strings.ReplaceAll(detail, `"Equal", "Exists", "Lt", "Gt"`, `"Equal", "Exists"`)
}

// ignored are complaints about what podrun does not look at.
func ignored(e *field.Error) bool {
	for _, prefix := range []string{
		// Annotations that older versions of Kubernetes read.
		"metadata.annotations[container.apparmor.security.beta.kubernetes.io/",
		"metadata.annotations.container.seccomp.security.alpha.kubernetes.io",
		"metadata.annotations.seccomp.security.alpha.kubernetes.io",
		"metadata.annotations[controller.kubernetes.io/pod-deletion-cost]",
	} {
		if strings.HasPrefix(e.Field, prefix) {
			return true
		}
	}
	// Amounts of resources that a pod or container cannot have by their names.
	return e.Detail == "must be an integer" || e.Detail == "Limit must be set for non overcommitable resources" ||
		strings.HasPrefix(e.Detail, "must be equal to ")
}
