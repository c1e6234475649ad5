package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// pod writes everything about a pod and its events, in kubectl's layout.
func (d *description) pod(p *corev1.Pod, events []corev1.Event, now time.Time) {
	d.line(0, "Name", p.Name)
	d.line(0, "Namespace", p.Namespace)
	d.line(0, "Priority", fmt.Sprint(deref(p.Spec.Priority)))
	if p.Spec.ServiceAccountName != "" {
		d.line(0, "Service Account", p.Spec.ServiceAccountName)
	}
	node := p.Spec.NodeName
	if p.Status.HostIP != "" {
		node += "/" + p.Status.HostIP
	}
	d.line(0, "Node", node)
	if p.Status.StartTime != nil {
		d.line(0, "Start Time", p.Status.StartTime.Time.Format(time.RFC1123Z))
	}
	d.labels(&p.ObjectMeta)
	switch {
	case p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil:
		d.line(0, "Status", fmt.Sprintf("Terminating (lasts %s)", age(p.DeletionTimestamp.Add(-time.Duration(*p.DeletionGracePeriodSeconds)*time.Second), now)))
		d.line(0, "Termination Grace Period", fmt.Sprintf("%ds", *p.DeletionGracePeriodSeconds))
	default:
		d.line(0, "Status", string(p.Status.Phase))
	}
	if p.Status.Reason != "" {
		d.line(0, "Reason", p.Status.Reason)
	}
	if p.Status.Message != "" {
		d.line(0, "Message", p.Status.Message)
	}
	d.line(0, "IP", p.Status.PodIP)
	d.head(0, "IPs")
	for _, ip := range p.Status.PodIPs {
		d.line(1, "IP", ip.IP)
	}
	if len(p.Spec.InitContainers) > 0 {
		d.head(0, "Init Containers")
		for i := range p.Spec.InitContainers {
			d.container(&p.Spec.InitContainers[i], p.Status.InitContainerStatuses)
		}
	}
	d.head(0, "Containers")
	for i := range p.Spec.Containers {
		d.container(&p.Spec.Containers[i], p.Status.ContainerStatuses)
	}
	d.head(0, "Conditions")
	d.row(1, "Type", "Status")
	for _, c := range p.Status.Conditions {
		d.row(1, string(c.Type), string(c.Status))
	}
	d.volumes(p.Spec.Volumes)
	d.line(0, "QoS Class", string(p.Status.QOSClass))
	if len(p.Spec.NodeSelector) > 0 {
		d.lines(0, "Node-Selectors", p.Spec.NodeSelector, "=")
	}
	d.noEffect(p)
	d.events(events, now)
}

// description writes the lines of a describe.
type description struct{ w *tabwriter.Writer }

func (d *description) row(level int, cells ...string) {
	fmt.Fprintf(d.w, "%s%s\n", strings.Repeat("  ", level), strings.Join(cells, "\t"))
}

func (d *description) line(level int, name, value string) { d.row(level, name+":", value) }
func (d *description) head(level int, name string)        { d.row(level, name+":") }

func (d *description) lines(level int, name string, m map[string]string, separator string) {
	if len(m) == 0 {
		d.line(level, name, none)
		return
	}
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i == 0 {
			d.row(level, name+":", k+separator+m[k])
		} else {
			d.row(level, "", k+separator+m[k])
		}
	}
}

func (d *description) container(c *corev1.Container, statuses []corev1.ContainerStatus) {
	var s corev1.ContainerStatus
	for i := range statuses {
		if statuses[i].Name == c.Name {
			s = statuses[i]
		}
	}
	d.head(1, c.Name)
	d.line(2, "Container ID", s.ContainerID)
	d.line(2, "Image", c.Image)
	d.line(2, "Image ID", s.ImageID)
	var ports []string
	for _, p := range c.Ports {
		ports = append(ports, fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol))
	}
	d.line(2, "Port", orNone(strings.Join(ports, ", ")))
	d.words("Command", c.Command)
	d.words("Args", c.Args)
	d.state("State", s.State)
	if s.LastTerminationState.Terminated != nil {
		d.state("Last State", s.LastTerminationState)
	}
	d.line(2, "Ready", boolean(s.Ready))
	d.line(2, "Restart Count", fmt.Sprint(s.RestartCount))
	d.resources("Limits", c.Resources.Limits)
	d.resources("Requests", c.Resources.Requests)
	if len(c.Env) == 0 {
		d.line(2, "Environment", none)
	} else {
		d.head(2, "Environment")
		for _, e := range c.Env {
			value := e.Value
			if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil {
				value = fmt.Sprintf(" (%s:%s)", e.ValueFrom.FieldRef.APIVersion, e.ValueFrom.FieldRef.FieldPath)
			}
			d.line(3, e.Name, value)
		}
	}
	if len(c.VolumeMounts) == 0 {
		d.line(2, "Mounts", none)
		return
	}
	d.head(2, "Mounts")
	for _, m := range c.VolumeMounts {
		access := "rw"
		if m.ReadOnly {
			access = "ro"
		}
		d.row(3, fmt.Sprintf("%s from %s (%s)", m.MountPath, m.Name, access))
	}
}

