package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/image"
)

// pulls are the images of one attempt to start a pod or a container, on their
// way. They come beside the worker's goroutine, which goes on looking after
// what runs: a registry may take minutes.
type pulls struct {
	w       *worker
	pod     *corev1.Pod
	cancel  context.CancelFunc
	done    chan struct{} // closed when all are there, or one cannot be had
	err     error         // valid then, as are those below
	mu      sync.Mutex
	images  map[string]*image.Image // by container
	volumes map[string]*image.Image // by volume
}

// beginPulls finds the images of the containers specs and of image volumes,
// pulling by their pull policy where none is pinned yet
// (https://kubernetes.io/docs/concepts/containers/images/#image-pull-policy).
// A container that started once keeps its image and needs no registry, unless
// its policy is Always: then each time it is made the registry is asked. One
// that need not be made has none in the answer. The caller calls end.
func (w *worker) beginPulls(ctx context.Context, specs []corev1.Container) *pulls {
	p := &pulls{w: w, pod: w.pod, done: make(chan struct{}), images: map[string]*image.Image{}, volumes: map[string]*image.Image{}}
	ctx, p.cancel = context.WithCancel(ctx)
	var g *errgroup.Group
	g, ctx = errgroup.WithContext(ctx)
	type request struct {
		reference string
		policy    corev1.PullPolicy
	}
	asked := map[request][]string{}
	had := map[request]pinnedImage{}
	for i := range specs {
		c := &specs[i]
		if w.container(c.Name) != nil || w.completed(c.Name) {
			continue // made already
		}
		r := request{c.Image, c.ImagePullPolicy}
		if img := w.pinnedImage(c.Name, c.Image); img != nil {
			pin := w.run.Images[c.Name]
			if c.ImagePullPolicy != corev1.PullAlways || pin.Incarnation == w.run.Incarnation[c.Name] {
				p.images[c.Name] = img
				continue
			}
			had[r] = pin
		}
		asked[r] = append(asked[r], c.Name)
	}
	var volumes []*corev1.Volume
	for i := range w.pod.Spec.Volumes {
		v := &w.pod.Spec.Volumes[i]
		if v.Image == nil {
			continue
		}
		if img := w.pinnedImage(volumePin(v.Name), v.Image.Reference); img != nil {
			p.volumes[v.Name] = img
			continue
		}
		volumes = append(volumes, v)
	}
	if len(asked)+len(volumes) == 0 {
		close(p.done)
		return p
	}
	for r, names := range asked {
		g.Go(func() error { return p.pull(ctx, r.reference, r.policy, names, had[r]) })
	}
	for _, v := range volumes {
		g.Go(func() error { return p.pullVolume(ctx, v) })
	}
	go func() {
		p.err = g.Wait()
		close(p.done)
	}()
	return p
}

// pinnedImage is the image that is pinned under a name for reference; nil when
// none is, or it is gone.
func (w *worker) pinnedImage(name, reference string) *image.Image {
	pin, ok := w.run.Images[name]
	if !ok || pin.Reference != reference {
		return nil
	}
	img, err := w.s.images.Get(pin.ID)
	if err != nil {
		return nil
	}
	return img
}

// pull has one image for the containers names, which may have had one before.
func (p *pulls) pull(ctx context.Context, reference string, policy corev1.PullPolicy, names []string, had pinnedImage) error {
	img := p.unchanged(ctx, names[0], had)
	if img == nil {
		var err error
		if img, err = p.w.image(ctx, p.pod, names[0], reference, policy); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		p.images[name] = img
	}
	return nil
}

// askTimeout bounds how long a restart waits for a registry to say what the
// name of an image stands for.
const askTimeout = 3 * time.Second

// unchanged asks the registry whether the image that a container had is still
// what its name stands for. It is returned if so, and also if the registry
// cannot be asked: where there is no network a container that ended is worth
// more than its tag (docs/decisions/0010). Otherwise nil: it is to be pulled.
func (p *pulls) unchanged(ctx context.Context, name string, had pinnedImage) *image.Image {
	w := p.w
	ref, err := image.ParseReference(had.Reference)
	if err != nil {
		return nil // it had none
	}
	img, err := w.s.images.Get(had.ID)
	if err != nil {
		return nil
	}
	field := containerField(p.pod, name)
	asking, end := context.WithTimeout(ctx, askTimeout)
	defer end()
	top, err := w.s.images.Resolve(asking, ref, w.pullCredentials(p.pod, field))
	switch {
	case err == nil && string(top) == had.Digest:
		return img
	case err != nil && ctx.Err() == nil && (asking.Err() != nil || image.Unanswered(err)):
		w.warn("ImageNotChecked", field, fmt.Sprintf("Registry of image %q cannot be asked, the container keeps the one it had: %v", had.Reference, err))
		return img
	}
	return nil
}

func (p *pulls) pullVolume(ctx context.Context, v *corev1.Volume) error {
	img, err := p.w.image(ctx, p.pod, "", v.Image.Reference, v.Image.PullPolicy)
	var f *startError
	if errors.As(err, &f) {
		f.err = fmt.Errorf("volume %q: %w", v.Name, f.err)
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.volumes[v.Name] = img
	return nil
}

// volumeImages are the images of volumes that are there by now.
func (p *pulls) volumeImages() map[string]*image.Image {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.volumes)
}

// end gives up what is not there yet and waits until nothing is on its way. It
// may be called again.
func (p *pulls) end() {
	p.cancel()
	<-p.done
}

// wait returns when all images are there or one cannot be had. Meanwhile the
// worker's goroutine, which it is for, looks after what runs: containers are
// stopped, probed and judged, and with alone those that are due are made again.
// errDecided says that one of these decided where the pod goes.
func (p *pulls) wait(ctx context.Context, alone bool) error {
	w := p.w
	for state := w.run.State; ; {
		select {
		case <-p.done: // first: what can be done at once is done without a look around
			return p.err
		default:
		}
		var due <-chan time.Time
		var gone <-chan struct{}
		stop := func() {}
		if alone {
			due, stop = w.due()
		}
		if state == Running {
			gone = w.box.Done()
		}
		select {
		case <-p.done:
		case c := <-w.exits:
			w.ended(ctx, c)
		case call := <-w.calls:
			call()
		case <-due:
			w.makeDue(ctx)
		case <-gone:
			w.sandboxGone(ctx)
		}
		stop()
		if w.run.State != state {
			return errDecided
		}
	}
}
