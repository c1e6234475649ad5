package main

import (
	"bytes"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/node"
)

func podMetrics(namespace, name string, containers ...string) node.PodMetrics {
	m := node.PodMetrics{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	for i := 0; i < len(containers); i += 3 {
		m.Containers = append(m.Containers, node.ContainerMetrics{Name: containers[i], Usage: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(containers[i+1]), corev1.ResourceMemory: resource.MustParse(containers[i+2]),
		}})
	}
	return m
}

// The layout is kubectl's.
func TestTopTable(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    topOptions
		want string
	}{
		{"pods", topOptions{}, "NAME   CPU(cores)   MEMORY(bytes)\na      3m           40Mi\nb      250m         10Mi\n"},
		{"by processor time", topOptions{sortBy: "cpu", bare: true}, "b     250m   10Mi\na     3m     40Mi\n"},
		{"by memory", topOptions{sortBy: "memory", bare: true}, "a     3m     40Mi\nb     250m   10Mi\n"},
		{"sum", topOptions{sum: true}, "NAME   CPU(cores)   MEMORY(bytes)\na      3m           40Mi\nb      250m         10Mi\n       ________     ________\n       253m         50Mi\n"},
		{"containers of all namespaces", topOptions{containers: true, all: true, sum: true}, "" +
			"NAMESPACE   POD   NAME   CPU(cores)   MEMORY(bytes)\n" +
			"default     a     one    2m           30Mi\n" +
			"default     a     two    1m           10Mi\n" +
			"other       b     c      250m         10Mi\n" +
			"                         ________     ________\n" +
			"                         253m         50Mi\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pods := []node.PodMetrics{
				podMetrics("other", "b", "c", "249000001n", "10Mi"),
				podMetrics("default", "a", "two", "1m", "10Mi", "one", "1900001n", "30Mi"),
			}
			var out bytes.Buffer
			if err := kubectlTable(&out, topTable(pods, tt.o), !tt.o.bare); err != nil {
				t.Fatal(err)
			}
			if out.String() != tt.want {
				t.Errorf("got\n%s\nwant\n%s", out.String(), tt.want)
			}
		})
	}
}