func (d *description) words(name string, words []string) {
	if len(words) == 0 {
		return
	}
	d.head(2, name)
	for _, w := range words {
		for line := range strings.SplitSeq(w, "\n") {
			d.row(3, line)
		}
	}
}

func (d *description) state(name string, s corev1.ContainerState) {
	switch {
	case s.Running != nil:
		d.line(2, name, "Running")
		d.line(3, "Started", s.Running.StartedAt.Time.Format(time.RFC1123Z))
	case s.Terminated != nil:
		d.line(2, name, "Terminated")
		if s.Terminated.Reason != "" {
			d.line(3, "Reason", s.Terminated.Reason)
		}
		if s.Terminated.Message != "" {
			d.line(3, "Message", s.Terminated.Message)
		}
		d.line(3, "Exit Code", fmt.Sprint(s.Terminated.ExitCode))
		if s.Terminated.Signal > 0 {
			d.line(3, "Signal", fmt.Sprint(s.Terminated.Signal))
		}
		if !s.Terminated.StartedAt.IsZero() {
			d.line(3, "Started", s.Terminated.StartedAt.Time.Format(time.RFC1123Z))
		}
		d.line(3, "Finished", s.Terminated.FinishedAt.Time.Format(time.RFC1123Z))
	default:
		d.line(2, name, "Waiting")
		if s.Waiting != nil && s.Waiting.Reason != "" {
			d.line(3, "Reason", s.Waiting.Reason)
		}
	}
}

func (d *description) resources(name string, list corev1.ResourceList) {
	if len(list) == 0 {
		return
	}
	d.head(2, name)
	for _, k := range slices.Sorted(maps.Keys(list)) {
		q := list[k]
		d.line(3, string(k), q.String())
	}
}

func (d *description) volumes(volumes []corev1.Volume) {
	if len(volumes) == 0 {
		d.line(0, "Volumes", none)
		return
	}
	d.head(0, "Volumes")
	for _, v := range volumes {
		d.head(1, v.Name)
		switch {
		case v.EmptyDir != nil:
			d.line(2, "Type", "EmptyDir (a temporary directory that shares a pod's lifetime)")
			d.line(2, "Medium", string(v.EmptyDir.Medium))
			limit := "<unset>"
			if v.EmptyDir.SizeLimit != nil {
				limit = v.EmptyDir.SizeLimit.String()
			}
			d.line(2, "SizeLimit", limit)
		case v.HostPath != nil:
			d.line(2, "Type", "HostPath (bare host directory volume)")
			d.line(2, "Path", v.HostPath.Path)
			d.line(2, "HostPathType", string(deref(v.HostPath.Type)))
		}
	}
}

func (d *description) events(events []corev1.Event, now time.Time) {
	if len(events) == 0 {
		d.line(0, "Events", none)
		return
	}
	_ = d.w.Flush() // the events' columns are their own
	d.head(0, "Events")
	d.row(1, "Type", "Reason", "Age", "From", "Message")
	d.row(1, "----", "------", "----", "----", "-------")
	for _, e := range events {
		seen := age(e.LastTimestamp.Time, now)
		if e.Count > 1 {
			seen = fmt.Sprintf("%s (x%d over %s)", seen, e.Count, age(e.FirstTimestamp.Time, now))
		}
		d.row(1, e.Type, e.Reason, seen, e.Source.Component, strings.TrimSpace(e.Message))
	}
}

func boolean(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}
