package object

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/pod"
	"get.podrun.dev/podrun/store"
)

// Config is what Objects stand on. All fields but Logger are required; they
// stay open until Close has returned.
type Config struct {
	Store *store.Store
	// DeletePod begins the deletion of a pod, with the pod's own grace period.
	DeletePod func(namespace, name string) error
	// RemoveClaim removes the directory of a claim; one that is not there is no
	// error.
	RemoveClaim func(namespace, name string) error
	Logger      *slog.Logger
}

// Objects are the objects beside pods of this machine. Its methods are safe
// for concurrent use.
type Objects struct {
	store       *store.Store
	deletePod   func(namespace, name string) error
	removeClaim func(namespace, name string) error
	log         *slog.Logger

	ctx        context.Context // of the deletions
	stop       context.CancelFunc
	goroutines sync.WaitGroup

	mu sync.Mutex
	// going are the deletions that a goroutine sees to: true for one that was
	// asked for again since it began.
	going map[store.Key]bool
}

// Open returns the objects of a store, and makes the namespace "default" in a
// store that has none. Deletions that an earlier node began wait for Recover.
func Open(c Config) (*Objects, error) {
	o := &Objects{
		store: c.Store, deletePod: c.DeletePod, removeClaim: c.RemoveClaim, log: c.Logger,
		going: map[store.Key]bool{},
	}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	o.ctx, o.stop = context.WithCancel(context.Background())
	return o, o.prepare()
}

