package supervisor

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/volume"
)

// reasonEvicted is why a pod failed that took more than it may.
const reasonEvicted = "Evicted"

// measureInterval is how often volumes with a limit are measured: the kubelet's
// interval.
const measureInterval = 10 * time.Second

// measured returns the pod's volumes that have to be measured.
func (w *worker) measured() []corev1.Volume {
	var volumes []corev1.Volume
	for i := range w.pod.Spec.Volumes {
		if volume.Measured(&w.pod.Spec.Volumes[i]) {
			volumes = append(volumes, w.pod.Spec.Volumes[i])
		}
	}
	return volumes
}

// measure evicts the pod once one of volumes holds more than its limit, until
// ctx ends. A pod that does not run at the time is looked at again.
func (w *worker) measure(ctx context.Context, every time.Duration, volumes []corev1.Volume) {
	for wait := every; pause(ctx, wait); {
		began := time.Now()
		for _, v := range volumes {
			used, err := w.s.volumes.Usage(string(w.uid), v.Name)
			if err != nil {
				w.log.Warn("measure a volume", "volume", v.Name, "err", err)
				continue
			}
			if limit := v.EmptyDir.SizeLimit; used > limit.Value() {
				w.evict(ctx, fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q.", v.Name, limit.String()))
				break
			}
		}
		// A volume of very many files is not to keep a processor busy.
		wait = max(every, 20*time.Since(began))
	}
}

// evict has the worker's goroutine end the pod as failed, if it runs.
func (w *worker) evict(ctx context.Context, message string) {
	evict := func() {
		if w.run.State == Running {
			w.warn(reasonEvicted, "", message)
			w.finish(w.ctx, corev1.PodFailed, reasonEvicted, message)
		}
	}
	select {
	case w.calls <- evict:
	case <-ctx.Done():
	}
}
