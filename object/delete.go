package object

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/store"
)

// Recover goes on with the deletions that an earlier node began. Pods must
// have been taken up before.
func (o *Objects) Recover() error {
	for _, kind := range []string{claimKind.Name, namespaceKind.Name} {
		objects, _, err := o.store.List(kind, "")
		if err != nil {
			return err
		}
		for _, stored := range objects {
			going, err := isTerminating(stored)
			if err != nil {
				return err
			}
			if going {
				o.finish(stored.Key)
			}
		}
	}
	return nil
}

// Active returns how many deletions are going on.
func (o *Objects) Active() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.going)
}

// finish sees a deletion to its end in the background, trying again when a
// step fails. It may be called again for the same object, and for the next one
// of its name.
func (o *Objects) finish(k store.Key) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, going := o.going[k]; going {
		o.going[k] = true
		return
	}
	o.going[k] = false
	o.goroutines.Go(func() {
		for o.see(k); o.again(k); o.see(k) {
		}
	})
}

// again tells whether a deletion that was seen to is to be looked at again. Else
// nobody sees to it any more.
func (o *Objects) again(k store.Key) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	again := o.going[k] && o.ctx.Err() == nil
	if o.going[k] = false; !again {
		delete(o.going, k)
	}
	return again
}

// see sees one deletion to its end, or to that of the node.
func (o *Objects) see(k store.Key) {
	finish := o.finishClaim
	if k.Kind == namespaceKind.Name {
		finish = o.finishNamespace
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		going, err := o.isGoing(k)
		if err == nil && going {
			err = finish(o.ctx, k)
		}
		if err == nil || o.ctx.Err() != nil {
			return
		}
		o.log.Error("cannot delete, trying again", "object", k.String(), "err", err)
		if !pause(o.ctx, wait) {
			return
		}
	}
}

// isGoing tells whether an object is there and being deleted. One that is
// stays so: only who sees to the deletion removes it.
func (o *Objects) isGoing(k store.Key) (bool, error) {
	stored, err := o.store.Get(k)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return isTerminating(stored)
}

func isTerminating(stored store.Object) (bool, error) {
	var v struct {
		Metadata struct{ DeletionTimestamp *string }
	}
	if err := json.Unmarshal(stored.Value, &v); err != nil {
		return false, fmt.Errorf("stored %s: %w", stored.Key, err)
	}
	return v.Metadata.DeletionTimestamp != nil, nil
}

// finishClaim removes a claim that is being deleted: when no pod uses it, the
// directory first, then the object.
func (o *Objects) finishClaim(ctx context.Context, k store.Key) error {
	err := o.await(ctx, "Pod", k.Namespace, func() (bool, error) {
		users, err := o.claimUsers(k)
		return len(users) == 0, err
	})
	if err != nil {
		return err
	}
	if err := fault.Point("claim.unused"); err != nil {
		return err
	}
	if err := o.removeClaim(k.Namespace, k.Name); err != nil {
		return err
	}
	if err := fault.Point("claim.removed"); err != nil {
		return err
	}
	return o.forget(k)
}

// claimUsers are the pods that keep a claim: those that were there when it was
// deleted and have not finished. A pod that came later waits for the next
// claim of the name instead. No write changes an object that is being deleted,
// so its revision is that of its deletion.
func (o *Objects) claimUsers(k store.Key) ([]string, error) {
	claim, err := o.store.Get(k)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	pods, _, err := o.store.List("Pod", k.Namespace)
	if err != nil {
		return nil, err
	}
	var users []string
	for _, stored := range pods {
		p := new(corev1.Pod)
		if err := json.Unmarshal(stored.Value, p); err != nil {
			return nil, fmt.Errorf("stored %s: %w", stored.Key, err)
		}
		finished := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		if stored.Created < claim.Revision && !finished && uses(p, k.Name) {
			users = append(users, p.Name)
		}
	}
	return users, nil
}

// uses tells whether a pod mounts a claim.
func uses(p *corev1.Pod, claim string) bool {
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim {
			return true
		}
	}
	return false
}

// finishNamespace removes a namespace that is being deleted: its pods by their
// own grace periods, then its claims, then all else with the namespace in one
// commit. Nothing new can be made in it meanwhile.
func (o *Objects) finishNamespace(ctx context.Context, k store.Key) error {
	err := o.await(ctx, "Pod", k.Name, func() (bool, error) {
		pods, _, err := o.store.List("Pod", k.Name)
		for _, stored := range pods {
			p := new(corev1.Pod)
			if err := json.Unmarshal(stored.Value, p); err != nil {
				return false, fmt.Errorf("stored %s: %w", stored.Key, err)
			}
			if p.DeletionTimestamp != nil {
				continue
			}
			if err := o.deletePod(p.Namespace, p.Name); err != nil && !apierrors.IsNotFound(err) {
				return false, err
			}
			if err := fault.Point("namespace.pod"); err != nil {
				return false, err
			}
		}
		return len(pods) == 0, err
	})
	if err != nil {
		return err
	}
	if err := fault.Point("namespace.podless"); err != nil {
		return err
	}
	err = o.await(ctx, claimKind.Name, k.Name, func() (bool, error) {
		claims, _, err := o.store.List(claimKind.Name, k.Name)
		for _, stored := range claims {
			if _, err := o.Delete(claimKind, stored.Namespace, stored.Name, Deletion{}); err != nil && !apierrors.IsNotFound(err) {
				return false, err
			}
		}
		return len(claims) == 0, err
	})
	if err != nil {
		return err
	}
	if err := fault.Point("namespace.emptied"); err != nil {
		return err
	}
	_, err = o.store.Update(func(tx *store.Tx) error {
		for _, kind := range []string{"ConfigMap", "Secret", "Event"} {
			objects, err := tx.List(kind, k.Name)
			if err != nil {
				return err
			}
			for _, stored := range objects {
				if err := tx.Delete(stored.Key); err != nil {
					return err
				}
			}
		}
		err := tx.Delete(k)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	return err
}

// await returns when done says so, asking it now and after every change of an
// object of the kind in the namespace.
func (o *Objects) await(ctx context.Context, kind, namespace string, done func() (bool, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The watch begins before the look: no change falls between the two.
	changes, err := o.store.Watch(ctx, kind, namespace, 0)
	if err != nil {
		return err
	}
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, ok := <-changes.Events():
			if !ok {
				return errors.Join(changes.Err(), ctx.Err())
			}
		}
	}
}

// forget removes an object from the store, if it is there.
func (o *Objects) forget(k store.Key) error {
	_, err := o.store.Update(func(tx *store.Tx) error {
		err := tx.Delete(k)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	return err
}

// pause waits for d and tells whether ctx lasted that long.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
