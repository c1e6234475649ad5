package supervisor

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Verdict is what the end of a container means for its pod.
type Verdict string

// The verdicts.
const (
	Keep         Verdict = "keep"          // the container stays as it ended, the pod goes on
	RestartGroup Verdict = "restart group" // all containers are made again
	RestartAlone Verdict = "restart alone" // this one is made again, the others go on
	Succeed      Verdict = "succeed"       // every container completed
	Fail         Verdict = "fail"          // the pod will not be made again
)

// Role is what a container is to its pod.
type Role string

// The roles.
const (
	Main    Role = "main"
	Init    Role = "init"    // an init container that the next one waits for the end of
	Sidecar Role = "sidecar" // an init container with restartPolicy Always
)

// waits is what a container waits for that is about to be made.
func (r Role) waits() string {
	if r == Main {
		return reasonCreating
	}
	return reasonInitializing
}

// Ending is the end of a container, with what its meaning depends on.
type Ending struct {
	Pod       corev1.RestartPolicy // of the pod; "" is Always
	Container *corev1.Container    // with its own policy and rules
	Role      Role
	ExitCode  int32
	Condemned bool // podrun ended it because a probe or a hook failed
	Alone     bool // the pod's annotation asks for restarts of single containers

	MainRun      bool // the pod's main containers were started
	OthersDone   bool // every other main container has ended for good
	OthersFailed bool // and one of them with a failure
}

// Judge says what the end of a container means. It is a pure function.
//
// The container's restartPolicyRules come first, then its own restartPolicy,
// then the pod's
// (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy).
// A restart that no rule decides is one of the whole group, but for three
// cases: the pod's policy is Never, which forbids making the others again; a
// sidecar ends before the main containers run; the annotation says otherwise.
// Under the pod's policy Never the first failure ends the pod, which is one
// unit. A container that a probe condemned is made again whatever its exit code;
// where it may not be, the exit code counts, as in Kubernetes.
func Judge(e Ending) Verdict {
	failed := e.ExitCode != 0
	rule := matchingRule(e.Container, e.ExitCode)
	switch {
	case rule == corev1.ContainerRestartRuleActionRestartAllContainers:
		return RestartGroup
	case e.Role == Init && !failed:
		return Keep
	case rule == corev1.ContainerRestartRuleActionRestart:
		return RestartAlone
	}
	policy := policyOf(e)
	if policy == corev1.RestartPolicyAlways || policy == corev1.RestartPolicyOnFailure && (failed || e.Condemned) {
		if e.Alone || e.Pod == corev1.RestartPolicyNever || e.Role == Sidecar && !e.MainRun {
			return RestartAlone
		}
		return RestartGroup
	}
	switch {
	case e.Role == Init, failed && e.Pod == corev1.RestartPolicyNever:
		return Fail
	case !e.OthersDone:
		return Keep
	case failed || e.OthersFailed:
		return Fail
	}
	return Succeed
}

// policyOf is the container's own policy or the pod's.
func policyOf(e Ending) corev1.RestartPolicy {
	if e.Container.RestartPolicy != nil {
		return corev1.RestartPolicy(*e.Container.RestartPolicy)
	}
	if e.Pod == "" {
		return corev1.RestartPolicyAlways
	}
	return e.Pod
}

// matchingRule is the action of the first of the container's rules that the
// exit code matches; "" when none does. Rules go with a policy of the
// container's own.
func matchingRule(c *corev1.Container, exitCode int32) corev1.ContainerRestartRuleAction {
	if c.RestartPolicy == nil {
		return ""
	}
	for _, rule := range c.RestartPolicyRules {
		if rule.ExitCodes == nil {
			continue
		}
		in := slices.Contains(rule.ExitCodes.Values, exitCode)
		switch rule.ExitCodes.Operator {
		case corev1.ContainerRestartRuleOnExitCodesOpIn:
			if in {
				return rule.Action
			}
		case corev1.ContainerRestartRuleOnExitCodesOpNotIn:
			if !in {
				return rule.Action
			}
		}
	}
	return ""
}

// isSidecar tells whether an init container keeps running beside the main ones.
func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// roleOf returns what the container name is to p, and its place among the init
// containers.
func roleOf(p *corev1.Pod, name string) (Role, int) {
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.Name == name {
			if isSidecar(c) {
				return Sidecar, i
			}
			return Init, i
		}
	}
	return Main, -1
}
