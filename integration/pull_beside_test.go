package integration

import (
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestPullBesideSidecar: while an image is pulled, the sidecar that runs
// already is stopped, probed and made again as at any other time.
func TestPullBesideSidecar(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "PODRUN_PULL_TIMEOUT=10m")
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	slow := newProxy(t, images.Address, func(a ask) harm {
		if a.kind == "manifest" {
			select {
			case <-gate:
			case <-a.Context().Done():
			}
		}
		return harm{}
	})
	manifest := lifecyclePod("group", "", []string{"side " + sidecar + ", readinessProbe: {exec: {command: [test, -e, /ready]}, periodSeconds: 1}=" + untilEnd},
		[]string{"main envFrom: [{configMapRef: {name: missing}}]=exec sleep 3600"})
	e.apply(manifest)
	e.when("group", "with a sidecar and no main container", func(p *corev1.Pod) bool {
		w := status(p, "main").State.Waiting
		return status(p, "side").State.Running != nil && w != nil && w.Reason == "CreateContainerConfigError"
	})

	at := strings.LastIndex(manifest, "image: busybox")
	e.apply(manifest[:at] + "image: " + slow.address + "/library/busybox" + manifest[at+len("image: busybox"):])
	e.eventually("a pull", func() string {
		if slow.times("/manifests/") == 0 {
			return "none"
		}
		return ""
	})
	e.ok("exec", "group", "-c", "side", "--", "touch", "/ready")
	e.when("group", "with a sidecar that is ready", func(p *corev1.Pod) bool { return status(p, "side").Ready })
	e.ok("stop", "-t", "0", "group/side")
	p := e.when("group", "with a sidecar that was made again", func(p *corev1.Pod) bool {
		return status(p, "side").State.Running != nil && status(p, "side").RestartCount == 1
	})
	if status(p, "main").ContainerID != "" {
		t.Errorf("the main container was made, and its image cannot have been pulled: %+v", status(p, "main"))
	}
	e.end("group", "side", 3) // the first failure: it is made again at once
	e.when("group", "with a sidecar that failed once", func(p *corev1.Pod) bool {
		return status(p, "side").State.Running != nil && status(p, "side").RestartCount == 2
	})
	e.end("group", "side", 3)
	e.when("group", "with a sidecar that waits", func(p *corev1.Pod) bool { return status(p, "side").State.Waiting != nil })

	open()
	e.ok("create", "configmap", "missing", "--from-literal=a=b")
	e.when("group", "with all its containers", func(p *corev1.Pod) bool {
		return status(p, "side").State.Running != nil && status(p, "main").State.Running != nil
	})
	e.ok("exec", "group", "-c", "side", "--", "touch", "/ready") // the new one has none
	e.ready("group")
}
