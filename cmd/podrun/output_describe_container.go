package main

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/pod"
)

// container writes what describe says of a container of p.
func (d *description) container(p *corev1.Pod, c *corev1.Container, statuses []corev1.ContainerStatus) {
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
	d.ports("Port", c.Ports, func(p corev1.ContainerPort) int32 { return p.ContainerPort })
	d.ports("Host Port", c.Ports, func(p corev1.ContainerPort) int32 { return p.HostPort })
	if c.SecurityContext != nil {
		d.seccomp(2, c.SecurityContext.SeccompProfile)
	}
	d.words("Command", c.Command)
	d.words("Args", c.Args)
	d.state("State", s.State)
	if s.LastTerminationState.Terminated != nil {
		d.state("Last State", s.LastTerminationState)
	}
	d.line(2, "Ready", boolean(s.Ready))
	d.line(2, "Restart Count", fmt.Sprint(s.RestartCount))
	d.resources(2, "Limits", c.Resources.Limits)
	d.resources(2, "Requests", c.Resources.Requests)
	d.probe("Liveness", c.LivenessProbe)
	d.probe("Readiness", c.ReadinessProbe)
	d.probe("Startup", c.StartupProbe)
	d.environmentFrom(c.EnvFrom)
	d.environment(p, c)
	d.mounts(c.VolumeMounts)
}

// ports writes one of the numbers of each port, 0 for a host port that is not
// asked for, as kubectl.
func (d *description) ports(name string, ports []corev1.ContainerPort, number func(corev1.ContainerPort) int32) {
	var texts []string
	for _, p := range ports {
		texts = append(texts, fmt.Sprintf("%d/%s", number(p), p.Protocol))
	}
	if len(texts) > 1 {
		name += "s"
	}
	d.line(2, name, orNone(strings.Join(texts, ", ")))
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

func (d *description) probe(name string, p *corev1.Probe) {
	if p == nil {
		return
	}
	how := "unknown"
	switch {
	case p.Exec != nil:
		how = fmt.Sprintf("exec %v", p.Exec.Command)
	case p.HTTPGet != nil:
		u := url.URL{
			Scheme: strings.ToLower(string(p.HTTPGet.Scheme)),
			Host:   net.JoinHostPort(p.HTTPGet.Host, p.HTTPGet.Port.String()),
			Path:   p.HTTPGet.Path,
		}
		how = "http-get " + u.String()
	case p.TCPSocket != nil:
		how = "tcp-socket " + net.JoinHostPort(p.TCPSocket.Host, p.TCPSocket.Port.String())
	case p.GRPC != nil:
		how = fmt.Sprintf("grpc <pod>:%d %s", p.GRPC.Port, deref(p.GRPC.Service))
	}
	d.line(2, name, fmt.Sprintf("%s delay=%ds timeout=%ds period=%ds #success=%d #failure=%d",
		how, p.InitialDelaySeconds, p.TimeoutSeconds, p.PeriodSeconds, p.SuccessThreshold, p.FailureThreshold))
}

func (d *description) environmentFrom(from []corev1.EnvFromSource) {
	if len(from) == 0 {
		return
	}
	d.head(2, "Environment Variables from")
	for _, f := range from {
		var name, kind string
		var optional *bool
		switch {
		case f.ConfigMapRef != nil:
			name, kind, optional = f.ConfigMapRef.Name, "ConfigMap", f.ConfigMapRef.Optional
		case f.SecretRef != nil:
			name, kind, optional = f.SecretRef.Name, "Secret", f.SecretRef.Optional
		}
		if f.Prefix != "" {
			kind += fmt.Sprintf(" with prefix '%s'", f.Prefix)
		}
		d.row(3, name, kind, fmt.Sprintf("Optional: %t", deref(optional)))
	}
}

func (d *description) environment(p *corev1.Pod, c *corev1.Container) {
	if len(c.Env) == 0 {
		d.line(2, "Environment", none)
		return
	}
	d.head(2, "Environment")
	for _, e := range c.Env {
		if e.ValueFrom != nil {
			d.line(3, e.Name, valueFrom(p, c, e.ValueFrom))
			continue
		}
		name := e.Name + ":"
		for line := range strings.SplitSeq(e.Value, "\n") {
			d.row(3, name, line)
			name = ""
		}
	}
}

// valueFrom says where a variable's value comes from, and what it is where that
// is no secret and known.
func valueFrom(p *corev1.Pod, c *corev1.Container, from *corev1.EnvVarSource) string {
	switch {
	case from.FieldRef != nil:
		value, _ := pod.Field(p, from.FieldRef.FieldPath)
		return fmt.Sprintf("%s (%s:%s)", value, from.FieldRef.APIVersion, from.FieldRef.FieldPath)
	case from.ResourceFieldRef != nil:
		value, _ := pod.ResourceField(p, c, from.ResourceFieldRef, func() corev1.ResourceList { return nil })
		if value == "0" && strings.HasPrefix(from.ResourceFieldRef.Resource, "limits.") {
			value = "node allocatable"
		}
		return fmt.Sprintf("%s (%s)", value, from.ResourceFieldRef.Resource)
	case from.SecretKeyRef != nil:
		return fmt.Sprintf("<set to the key '%s' in secret '%s'>\tOptional: %t", from.SecretKeyRef.Key, from.SecretKeyRef.Name, deref(from.SecretKeyRef.Optional))
	case from.ConfigMapKeyRef != nil:
		return fmt.Sprintf("<set to the key '%s' of config map '%s'>\tOptional: %t", from.ConfigMapKeyRef.Key, from.ConfigMapKeyRef.Name, deref(from.ConfigMapKeyRef.Optional))
	case from.FileKeyRef != nil:
		return fmt.Sprintf("<set to the key '%s' of file '%s' in volume '%s'>\tOptional: %t", from.FileKeyRef.Key, from.FileKeyRef.Path, from.FileKeyRef.VolumeName, deref(from.FileKeyRef.Optional))
	}
	return ""
}

func (d *description) mounts(mounts []corev1.VolumeMount) {
	if len(mounts) == 0 {
		d.line(2, "Mounts", none)
		return
	}
	d.head(2, "Mounts")
	mounts = slices.Clone(mounts)
	slices.SortStableFunc(mounts, func(a, b corev1.VolumeMount) int { return strings.Compare(a.MountPath, b.MountPath) })
	for _, m := range mounts {
		how := "rw"
		if m.ReadOnly {
			how = "ro"
		}
		if sub := m.SubPath + m.SubPathExpr; sub != "" {
			how += fmt.Sprintf(",path=%q", sub)
		}
		d.row(3, fmt.Sprintf("%s from %s (%s)", m.MountPath, m.Name, how))
	}
}
