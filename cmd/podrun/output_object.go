package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/pod"
)

// columns says which columns of a table are wanted.
type columns struct {
	namespace bool // -A
	wide      bool // -o wide
	labels    bool // --show-labels
	kind      bool // names as pod/web: the answer is about several kinds
}

// tableOf makes a table of objects of one kind. Each row begins with the name;
// headers and cells beyond narrow are those of -o wide.
func tableOf(objects []pod.Value, o columns, narrow int, headers []string, cells func(v pod.Value) []string) grid {
	shown := func(cells []string) []string {
		if !o.wide {
			return cells[:narrow]
		}
		return cells
	}
	var t grid
	t.headers = slices.Clone(shown(headers))
	for _, v := range objects {
		row := slices.Clone(shown(cells(v)))
		if o.kind {
			row[0] = title(v)
		}
		if o.namespace && pod.KindOf(v).Namespaced {
			row = append([]string{v.GetNamespace()}, row...)
		}
		if o.labels {
			row = append(row, joinMap(v.GetLabels(), ","))
		}
		t.rows = append(t.rows, row)
	}
	if o.namespace && len(objects) > 0 && pod.KindOf(objects[0]).Namespaced {
		t.headers = append([]string{"NAMESPACE"}, t.headers...)
	}
	if o.labels {
		t.headers = append(t.headers, "LABELS")
	}
	return t
}

func configMapTable(objects []pod.Value, o columns, now time.Time) grid {
	return tableOf(objects, o, 3, []string{"NAME", "DATA", "AGE"}, func(v pod.Value) []string {
		c := v.(*corev1.ConfigMap)
		return []string{c.Name, fmt.Sprint(len(c.Data) + len(c.BinaryData)), age(c.CreationTimestamp.Time, now)}
	})
}

func secretTable(objects []pod.Value, o columns, now time.Time) grid {
	return tableOf(objects, o, 4, []string{"NAME", "TYPE", "DATA", "AGE"}, func(v pod.Value) []string {
		s := v.(*corev1.Secret)
		return []string{s.Name, string(s.Type), fmt.Sprint(len(s.Data)), age(s.CreationTimestamp.Time, now)}
	})
}

func namespaceTable(objects []pod.Value, o columns, now time.Time) grid {
	return tableOf(objects, o, 3, []string{"NAME", "STATUS", "AGE"}, func(v pod.Value) []string {
		n := v.(*corev1.Namespace)
		return []string{n.Name, string(n.Status.Phase), age(n.CreationTimestamp.Time, now)}
	})
}

func claimTable(objects []pod.Value, o columns, now time.Time) grid {
	headers := []string{"NAME", "STATUS", "VOLUME", "CAPACITY", "ACCESS MODES", "STORAGECLASS", "VOLUMEATTRIBUTESCLASS", "AGE", "VOLUMEMODE"}
	return tableOf(objects, o, 8, headers, func(v pod.Value) []string {
		c := v.(*corev1.PersistentVolumeClaim)
		status := string(c.Status.Phase)
		if c.DeletionTimestamp != nil {
			status = "Terminating"
		}
		capacity := c.Status.Capacity[corev1.ResourceStorage]
		attributes := "<unset>"
		if name := c.Spec.VolumeAttributesClassName; name != nil {
			attributes = *name
		}
		return []string{
			c.Name, status, c.Spec.VolumeName, capacity.String(), accessModes(c.Status.AccessModes), deref(c.Spec.StorageClassName),
			attributes, age(c.CreationTimestamp.Time, now), string(deref(c.Spec.VolumeMode)),
		}
	})
}

// accessModes are a claim's, in kubectl's short form and order.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var short []string
	for _, m := range []struct {
		mode corev1.PersistentVolumeAccessMode
		name string
	}{
		{corev1.ReadWriteOnce, "RWO"},
		{corev1.ReadOnlyMany, "ROX"},
		{corev1.ReadWriteMany, "RWX"},
		{corev1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, m.mode) {
			short = append(short, m.name)
		}
	}
	return strings.Join(short, ",")
}

func podsTable(objects []pod.Value, o columns, now time.Time) grid {
	pods := make([]corev1.Pod, len(objects))
	for i, v := range objects {
		pods[i] = *v.(*corev1.Pod)
	}
	return podTable(pods, o, now)
}

func eventsTable(objects []pod.Value, o columns, now time.Time) grid {
	events := make([]corev1.Event, len(objects))
	for i, v := range objects {
		events[i] = *v.(*corev1.Event)
	}
	return eventTable(events, o.namespace, now)
}
