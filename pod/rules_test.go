package pod_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/pod"
)

func minimal() *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "busybox"}}
	return p
}

func TestDefaults(t *testing.T) {
	p := minimal()
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d", Image: "reg:5000/x:v1"}, corev1.Container{Name: "e", Image: "x:latest"},
		corev1.Container{Name: "f", Image: "x@sha256:1"})
	pod.Default(p)
	if p.Namespace != "default" || p.Spec.RestartPolicy != corev1.RestartPolicyAlways || p.Spec.DNSPolicy != corev1.DNSClusterFirst ||
		*p.Spec.TerminationGracePeriodSeconds != 30 || p.Spec.SchedulerName != "default-scheduler" || p.Spec.SecurityContext == nil || !*p.Spec.EnableServiceLinks {
		t.Errorf("defaults of the pod: %+v", p.Spec)
	}
	var policies []corev1.PullPolicy
	for _, c := range p.Spec.Containers {
		policies = append(policies, c.ImagePullPolicy)
	}
	if want := []corev1.PullPolicy{"Always", "IfNotPresent", "Always", "IfNotPresent"}; !slices.Equal(policies, want) {
		t.Errorf("pull policies %v, want %v", policies, want)
	}
	if errs := pod.Validate(p); len(errs) > 0 {
		t.Errorf("the defaults are not valid: %v", errs)
	}
	if refused, ignored := pod.Unsupported(p); len(refused)+len(ignored) > 0 {
		t.Errorf("the defaults are not supported: %v %v", refused, ignored)
	}
}

func TestUpdate(t *testing.T) {
	old := minimal()
	pod.Default(old)
	for _, c := range []struct {
		name   string
		change func(*corev1.Pod)
		fields []string // refused
	}{
		{"nothing", func(*corev1.Pod) {}, nil},
		{"a label", func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }, nil},
		{"an image", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "busybox:1.36" }, nil},
		{"a deadline", func(p *corev1.Pod) { d := int64(5); p.Spec.ActiveDeadlineSeconds = &d }, nil},
		{"a toleration", func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Key: "x"}} }, nil},
		{"the command", func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"x"} }, []string{"spec.containers[0].command"}},
		{"two things", func(p *corev1.Pod) {
			p.Spec.Hostname = "x"
			p.Spec.Containers[0].WorkingDir = "/x"
		}, []string{"spec.containers[0].workingDir", "spec.hostname"}},
		{"another container", func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d", Image: "x"})
		}, []string{"spec.containers"}},
		{"the restart policy", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }, []string{"spec.restartPolicy"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			updated := minimal()
			c.change(updated)
			pod.Default(updated)
			var fields []string
			for _, e := range pod.ValidateUpdate(old, updated) {
				fields = append(fields, e.Field)
			}
			slices.Sort(fields)
			if !slices.Equal(fields, c.fields) {
				t.Errorf("refused %v, want %v", fields, c.fields)
			}
		})
	}
}
