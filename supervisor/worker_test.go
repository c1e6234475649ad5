package supervisor

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"get.podrun.dev/podrun/volume"
)

func idleWorker(t *testing.T, s *Supervisor) *worker {
	t.Helper()
	s.log = slog.New(slog.DiscardHandler)
	w := newWorker(s, onePod(), newRun(onePod()))
	w.ctx = t.Context()
	return w
}

// TestStopAllKeepsWake: what a person changes in a pod while containers are
// stopped is still to be looked at then.
func TestStopAllKeepsWake(t *testing.T) {
	w := idleWorker(t, &Supervisor{})
	c := &container{name: "a", role: Main, stopHook: make(chan struct{}), over: make(chan struct{}), spec: &corev1.Container{
		Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 600}}},
	}}
	c.running.Store(true)
	w.poke()
	done := make(chan struct{})
	go func() {
		w.stopAll(t.Context(), []*container{c}, time.Now().Add(time.Hour))
		close(done)
	}()
	for len(w.wake) > 0 {
		time.Sleep(time.Millisecond)
	}
	close(c.over)
	<-done
	if len(w.wake) != 1 {
		t.Error("the change was forgotten")
	}
}

// TestEvictionWaitsForNoHook: what decides the end of a pod ends its postStart
// hooks.
func TestEvictionWaitsForNoHook(t *testing.T) {
	w := idleWorker(t, &Supervisor{})
	c := &container{name: "a", over: make(chan struct{}), up: make(chan struct{}), spec: &corev1.Container{
		Lifecycle: &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 600}}},
	}}
	c.running.Store(true)
	go func() {
		w.calls <- func() {}
		w.calls <- func() { w.run.State = Finishing }
	}()
	if err := w.startAll(t.Context(), c); err != nil || c.hooked || w.run.State != Finishing {
		t.Errorf("got %v, hook done %t, %s", err, c.hooked, w.run.State)
	}
}

// TestMeasureGoesOn: a pod that cannot be evicted just now is measured again.
func TestMeasureGoesOn(t *testing.T) {
	data := t.TempDir()
	w := idleWorker(t, &Supervisor{volumes: volume.New(data, t.TempDir())})
	dir := filepath.Join(data, "volumes", string(w.uid), "v")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	limit := resource.MustParse("1Ki")
	v := corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		w.measure(ctx, time.Millisecond, []corev1.Volume{v})
		close(ended)
	}()
	for range 2 {
		select {
		case evict := <-w.calls:
			evict() // it is Starting: nothing to end yet
		case <-time.After(10 * time.Second):
			t.Fatal("the volume is not measured any more")
		}
	}
	if w.run.State != Starting {
		t.Errorf("the pod is %s", w.run.State)
	}
	cancel()
	<-ended
}

// TestUsageLeavesWorkersAlone: who asks for what pods use reads nothing that
// belongs to their workers' goroutines.
func TestUsageLeavesWorkersAlone(t *testing.T) {
	s := &Supervisor{workers: map[types.NamespacedName]*worker{}, store: openStore(t)}
	w := idleWorker(t, s)
	s.workers[w.key()] = w
	w.setLive(&container{name: "a", over: make(chan struct{})})
	w.pod, w.run = nil, nil
	if list, err := s.Usage(t.Context(), "", ""); err != nil || len(list) != 0 {
		t.Errorf("got %v, %v", list, err)
	}
}

// TestHaltedNodeJudgesNothing: an end that is seen when the node has been told to
// end is the next one's to judge.
func TestHaltedNodeJudgesNothing(t *testing.T) {
	w := idleWorker(t, &Supervisor{store: openStore(t)})
	ctx, halt := context.WithCancel(t.Context())
	w.ctx = ctx
	name := w.pod.Spec.Containers[0].Name
	c := &container{name: name, id: w.run.id(name), over: make(chan struct{}), end: end{code: 1, at: time.Now()}}
	close(c.over)
	halt()
	w.ended(t.Context(), c)
	if w.run.State != Starting {
		t.Errorf("the pod is %s", w.run.State)
	}
}
