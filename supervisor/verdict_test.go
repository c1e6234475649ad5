package supervisor_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/supervisor"
)

func TestJudge(t *testing.T) {
	const (
		always, onFailure, never = corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever

		main, init, sidecar               = supervisor.Main, supervisor.Init, supervisor.Sidecar
		keep, group, alone, succeed, fail = supervisor.Keep, supervisor.RestartGroup, supervisor.RestartAlone, supervisor.Succeed, supervisor.Fail
	)
	type ending = supervisor.Ending
	own := func(policy corev1.ContainerRestartPolicy, rules ...corev1.ContainerRestartRule) *corev1.Container {
		return &corev1.Container{RestartPolicy: &policy, RestartPolicyRules: rules}
	}
	rule := func(action corev1.ContainerRestartRuleAction, operator corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) corev1.ContainerRestartRule {
		return corev1.ContainerRestartRule{Action: action, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: operator, Values: codes}}
	}
	const (
		in, notIn    = corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn
		itself, them = corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers
	)
	for _, c := range []struct {
		name string
		end  ending
		want supervisor.Verdict
	}{
		{"always restarts a failure", ending{Pod: always, Role: main, ExitCode: 1}, group},
		{"always restarts a success", ending{Pod: always, Role: main}, group},
		{"always restarts the last one too", ending{Pod: always, Role: main, OthersDone: true}, group},
		{"no policy is Always", ending{Role: main, OthersDone: true}, group},
		{"on failure restarts a failure", ending{Pod: onFailure, Role: main, ExitCode: 137, OthersDone: true}, group},
		{"on failure restarts what podrun ended for failing", ending{Pod: onFailure, Role: main, Condemned: true, OthersDone: true}, group},
		{"on failure keeps a success while others run", ending{Pod: onFailure, Role: main}, keep},
		{"on failure succeeds with the last one", ending{Pod: onFailure, Role: main, OthersDone: true}, succeed},
		{"never fails with the first failure", ending{Pod: never, Role: main, ExitCode: 3}, fail},
		{"never fails with the last failure", ending{Pod: never, Role: main, ExitCode: 3, OthersDone: true}, fail},
		{"never fails with what podrun ended for failing", ending{Pod: never, Role: main, ExitCode: 137, Condemned: true}, fail},
		{"but takes it for what it says", ending{Pod: never, Role: main, Condemned: true, OthersDone: true}, succeed},
		{"never keeps a success while others run", ending{Pod: never, Role: main}, keep},
		{"never succeeds with the last one", ending{Pod: never, Role: main, OthersDone: true}, succeed},

		{"the annotation restarts it alone", ending{Pod: always, Role: main, ExitCode: 1, Alone: true}, alone},
		{"the annotation restarts nothing that is not to be", ending{Pod: onFailure, Role: main, Alone: true}, keep},

		{"its own policy goes first", ending{Pod: onFailure, Container: own("Always"), Role: main}, group},
		{"its own policy may forbid", ending{Pod: always, Container: own("Never"), Role: main, ExitCode: 1}, keep},
		{"the last one that may not restart ends the pod", ending{Pod: always, Container: own("Never"), Role: main, OthersDone: true}, succeed},
		{"and fails it with its failure", ending{Pod: always, Container: own("Never"), Role: main, ExitCode: 1, OthersDone: true}, fail},
		{"and with another's", ending{Pod: always, Container: own("Never"), Role: main, OthersDone: true, OthersFailed: true}, fail},
		{"in a pod that is never restarted it restarts alone", ending{Pod: never, Container: own("OnFailure"), Role: main, ExitCode: 1}, alone},

		{"a rule restarts it alone", ending{Pod: never, Container: own("Never", rule(itself, in, 42)), Role: main, ExitCode: 42}, alone},
		{"also where the group would", ending{Pod: always, Container: own("Always", rule(itself, in, 42)), Role: main, ExitCode: 42}, alone},
		{"a rule restarts all", ending{Pod: never, Container: own("Never", rule(them, in, 42)), Role: main, ExitCode: 42}, group},
		{"whatever the annotation says", ending{Pod: never, Container: own("Never", rule(them, in, 42)), Role: main, ExitCode: 42, Alone: true}, group},
		{"a rule for other codes says nothing", ending{Pod: never, Container: own("Never", rule(itself, in, 42)), Role: main, ExitCode: 41}, fail},
		{"NotIn matches the others", ending{Pod: never, Container: own("Never", rule(itself, notIn, 42, 43)), Role: main, ExitCode: 41}, alone},
		{"NotIn does not match its own", ending{Pod: never, Container: own("Never", rule(itself, notIn, 42, 43)), Role: main, ExitCode: 43}, fail},
		{"the first rule that matches counts", ending{Pod: never, Container: own("Never", rule(itself, in, 1), rule(them, notIn, 0)), Role: main, ExitCode: 1}, alone},
		{"rules without a policy of its own are none", ending{Pod: never, Container: &corev1.Container{RestartPolicyRules: []corev1.ContainerRestartRule{rule(itself, in, 1)}}, Role: main, ExitCode: 1}, fail},

		{"an init container is done when it succeeds", ending{Pod: always, Role: init}, keep},
		{"the group restarts when it fails", ending{Pod: always, Role: init, ExitCode: 1}, group},
		{"never fails with an init container", ending{Pod: never, Role: init, ExitCode: 1}, fail},
		{"an init container's own Never fails the pod", ending{Pod: always, Container: own("Never"), Role: init, ExitCode: 1}, fail},
		{"an init container of a pod that is never restarted restarts alone", ending{Pod: never, Container: own("OnFailure"), Role: init, ExitCode: 1}, alone},
		{"a rule restarts an init container alone", ending{Pod: always, Container: own("Never", rule(itself, in, 7)), Role: init, ExitCode: 7}, alone},
		{"but not one that succeeded", ending{Pod: always, Container: own("Never", rule(itself, in, 0)), Role: init}, keep},

		{"a sidecar restarts alone before the main ones run", ending{Pod: always, Container: own("Always"), Role: sidecar, ExitCode: 1}, alone},
		{"and with the group beside them", ending{Pod: always, Container: own("Always"), Role: sidecar, ExitCode: 1, MainRun: true}, group},
		{"whatever its exit code", ending{Pod: onFailure, Container: own("Always"), Role: sidecar, MainRun: true}, group},
		{"in a pod that is never restarted it restarts alone", ending{Pod: never, Container: own("Always"), Role: sidecar, ExitCode: 1, MainRun: true}, alone},
		{"a rule of a sidecar restarts all at any time", ending{Pod: never, Container: own("Always", rule(them, in, 9)), Role: sidecar, ExitCode: 9}, group},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.end.Container == nil {
				c.end.Container = &corev1.Container{}
			}
			if got := supervisor.Judge(c.end); got != c.want {
				t.Errorf("Judge(%+v) = %s, want %s", c.end, got, c.want)
			}
		})
	}
}
