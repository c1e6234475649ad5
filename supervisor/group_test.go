package supervisor

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestMadeAgain: only what was made once is made again.
func TestMadeAgain(t *testing.T) {
	made, unmade := corev1.ContainerStatus{ContainerID: "podrun://0"}, corev1.ContainerStatus{}
	for _, tt := range []struct {
		name         string
		inits, mains []corev1.ContainerStatus
		want         string
	}{
		{"an init container failed", []corev1.ContainerStatus{made}, []corev1.ContainerStatus{unmade, unmade}, "the pod's containers are made again"},
		{"all ran", []corev1.ContainerStatus{made}, []corev1.ContainerStatus{made, made}, "all 3 containers are made again"},
		{"none was made", nil, []corev1.ContainerStatus{unmade}, "the pod's containers are made again"},
	} {
		p := &corev1.Pod{Status: corev1.PodStatus{InitContainerStatuses: tt.inits, ContainerStatuses: tt.mains}}
		if got := madeAgain(p); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
