package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// podTable is "get pods" as kubectl prints it.
func podTable(pods []corev1.Pod, o columns, now time.Time) grid {
	t := grid{headers: []string{"NAME", "READY", "STATUS", "RESTARTS", "AGE"}}
	if o.namespace {
		t.headers = append([]string{"NAMESPACE"}, t.headers...)
	}
	if o.wide {
		t.headers = append(t.headers, "IP", "NODE", "NOMINATED NODE", "READINESS GATES")
	}
	if o.labels {
		t.headers = append(t.headers, "LABELS")
	}
	for i := range pods {
		t.rows = append(t.rows, podRow(&pods[i], o, now))
	}
	return t
}

func podRow(p *corev1.Pod, o columns, now time.Time) []string {
	s := summarize(p)
	restarts := strconv.Itoa(s.restarts)
	if s.restarts > 0 && !s.lastRestart.IsZero() {
		restarts += " (" + age(s.lastRestart, now) + " ago)"
	}
	row := []string{p.Name, fmt.Sprintf("%d/%d", s.ready, s.containers), s.status, restarts, age(p.CreationTimestamp.Time, now)}
	if o.kind {
		row[0] = title(p)
	}
	if o.namespace {
		row = append([]string{p.Namespace}, row...)
	}
	if o.wide {
		gates := none
		if n := len(p.Spec.ReadinessGates); n > 0 {
			ready := 0
			for _, g := range p.Spec.ReadinessGates {
				for _, c := range p.Status.Conditions {
					if c.Type == g.ConditionType && c.Status == corev1.ConditionTrue {
						ready++
					}
				}
			}
			gates = fmt.Sprintf("%d/%d", ready, n)
		}
		row = append(row, orNone(p.Status.PodIP), orNone(p.Spec.NodeName), orNone(p.Status.NominatedNodeName), gates)
	}
	if o.labels {
		row = append(row, joinMap(p.Labels, ","))
	}
	return row
}

// summary is what a line of "get pods" says.
type summary struct {
	status      string
	ready       int
	containers  int // those that keep running: main ones and sidecars
	restarts    int
	lastRestart time.Time
}

// summarize boils a pod's status down by kubectl's rules: the reason that
// explains most, init containers before containers, and the sum of restarts.
func summarize(p *corev1.Pod) summary {
	s := summary{status: string(p.Status.Phase), containers: len(p.Spec.Containers)}
	if p.Status.Reason != "" {
		s.status = p.Status.Reason
	}
	initializing := s.addInit(p)
	if !initializing || conditionTrue(p, corev1.PodInitialized) {
		s.restarts, s.lastRestart = 0, time.Time{}
		s.addSidecars(p)
		s.addContainers(p)
	}
	switch {
	case p.DeletionTimestamp != nil && p.Status.Reason == "NodeLost":
		s.status = "Unknown"
	case p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded:
		s.status = "Terminating"
	}
	return s
}

// addInit takes up the init containers, and tells whether one of them keeps
// the pod from being initialized.
func (s *summary) addInit(p *corev1.Pod) bool {
	sidecar := sidecars(p)
	s.containers += len(sidecar)
	for i, c := range p.Status.InitContainerStatuses {
		s.restarts += int(c.RestartCount)
		s.noteRestart(c)
		switch t, w := c.State.Terminated, c.State.Waiting; {
		case t != nil && t.ExitCode == 0:
			continue
		case sidecar[c.Name] && c.Started != nil && *c.Started:
			if c.Ready {
				s.ready++
			}
			continue
		case t != nil:
			s.status = "Init:" + terminatedReason(t)
		case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
			s.status = "Init:" + w.Reason
		default:
			s.status = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return true
	}
	return false
}

// sidecars are the init containers that keep running beside the main ones.
func sidecars(p *corev1.Pod) map[string]bool {
	names := map[string]bool{}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			names[c.Name] = true
		}
	}
	return names
}

// addSidecars counts the restarts of the init containers that still matter.
func (s *summary) addSidecars(p *corev1.Pod) {
	sidecar := sidecars(p)
	for _, c := range p.Status.InitContainerStatuses {
		if sidecar[c.Name] {
			s.restarts += int(c.RestartCount)
			s.noteRestart(c)
		}
	}
}

func (s *summary) addContainers(p *corev1.Pod) {
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := p.Status.ContainerStatuses[i]
		s.restarts += int(c.RestartCount)
		s.noteRestart(c)
		switch t, w := c.State.Terminated, c.State.Waiting; {
		case w != nil && w.Reason != "":
			s.status = w.Reason
		case t != nil:
			s.status = terminatedReason(t)
		case c.Ready && c.State.Running != nil:
			running = true
			s.ready++
		}
	}
	// One completed, another runs: the pod is not completed.
	if s.status == "Completed" && running {
		s.status = "NotReady"
		if conditionTrue(p, corev1.PodReady) {
			s.status = "Running"
		}
	}
}

func (s *summary) noteRestart(c corev1.ContainerStatus) {
	if t := c.LastTerminationState.Terminated; t != nil && t.FinishedAt.After(s.lastRestart) {
		s.lastRestart = t.FinishedAt.Time
	}
}

func terminatedReason(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

func conditionTrue(p *corev1.Pod, t corev1.PodConditionType) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == t && c.Status == corev1.ConditionTrue
	})
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

// joinMap is key=value pairs in order, or <none>.
func joinMap(m map[string]string, separator string) string {
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, k+"="+m[k])
	}
	return orNone(strings.Join(pairs, separator))
}

// eventTable is "get events" as kubectl prints it.
func eventTable(events []corev1.Event, namespace bool, now time.Time) grid {
	t := grid{headers: []string{"LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"}}
	if namespace {
		t.headers = append([]string{"NAMESPACE"}, t.headers...)
	}
	for _, e := range events {
		row := []string{
			age(e.LastTimestamp.Time, now), e.Type, e.Reason,
			strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name, strings.TrimSpace(e.Message),
		}
		if namespace {
			row = append([]string{e.Namespace}, row...)
		}
		t.rows = append(t.rows, row)
	}
	return t
}
