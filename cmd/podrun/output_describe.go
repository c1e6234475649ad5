package main

import (
	"fmt"
	"io"
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
	if security := p.Spec.SecurityContext; security != nil {
		d.seccomp(0, security.SeccompProfile)
	}
	d.line(0, "IP", p.Status.PodIP)
	if len(p.Status.PodIPs) == 0 {
		d.line(0, "IPs", none)
	} else {
		d.head(0, "IPs")
	}
	for _, ip := range p.Status.PodIPs {
		d.line(1, "IP", ip.IP)
	}
	if r := p.Spec.Resources; r != nil {
		d.head(0, "Resources")
		d.resources(1, "Limits", r.Limits)
		d.resources(1, "Requests", r.Requests)
	}
	if len(p.Spec.InitContainers) > 0 {
		d.head(0, "Init Containers")
		for i := range p.Spec.InitContainers {
			d.container(p, &p.Spec.InitContainers[i], p.Status.InitContainerStatuses)
		}
	}
	d.head(0, "Containers")
	for i := range p.Spec.Containers {
		d.container(p, &p.Spec.Containers[i], p.Status.ContainerStatuses)
	}
	if len(p.Spec.ReadinessGates) > 0 {
		d.head(0, "Readiness Gates")
		d.row(1, "Type", "Status")
		for _, g := range p.Spec.ReadinessGates {
			status := none
			for _, c := range p.Status.Conditions {
				if c.Type == g.ConditionType {
					status = string(c.Status)
				}
			}
			d.row(1, string(g.ConditionType), status)
		}
	}
	d.head(0, "Conditions")
	d.row(1, "Type", "Status")
	for _, c := range p.Status.Conditions {
		d.row(1, string(c.Type), string(c.Status))
	}
	d.volumes(p.Spec.Volumes)
	d.line(0, "QoS Class", string(p.Status.QOSClass))
	d.lines(0, "Node-Selectors", p.Spec.NodeSelector, "=")
	d.tolerations(p.Spec.Tolerations)
	d.noEffect(p)
	d.events(events, now)
}

// description writes the lines of a describe.
type description struct{ w *tabwriter.Writer }

// newDescription begins one; its w is flushed at the end.
func newDescription(out io.Writer) *description {
	return &description{w: tabwriter.NewWriter(harmless(out), 0, 8, 2, ' ', 0)}
}

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

func (d *description) tolerations(tolerations []corev1.Toleration) {
	if len(tolerations) == 0 {
		d.line(0, "Tolerations", none)
	}
	for i, t := range tolerations {
		text := t.Key
		if t.Value != "" {
			text += "=" + t.Value
		}
		if t.Effect != "" {
			text += ":" + string(t.Effect)
		}
		if t.Operator == corev1.TolerationOpExists && t.Value == "" {
			text = strings.TrimPrefix(text+" op=Exists", " ")
		}
		if t.TolerationSeconds != nil {
			text += fmt.Sprintf(" for %ds", *t.TolerationSeconds)
		}
		if i == 0 {
			d.line(0, "Tolerations", text)
		} else {
			d.row(0, "", text)
		}
	}
}

func (d *description) seccomp(level int, profile *corev1.SeccompProfile) {
	if profile == nil {
		return
	}
	d.line(level, "SeccompProfile", string(profile.Type))
	if profile.Type == corev1.SeccompProfileTypeLocalhost {
		d.line(level, "LocalhostProfile", deref(profile.LocalhostProfile))
	}
}

func (d *description) resources(level int, name string, list corev1.ResourceList) {
	if len(list) == 0 {
		return
	}
	d.head(level, name)
	for _, k := range slices.Sorted(maps.Keys(list)) {
		q := list[k]
		d.line(level+1, string(k), q.String())
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
		d.row(1, e.Type, e.Reason, lastSeen(&e, now), e.Source.Component, strings.TrimSpace(e.Message))
	}
}

// lastSeen says when an event happened, and how often.
func lastSeen(e *corev1.Event, now time.Time) string {
	seen := age(e.LastTimestamp.Time, now)
	if e.Count > 1 {
		seen = fmt.Sprintf("%s (x%d over %s)", seen, e.Count, age(e.FirstTimestamp.Time, now))
	}
	return seen
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
