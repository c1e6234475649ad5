package pod

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Expand replaces $(NAME) by the value that lookup gives, and $$ by $, as
// Kubernetes does in command, args and env. A reference that lookup does not
// know stays as it is
// (https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/).
func Expand(s string, lookup func(name string) (string, bool)) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 {
				b.WriteByte('$')
				continue
			}
			name := s[i+2 : i+2+end]
			if v, ok := lookup(name); ok {
				b.WriteString(v)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += 2 + end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// Command returns the program and arguments of a container: its command or
// else the image's entrypoint, with its args or else, when it has no command
// either, the image's cmd. References are expanded from env, which is in
// NAME=value form.
func Command(c *corev1.Container, entrypoint, cmd, env []string) []string {
	program, args := c.Command, c.Args
	if len(program) == 0 {
		if program = entrypoint; len(args) == 0 {
			args = cmd
			return append(append([]string{}, program...), args...)
		}
	}
	values := map[string]string{}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		values[name] = value
	}
	lookup := func(name string) (string, bool) { v, ok := values[name]; return v, ok }
	var out []string
	for i, s := range append(append([]string{}, program...), args...) {
		if i < len(program) && len(c.Command) == 0 {
			out = append(out, s) // the image's words are not Kubernetes' syntax
			continue
		}
		out = append(out, Expand(s, lookup))
	}
	return out
}

// Environment returns base with the variables of c on top, in NAME=value form
// and the order in which they were first named. p gives what fieldRef asks
// for; its status must hold the pod's addresses when NeedsIP says so.
func Environment(base []string, c *corev1.Container, p *corev1.Pod) ([]string, error) {
	var order []string
	values := map[string]string{}
	set := func(name, value string) {
		if _, ok := values[name]; !ok {
			order = append(order, name)
		}
		values[name] = value
	}
	for _, kv := range base {
		name, value, _ := strings.Cut(kv, "=")
		set(name, value)
	}
	// References see the variables named before them in the manifest, not the
	// image's.
	defined := map[string]string{}
	lookup := func(name string) (string, bool) { v, ok := defined[name]; return v, ok }
	for _, e := range c.Env {
		value := Expand(e.Value, lookup)
		if e.ValueFrom != nil {
			if e.ValueFrom.FieldRef == nil {
				return nil, fmt.Errorf("environment variable %s: this kind of valueFrom is not supported", e.Name)
			}
			var err error
			if value, err = Field(p, e.ValueFrom.FieldRef.FieldPath); err != nil {
				return nil, fmt.Errorf("environment variable %s: %w", e.Name, err)
			}
		}
		defined[e.Name] = value
		set(e.Name, value)
	}
	out := make([]string, 0, len(order))
	for _, name := range order {
		out = append(out, name+"="+values[name])
	}
	return out, nil
}

// Field returns the value of a field of p that the downward API may name
// (https://kubernetes.io/docs/concepts/workloads/pods/downward-api/).
func Field(p *corev1.Pod, path string) (string, error) {
	if name, ok := subscript(path, "metadata.labels"); ok {
		return p.Labels[name], nil
	}
	if name, ok := subscript(path, "metadata.annotations"); ok {
		return p.Annotations[name], nil
	}
	switch path {
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "metadata.uid":
		return string(p.UID), nil
	case "spec.nodeName":
		return p.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return p.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return p.Status.HostIP, nil
	case "status.hostIPs":
		var ips []string
		for _, ip := range p.Status.HostIPs {
			ips = append(ips, ip.IP)
		}
		return strings.Join(ips, ","), nil
	case "status.podIP":
		return p.Status.PodIP, nil
	case "status.podIPs":
		var ips []string
		for _, ip := range p.Status.PodIPs {
			ips = append(ips, ip.IP)
		}
		return strings.Join(ips, ","), nil
	}
	return "", fmt.Errorf("field %q is not one that fieldRef can name", path)
}

// NeedsIP tells whether a fieldRef path asks for the address of the pod.
func NeedsIP(path string) bool { return path == "status.podIP" || path == "status.podIPs" }

// subscript returns KEY of path PREFIX['KEY'].
func subscript(path, prefix string) (string, bool) {
	rest, ok := strings.CutPrefix(path, prefix+"['")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, "']")
}
