package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/sandbox"
	"get.podrun.dev/podrun/store"
	"get.podrun.dev/podrun/volume"
)

// Config is what a Supervisor joins. All fields but Logger are required; the
// caller keeps them open until Close has returned and closes them then.
type Config struct {
	Store     *store.Store
	Sandboxes *sandbox.Runtime
	Network   *cni.Network
	Images    *image.Store
	Volumes   *volume.Manager
	StateDir  string // gone after a reboot
	DataDir   string // survives it
	Node      string // the name shown as NODE
	HostIP    string // status.hostIP of every pod
	Rootless  bool   // every pod is in a user namespace already
	// Anchor writes down a process that lives as long as its pod, so that a
	// node which lost its reaper finds the way back to its pods.
	Anchor func(pid int) error
	Logger *slog.Logger
}

// Supervisor owns the pods of this machine. Its methods are safe for
// concurrent use.
type Supervisor struct {
	store     *store.Store
	sandboxes *sandbox.Runtime
	network   *cni.Network
	images    *image.Store
	volumes   *volume.Manager
	paths     struct{ State, Data string }
	node      string
	hostIP    string
	machine   machine
	anchor    func(pid int) error
	log       *slog.Logger

	ctx        context.Context // of the workers
	stop       context.CancelFunc
	goroutines sync.WaitGroup
	swept      atomic.Int64 // when events were swept last, in Unix seconds
	nodeEvents sync.Mutex   // held while one is written

	ports   portClaims
	waiting waiting // attachments to containers that are not there yet

	mu      sync.Mutex
	workers map[types.NamespacedName]*worker
}

// New returns a Supervisor that does nothing yet: Recover begins its work.
func New(c Config) *Supervisor {
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Supervisor{
		store: c.Store, sandboxes: c.Sandboxes, network: c.Network, images: c.Images, volumes: c.Volumes,
		node: c.Node, hostIP: c.HostIP, machine: lookAtMachine(c.Rootless, c.Sandboxes), anchor: c.Anchor, log: log,
		workers: map[types.NamespacedName]*worker{},
	}
	s.paths.State, s.paths.Data = c.StateDir, c.DataDir
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.swept.Store(time.Now().Unix())
	return s
}

// Recover takes up every stored pod where an earlier node left it, and removes
// what belongs to none. It returns when all workers are started, not when
// their pods run.
func (s *Supervisor) Recover(ctx context.Context) error {
	pods, _, err := s.store.List(kindPod, "")
	if err != nil {
		return err
	}
	known := map[string]bool{}
	rootfs := map[string]bool{}
	var workers []*worker
	for _, o := range pods {
		p, err := DecodePod(o)
		if err != nil {
			return err
		}
		r, err := s.loadRun(p)
		if err != nil {
			return err
		}
		known[string(p.UID)] = true
		for name := range r.Incarnation {
			rootfs[r.id(name)] = true
		}
		w := newWorker(s, p, r)
		if w.events, err = loadEvents(s.store, aboutPod(p)); err != nil {
			return err
		}
		workers = append(workers, w)
	}
	if err := s.sweep(ctx, known, rootfs); err != nil {
		return err
	}
	slices.SortStableFunc(workers, func(a, b *worker) int { return a.pod.CreationTimestamp.Compare(b.pod.CreationTimestamp.Time) })
	s.ports.reclaim(workers)
	for _, w := range workers {
		s.launch(w)
	}
	return nil
}

func (s *Supervisor) loadRun(p *corev1.Pod) (*run, error) {
	o, err := s.store.Get(runKey(p.Namespace, p.Name))
	if err != nil {
		return nil, err
	}
	r := new(run)
	if err := json.Unmarshal(o.Value, r); err != nil {
		return nil, fmt.Errorf("stored run of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return r.clone(), nil
}

// sweep removes sandboxes, addresses and files of pods that are not known.
func (s *Supervisor) sweep(ctx context.Context, known, rootfs map[string]bool) error {
	if err := s.network.Sweep(ctx, known); err != nil {
		s.log.Warn("sweep network", "err", err)
	}
	ids, err := s.sandboxes.Sandboxes()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if !known[id] {
			if err := s.sandboxes.DeleteSandbox(ctx, id); err != nil {
				s.log.Warn("remove a sandbox that no pod has", "sandbox", id, "err", err)
			}
		}
	}
	if err := s.volumes.Sweep(known); err != nil {
		s.log.Warn("sweep volumes", "err", err)
	}
	entries, err := os.ReadDir(filepath.Join(s.paths.Data, "containers"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if !rootfs[e.Name()] {
			// In the background: a large file system takes its time, and its
			// name is never used again.
			s.goroutines.Go(func() {
				if err := s.images.RemoveRootfs(s.rootfsDir(e.Name())); err != nil {
					s.log.Warn("remove a container's file system", "container", e.Name(), "err", err)
				}
			})
		}
	}
	return nil
}

// launch starts the worker of a pod that has none.
func (s *Supervisor) launch(w *worker) {
	s.mu.Lock()
	s.workers[w.key()] = w
	s.mu.Unlock()
	s.goroutines.Go(func() {
		w.life(s.ctx)
		if w.run.State == Gone {
			s.mu.Lock()
			if s.workers[w.key()] == w {
				delete(s.workers, w.key())
			}
			s.mu.Unlock()
		}
	})
}

// Halt stops supervising: no end of a container is judged any more, as when the
// machine goes down and ends them all, and nothing more is started. Close is
// still to be called.
func (s *Supervisor) Halt() { s.stop() }

// Close stops supervising and waits until every goroutine has ended. The pods
// go on; the next Recover takes them up.
func (s *Supervisor) Close() {
	s.stop()
	s.goroutines.Wait()
}

// Active returns how many pods need this node: all but those that have
// finished. It reads no disk.
func (s *Supervisor) Active() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, w := range s.workers {
		if !w.idle.Load() {
			n++
		}
	}
	return n
}

// worker returns the worker of a pod, or a NotFound error in kubectl's words.
func (s *Supervisor) worker(namespace, name string) (*worker, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.workers[types.NamespacedName{Namespace: namespace, Name: name}]
	if !ok {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	return w, nil
}

func (w *worker) key() types.NamespacedName {
	return types.NamespacedName{Namespace: w.namespace, Name: w.name}
}

// forget removes the pod of w from the store, with its run, events and logs.
func (s *Supervisor) forget(w *worker) error {
	s.waiting.endAll(w)
	if err := errors.Join(os.RemoveAll(w.logDir()), fault.Point("delete.logs")); err != nil {
		return err
	}
	_, err := s.store.Update(func(tx *store.Tx) error {
		for _, e := range w.events {
			if err := tx.Delete(eventKey(e)); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		if err := tx.Delete(runKey(w.namespace, w.name)); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		err := tx.Delete(podKey(w.namespace, w.name))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	return err
}

// rootfsDir is where the writable layer of a container lies.
func (s *Supervisor) rootfsDir(id string) string {
	return filepath.Join(s.paths.Data, "containers", id)
}

// waitFor returns when done is closed or ctx ends.
func waitFor(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
