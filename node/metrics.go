package node

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"get.podrun.dev/podrun/supervisor"
)

const metricsVersion = "metrics.k8s.io/v1beta1"

// PodMetrics is what a pod uses, in the form of the Kubernetes metrics API.
type PodMetrics struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Timestamp         metav1.Time        `json:"timestamp"`
	Window            metav1.Duration    `json:"window"`
	Containers        []ContainerMetrics `json:"containers"`
}

// ContainerMetrics is what a container uses.
type ContainerMetrics struct {
	Name  string              `json:"name"`
	Usage corev1.ResourceList `json:"usage"`
}

// PodMetricsList is the answer to a list.
type PodMetricsList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []PodMetrics `json:"items"`
}

func newPodMetrics(u supervisor.PodUsage, at time.Time) PodMetrics {
	m := PodMetrics{
		TypeMeta:   metav1.TypeMeta{Kind: "PodMetrics", APIVersion: metricsVersion},
		ObjectMeta: metav1.ObjectMeta{Name: u.Pod.Name, Namespace: u.Pod.Namespace, Labels: u.Pod.Labels, CreationTimestamp: metav1.NewTime(at)},
		Timestamp:  metav1.NewTime(at),
		Window:     metav1.Duration{Duration: supervisor.UsageWindow},
	}
	for _, c := range u.Containers {
		m.Containers = append(m.Containers, ContainerMetrics{c.Name, corev1.ResourceList{
			corev1.ResourceCPU:    *quantity.NewScaledQuantity(int64(c.CPUNanos), quantity.Nano),
			corev1.ResourceMemory: *quantity.NewQuantity(int64(c.MemoryBytes), quantity.BinarySI),
		}})
	}
	return m
}

func (a *api) podMetrics(w http.ResponseWriter, r *http.Request) error {
	namespace, name := r.PathValue("namespace"), r.PathValue("name")
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		return apierrors.NewBadRequest("unable to parse label selector: " + err.Error())
	}
	usage, err := a.supervisor.Usage(r.Context(), namespace, name)
	if err != nil {
		return err
	}
	now := time.Now()
	list := PodMetricsList{TypeMeta: metav1.TypeMeta{Kind: "PodMetricsList", APIVersion: metricsVersion}, Items: []PodMetrics{}}
	for _, u := range usage {
		if selector.Matches(labels.Set(u.Pod.Labels)) {
			list.Items = append(list.Items, newPodMetrics(u, now))
		}
	}
	if name == "" {
		respond(w, http.StatusOK, list)
		return nil
	}
	if len(list.Items) == 0 {
		return apierrors.NewNotFound(metav1Resource("podmetrics.metrics.k8s.io"), fmt.Sprintf("%s/%s", namespace, name))
	}
	respond(w, http.StatusOK, list.Items[0])
	return nil
}

// PodMetrics measures what pods use that run: those of a namespace whose labels
// match, of all namespaces when it is "", or one pod. It takes a second.
func (c *Client) PodMetrics(ctx context.Context, namespace, name, selector string) ([]PodMetrics, error) {
	path := "/apis/" + metricsVersion
	if namespace != "" {
		path += "/namespaces/" + url.PathEscape(namespace)
	}
	path += "/pods"
	if name != "" {
		var one PodMetrics
		err := c.call(ctx, http.MethodGet, path+"/"+url.PathEscape(name), nil, nil, &one)
		return []PodMetrics{one}, err
	}
	q := url.Values{}
	if selector != "" {
		q.Set("labelSelector", selector)
	}
	var list PodMetricsList
	err := c.call(ctx, http.MethodGet, path, q, nil, &list)
	return list.Items, err
}
