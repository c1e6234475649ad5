package supervisor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// refresh derives phase and conditions of p from its container statuses and
// the state of its worker. now stamps the conditions that changed.
func refresh(p *corev1.Pod, r *run, now time.Time) {
	finished := r.State == Finished && r.Ended != nil
	switch {
	case finished:
		p.Status.Phase, p.Status.Reason, p.Status.Message = r.Ended.Phase, r.Ended.Reason, r.Ended.Message
	case r.State == Running || anyStarted(p):
		p.Status.Phase = corev1.PodRunning
	default:
		p.Status.Phase = corev1.PodPending
	}
	p.Status.ObservedGeneration = p.Generation
	putMounts(p, r)
	for _, c := range conditions(p, r) {
		setCondition(p, c, now)
	}
}

func anyStarted(p *corev1.Pod) bool {
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil {
			return true
		}
	}
	return false
}

// conditions are those that the kubelet gives a pod, in its order, with its
// reasons and words
// (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-conditions).
func conditions(p *corev1.Pod, r *run) []corev1.PodCondition {
	list := []corev1.PodCondition{
		condition(corev1.PodReadyToStartContainers, p.Status.PodIP != "" && r.State != Finished, "", ""),
		initialized(p, r),
	}
	ready := containersReady(p)
	list = append(list, podReady(p, ready), ready, scheduled(r))
	if c, ok := allRestarting(p, r); ok {
		list = append(list, c)
	}
	return list
}

// scheduled is PodScheduled, in which the scheduler says that a pod waits for a
// port of the host.
func scheduled(r *run) corev1.PodCondition {
	if r.Unscheduled != "" {
		return condition(corev1.PodScheduled, false, reasonUnschedulable, r.Unscheduled)
	}
	return condition(corev1.PodScheduled, true, "", "")
}

func condition(t corev1.PodConditionType, ok bool, reason, message string) corev1.PodCondition {
	status := corev1.ConditionFalse
	if ok {
		status = corev1.ConditionTrue
	}
	return corev1.PodCondition{Type: t, Status: status, Reason: reason, Message: message}
}

func initialized(p *corev1.Pod, r *run) corev1.PodCondition {
	if p.Status.Phase == corev1.PodSucceeded {
		return condition(corev1.PodInitialized, true, "PodCompleted", "")
	}
	var missing []string
	for i := r.InitDone; i < len(p.Spec.InitContainers); i++ {
		missing = append(missing, p.Spec.InitContainers[i].Name)
	}
	if len(missing) > 0 {
		return condition(corev1.PodInitialized, false, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %s", missing))
	}
	return condition(corev1.PodInitialized, true, "", "")
}

// containersReady counts sidecars and main containers.
func containersReady(p *corev1.Pod) corev1.PodCondition {
	switch p.Status.Phase {
	case corev1.PodSucceeded:
		return condition(corev1.ContainersReady, false, "PodCompleted", "")
	case corev1.PodFailed:
		return condition(corev1.ContainersReady, false, "PodFailed", "")
	}
	var unready []string
	for _, c := range allContainers(p) {
		if role, _ := roleOf(p, c.Name); role == Init {
			continue
		}
		if s := lookStatus(p, c.Name); s == nil || !s.Ready {
			unready = append(unready, c.Name)
		}
	}
	if len(unready) > 0 {
		return condition(corev1.ContainersReady, false, "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready))
	}
	return condition(corev1.ContainersReady, true, "", "")
}

// podReady waits for the conditions of the readiness gates besides.
func podReady(p *corev1.Pod, containers corev1.PodCondition) corev1.PodCondition {
	if containers.Status != corev1.ConditionTrue {
		containers.Type = corev1.PodReady
		return containers
	}
	var missing []string
	for _, gate := range p.Spec.ReadinessGates {
		switch c := lookCondition(p, gate.ConditionType); {
		case c == nil:
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case c.Status != corev1.ConditionTrue:
			missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, c.Status))
		}
	}
	if len(missing) > 0 {
		return condition(corev1.PodReady, false, "ReadinessGatesNotReady", strings.Join(missing, ", "))
	}
	return condition(corev1.PodReady, true, "", "")
}

// allRestarting is AllContainersRestarting, which only pods have that may
// restart so by a rule of theirs.
func allRestarting(p *corev1.Pod, r *run) (c corev1.PodCondition, has bool) {
	for _, c := range allContainers(p) {
		has = has || slices.ContainsFunc(c.RestartPolicyRules, func(rule corev1.ContainerRestartRule) bool {
			return rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		})
	}
	switch {
	case p.Status.Phase == corev1.PodSucceeded:
		return condition(corev1.AllContainersRestarting, false, "PodCompleted", ""), has
	case p.Status.Phase == corev1.PodFailed:
		return condition(corev1.AllContainersRestarting, false, "PodFailed", ""), has
	case r.State == Restarting && r.ByRule:
		return condition(corev1.AllContainersRestarting, true, "RestartAllContainersStarted", "container exited with restart policy rule"), has
	}
	return condition(corev1.AllContainersRestarting, false, "", ""), has
}

func lookCondition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// setCondition replaces the condition of c's type, or adds it. The time is that
// of the last change of its status.
func setCondition(p *corev1.Pod, c corev1.PodCondition, now time.Time) {
	c.ObservedGeneration = p.Generation
	c.LastTransitionTime = metav1.NewTime(now)
	old := lookCondition(p, c.Type)
	if old == nil {
		p.Status.Conditions = append(p.Status.Conditions, c)
		return
	}
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	*old = c
}
