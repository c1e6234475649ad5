package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// volumeFaultPoints are the steps at which volumes can be made to fail.
var volumeFaultPoints = []string{"volume.subpath", "volume.swapped", "volume.written"}

// TestVolumeFaults fails each step of making volumes once, by an error and by
// kill -9 of the node. The pod must come up all the same, with what its volumes
// show, and leave nothing.
func TestVolumeFaults(t *testing.T) {
	t.Parallel()
	const manifest = `
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: a}}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: shared, emptyDir: {}}
  - {name: labels, downwardAPI: {items: [{path: app, fieldRef: {fieldPath: "metadata.labels['app']"}}]}}
  containers:
  - name: c
    image: busybox
    command: [sleep, "3600"]
    volumeMounts:
    - {name: memory, mountPath: /memory, subPath: part}
    - {name: shared, mountPath: /shared, mountPropagation: HostToContainer}
    - {name: labels, mountPath: /labels}
    - {name: labels, mountPath: /app, subPath: app}
`
	for _, point := range volumeFaultPoints {
		for _, action := range []string{"error", "kill"} {
			t.Run(point+" "+action, func(t *testing.T) {
				t.Parallel()
				fired := filepath.Join(t.TempDir(), "fired")
				e := newEnv(t, fmt.Sprintf("PODRUN_FAULT=%s:%s:1:%s", point, action, fired))
				e.stdin = manifest
				// Where the node is killed under the apply, its answer may be lost.
				if r := e.run("apply", "-f", "-"); r.code != 0 {
					e.apply(manifest)
				}
				e.ready("p")
				same(t, e.sh("p", "c", "cat /labels/app /app; touch /memory/f /shared/f && echo -ok").out, "aa-ok\n")
				e.ok("delete", "pod", "p", "--now")
				if _, err := os.Stat(fired); err != nil {
					t.Errorf("the fault did not fire")
				}
			})
		}
	}
}