// prepare makes the namespaces of a store that has none: "default", and those
// of pods that a podrun without Namespaces has stored.
func (o *Objects) prepare() error {
	if _, err := o.store.Get(key(namespaceKind, "", corev1.NamespaceDefault)); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	_, err := o.store.Update(func(tx *store.Tx) error {
		pods, err := tx.List("Pod", "")
		if err != nil {
			return err
		}
		names := map[string]bool{corev1.NamespaceDefault: true}
		for _, p := range pods {
			names[p.Namespace] = true
		}
		for name := range names {
			ns, _, err := Create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}).On(nil)
			if err != nil {
				return err
			}
			settle(ns)
			if err := tx.Put(key(namespaceKind, "", name), encode(ns)); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// Close stops waiting for deletions and returns when all goroutines have
// ended; the next Recover goes on with them.
func (o *Objects) Close() {
	o.stop()
	o.goroutines.Wait()
}

var namespaceKind, claimKind = pod.KindNamed("Namespace"), pod.KindNamed("PersistentVolumeClaim")

func key(kind *pod.Kind, namespace, name string) store.Key {
	return store.Key{Kind: kind.Name, Namespace: namespace, Name: name}
}

// errNothing ends a commit that is to write nothing.
var errNothing = errors.New("nothing to write")

// Write makes a change of one object and returns the object after it. A dry
// run writes nothing. Errors are Kubernetes API errors; after one nothing has
// changed.
func (o *Objects) Write(kind *pod.Kind, namespace, name string, change Change, dryRun bool) (pod.Value, Action, error) {
	var next pod.Value
	var action Action
	_, err := o.store.Update(func(tx *store.Tx) error {
		old, err := get(tx, kind, namespace, name)
		if err != nil {
			return err
		}
		if next, action, err = change.On(old); err != nil {
			return err
		}
		if action == Created && kind.Namespaced {
			if err := CheckNamespace(tx, kind, namespace, name); err != nil {
				return err
			}
		}
		if action == Unchanged || dryRun {
			return errNothing
		}
		settle(next)
		tx.LeaveRoom()
		return tx.Put(key(kind, namespace, name), encode(next))
	})
	if err != nil && !errors.Is(err, errNothing) {
		return nil, "", err
	}
	return next, action, nil
}

// settle gives an object the status that the controllers of a cluster would: a
// claim is bound at once, to the directory that it will have.
func settle(v pod.Value) {
	switch o := v.(type) {
	case *corev1.Namespace:
		if o.Status.Phase == "" {
			o.Status.Phase = corev1.NamespaceActive
		}
	case *corev1.PersistentVolumeClaim:
		if o.Spec.VolumeName == "" {
			o.Spec.VolumeName = "pvc-" + string(o.UID)
		}
		o.Finalizers = []string{pod.ClaimProtection}
		o.Status.Phase = corev1.ClaimBound
		o.Status.AccessModes = o.Spec.AccessModes
		o.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: o.Spec.Resources.Requests[corev1.ResourceStorage]}
	}
}

// CheckNamespace checks that an object of the kind can be made in a namespace:
// it is there and stays.
func CheckNamespace(tx *store.Tx, kind *pod.Kind, namespace, name string) error {
	if namespace == corev1.NamespaceDefault {
		return nil // always there, and nobody can delete it
	}
	v, err := get(tx, namespaceKind, "", namespace)
	if err != nil {
		return err
	}
	if v == nil {
		return hint.Wrap(notFound(namespaceKind, namespace),
			fmt.Sprintf(`make it with "podrun create namespace %s", or apply a Namespace`, namespace))
	}
	if v.GetDeletionTimestamp() != nil {
		return apierrors.NewForbidden(corev1.Resource(kind.Resource), name,
			fmt.Errorf("unable to create new content in namespace %s because it is being terminated", namespace))
	}
	return nil
}

// get returns a stored object, nil when it is not there.
func get(tx *store.Tx, kind *pod.Kind, namespace, name string) (pod.Value, error) {
	stored, err := tx.Get(key(kind, namespace, name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return kind.Decode(stored.Value)
}

// encode gives the store v with the revision of the commit as its
// resourceVersion, as the Kubernetes API has it.
func encode(v pod.Value) func(uint64) ([]byte, error) {
	return func(revision uint64) ([]byte, error) {
		v.SetResourceVersion(strconv.FormatUint(revision, 10))
		return json.Marshal(v)
	}
}

// Deletion is how an object is to go.
type Deletion struct {
	UID    string // of the object that is meant; "" is any
	DryRun bool
}

// Delete begins the deletion of an object and returns the object as it was
// then. ConfigMaps and Secrets are gone when it returns.
func (o *Objects) Delete(kind *pod.Kind, namespace, name string, d Deletion) (pod.Value, error) {
	var v pod.Value
	_, err := o.store.Update(func(tx *store.Tx) error {
		var err error
		if v, err = get(tx, kind, namespace, name); err != nil {
			return err
		}
		switch {
		case v == nil:
			return notFound(kind, name)
		case d.UID != "" && d.UID != string(v.GetUID()):
			return apierrors.NewConflict(corev1.Resource(kind.Resource), name,
				//lint:ignore ST1005 the words of Kubernetes
				fmt.Errorf("Precondition failed: UID in precondition: %s, UID in object meta: %s", d.UID, v.GetUID()))
		case kind == namespaceKind && name == corev1.NamespaceDefault:
			return apierrors.NewForbidden(corev1.Resource(kind.Resource), name, errors.New("this namespace may not be deleted"))
		case d.DryRun || v.GetDeletionTimestamp() != nil:
			return errNothing
		case kind != namespaceKind && kind != claimKind:
			return tx.Delete(key(kind, namespace, name))
		}
		return terminate(tx, v)
	})
	if err != nil && !errors.Is(err, errNothing) {
		return nil, err
	}
	if !d.DryRun && (kind == namespaceKind || kind == claimKind) {
		o.finish(key(kind, namespace, name))
	}
	return v, nil
}

// terminate marks an object as being deleted.
func terminate(tx *store.Tx, v pod.Value) error {
	now, none := metav1.NewTime(time.Now().Truncate(time.Second)), int64(0)
	v.SetDeletionTimestamp(&now)
	v.SetDeletionGracePeriodSeconds(&none)
	if ns, is := v.(*corev1.Namespace); is {
		ns.DeletionGracePeriodSeconds = nil
		ns.Status.Phase = corev1.NamespaceTerminating
	}
	return tx.Put(key(pod.KindOf(v), v.GetNamespace(), v.GetName()), encode(v))
}
