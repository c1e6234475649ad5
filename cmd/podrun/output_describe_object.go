package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/pod"
)

func describePodValue(d *description, v pod.Value, about surroundings) {
	d.pod(v.(*corev1.Pod), about.events, about.now)
}

// labels writes the labels and the annotations of an object, without the
// annotation that repeats its manifest: of a Secret that holds the values.
func (d *description) labels(m *metav1.ObjectMeta) {
	d.lines(0, "Labels", m.Labels, "=")
	annotations := maps.Clone(m.Annotations)
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	d.annotations(annotations)
}

// longAnnotation is the length up to which an annotation is told on its line.
const longAnnotation = 140

// annotations writes long ones, and those of several lines, below their keys.
func (d *description) annotations(m map[string]string) {
	if len(m) == 0 {
		d.line(0, "Annotations", none)
	}
	label := "Annotations:"
	for _, k := range slices.Sorted(maps.Keys(m)) {
		value := strings.TrimSuffix(m[k], "\n")
		if len(value)+len(k)+2 < longAnnotation && !strings.Contains(value, "\n") {
			d.row(0, label, k+": "+value)
		} else {
			d.row(0, label, k+":")
			for line := range strings.SplitSeq(value, "\n") {
				d.row(0, "", "  "+shorten(line, longAnnotation-2))
			}
		}
		label = ""
	}
}

func shorten(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return text[:n] + "..."
}

// section writes the underlined title of a part.
func (d *description) section(name string) {
	d.row(0, "")
	d.row(0, name)
	d.row(0, "====")
}

func describeConfigMap(d *description, v pod.Value, about surroundings) {
	c := v.(*corev1.ConfigMap)
	d.line(0, "Name", c.Name)
	d.line(0, "Namespace", c.Namespace)
	d.labels(&c.ObjectMeta)
	if deref(c.Immutable) {
		d.line(0, "Immutable", "True")
	}
	d.section("Data")
	for _, k := range slices.Sorted(maps.Keys(c.Data)) {
		d.row(0, k+":")
		d.row(0, "----")
		for line := range strings.SplitSeq(strings.TrimSuffix(c.Data[k], "\n"), "\n") {
			d.row(0, strings.ReplaceAll(line, "\t", "        "))
		}
		d.row(0, "")
	}
	d.section("BinaryData")
	for _, k := range slices.Sorted(maps.Keys(c.BinaryData)) {
		d.row(0, fmt.Sprintf("%s: %d bytes", k, len(c.BinaryData[k])))
	}
	d.row(0, "")
	d.events(about.events, about.now)
}

func describeSecret(d *description, v pod.Value, about surroundings) {
	s := v.(*corev1.Secret)
	d.line(0, "Name", s.Name)
	d.line(0, "Namespace", s.Namespace)
	d.labels(&s.ObjectMeta)
	if deref(s.Immutable) {
		d.line(0, "Immutable", "True")
	}
	d.row(0, "")
	d.line(0, "Type", string(s.Type))
	d.section("Data")
	for _, k := range slices.Sorted(maps.Keys(s.Data)) {
		d.line(0, k, fmt.Sprintf("%d bytes", len(s.Data[k])))
	}
}

func describeClaim(d *description, v pod.Value, about surroundings) {
	c := v.(*corev1.PersistentVolumeClaim)
	d.line(0, "Name", c.Name)
	d.line(0, "Namespace", c.Namespace)
	d.line(0, "StorageClass", deref(c.Spec.StorageClassName))
	if c.DeletionTimestamp != nil {
		d.line(0, "Status", fmt.Sprintf("Terminating (lasts %s)", age(c.DeletionTimestamp.Time, about.now)))
	} else {
		d.line(0, "Status", string(c.Status.Phase))
	}
	d.line(0, "Volume", c.Spec.VolumeName)
	d.labels(&c.ObjectMeta)
	d.line(0, "Finalizers", fmt.Sprint(c.Finalizers))
	capacity := c.Status.Capacity[corev1.ResourceStorage]
	d.line(0, "Capacity", capacity.String())
	d.line(0, "Access Modes", accessModes(c.Status.AccessModes))
	d.line(0, "VolumeMode", string(deref(c.Spec.VolumeMode)))
	if len(about.users) == 0 {
		d.line(0, "Used By", none)
	}
	for i, name := range about.users {
		label := ""
		if i == 0 {
			label = "Used By:"
		}
		d.row(0, label, name)
	}
	d.events(about.events, about.now)
}

func describeNamespace(d *description, v pod.Value, about surroundings) {
	n := v.(*corev1.Namespace)
	d.line(0, "Name", n.Name)
	d.labels(&n.ObjectMeta)
	status := string(n.Status.Phase)
	if n.DeletionTimestamp != nil {
		status += fmt.Sprintf(" (lasts %s)", age(n.DeletionTimestamp.Time, about.now))
	}
	d.line(0, "Status", status)
	d.row(0, "")
	d.row(0, "No resource quota.")
	d.row(0, "")
	d.row(0, "No LimitRange resource.")
}

// noEffect tells of the fields of a pod that do nothing on one node.
func (d *description) noEffect(p *corev1.Pod) {
	p = p.DeepCopy()
	p.Spec.NodeName = appliedNode(p) // the other is podrun's own
	_, ignored := pod.Unsupported(p)
	if len(ignored) == 0 {
		return
	}
	d.head(0, "No Effect")
	for _, i := range ignored {
		d.line(1, i.Field, i.Reason)
	}
}

// appliedNode is the node that the manifest of a pod names.
func appliedNode(p *corev1.Pod) string {
	var applied corev1.Pod
	_ = json.Unmarshal([]byte(p.Annotations[corev1.LastAppliedConfigAnnotation]), &applied)
	return applied.Spec.NodeName
}
