package supervisor

import (
	"context"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/sandbox"
)

// UsageWindow is how long processor time is measured.
const UsageWindow = time.Second

// PodUsage is what a running pod uses.
type PodUsage struct {
	Pod        *corev1.Pod
	Containers []ContainerUsage
}

// ContainerUsage is what a running container uses.
type ContainerUsage struct {
	Name        string
	CPUNanos    uint64 // of processor time in a second
	MemoryBytes uint64
}

// Usage measures, for UsageWindow, what the pods of a namespace use that run
// containers: all namespaces when it is "", one pod when name is not "".
func (s *Supervisor) Usage(ctx context.Context, namespace, name string) ([]PodUsage, error) {
	s.mu.Lock()
	var workers []*worker
	for _, w := range s.workers {
		if (namespace == "" || w.namespace == namespace) && (name == "" || w.name == name) {
			workers = append(workers, w)
		}
	}
	s.mu.Unlock()
	if name != "" && len(workers) == 0 {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	slices.SortFunc(workers, func(a, b *worker) int {
		return strings.Compare(a.namespace+"/"+a.name, b.namespace+"/"+b.name)
	})

	type sample struct {
		c     *container
		first sandbox.Usage
		at    time.Time
	}
	samples := make([][]sample, len(workers))
	running := false
	for i, w := range workers {
		for _, c := range w.boxes() {
			if u, err := c.box.Usage(); err == nil {
				samples[i] = append(samples[i], sample{c, u, time.Now()})
				running = true
			}
		}
	}
	if running {
		timer := time.NewTimer(UsageWindow)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	list := []PodUsage{}
	for i, w := range workers {
		p, _, err := s.stored(w.namespace, w.name)
		if err != nil {
			continue // deleted meanwhile
		}
		pod := PodUsage{Pod: p}
		for _, sm := range samples[i] {
			now, err := sm.c.box.Usage()
			if err != nil {
				continue
			}
			// The time of a process goes with it: the sum may get less.
			used := max(now.CPUNanos, sm.first.CPUNanos) - sm.first.CPUNanos
			pod.Containers = append(pod.Containers, ContainerUsage{
				Name:        sm.c.name,
				CPUNanos:    uint64(float64(used) / time.Since(sm.at).Seconds()),
				MemoryBytes: now.MemoryBytes,
			})
		}
		if len(pod.Containers) > 0 {
			slices.SortFunc(pod.Containers, func(a, b ContainerUsage) int { return strings.Compare(a.Name, b.Name) })
			list = append(list, pod)
		}
	}
	return list, nil
}
