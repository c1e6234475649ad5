package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/node"
	"get.podrun.dev/podrun/pod"
)

// awaitPods waits until the pods among the objects are ready or have
// completed, for timeout at most, 0 for without end. Each error says of one
// pod why it is not.
func awaitPods(ctx context.Context, client *node.Client, objects []pod.Value, timeout time.Duration) []error {
	during := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		during, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	var failed []error
	for _, v := range objects {
		p, is := v.(*corev1.Pod)
		if !is {
			continue
		}
		last := p
		_, err := awaitPod(during, client, p, func(p *corev1.Pod) bool {
			last = p
			return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || conditionTrue(p, corev1.PodReady)
		})
		switch {
		case ctx.Err() != nil:
			return []error{ctx.Err()}
		case errors.Is(err, context.DeadlineExceeded):
			failed = append(failed, plainf("timed out waiting for pod %q to be ready: %s", p.Name, unready(last)))
		case err != nil:
			failed = append(failed, fmt.Errorf("cannot wait for pod %q: %w", p.Name, err))
		case last.Status.Phase == corev1.PodFailed:
			failed = append(failed, plainf("pod %q failed: %s", p.Name, unready(last)))
		}
	}
	return failed
}

// unready says what keeps a pod from being ready.
func unready(p *corev1.Pod) string {
	if p.Status.Reason != "" || p.Status.Message != "" {
		return reasoned(p.Status.Reason, p.Status.Message)
	}
	var why string
	for _, s := range append(append([]corev1.ContainerStatus(nil), p.Status.InitContainerStatuses...), p.Status.ContainerStatuses...) {
		switch w, t := s.State.Waiting, s.State.Terminated; {
		case w != nil && w.Message != "":
			return fmt.Sprintf("container %q is waiting: %s", s.Name, reasoned(w.Reason, w.Message))
		case t != nil && t.ExitCode != 0:
			return fmt.Sprintf("container %q ended with exit code %d (%s)", s.Name, t.ExitCode, t.Reason)
		case why != "":
		case w != nil && w.Reason != "":
			why = fmt.Sprintf("container %q is waiting: %s", s.Name, w.Reason)
		case s.State.Running != nil && !s.Ready:
			why = fmt.Sprintf("container %q runs and is not ready", s.Name)
		}
	}
	for _, c := range p.Status.Conditions {
		if why == "" && c.Status != corev1.ConditionTrue && c.Message != "" {
			why = reasoned(c.Reason, c.Message)
		}
	}
	if why == "" {
		why = "its phase is " + string(p.Status.Phase)
	}
	return why
}

func reasoned(reason, message string) string {
	switch {
	case reason == "":
		return message
	case message == "":
		return reason
	}
	return reason + ": " + message
}
