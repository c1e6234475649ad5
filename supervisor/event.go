package supervisor

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"get.podrun.dev/podrun/store"
)

// maxEvents is how many different events of one pod are kept; the oldest go
// first. Repeats of one event are counted, not kept.
const maxEvents = 64

// eventTTL is how long after its last repeat an event is kept, as by the API
// server. Events go with a commit that comes after, so that an idle node
// sleeps.
const eventTTL = time.Hour

// sweepEvery is how often a commit removes the expired events of all pods.
const sweepEvery = 10 * time.Minute

// note is an event that waits for the next commit of its pod.
type note struct {
	kind    string // corev1.EventTypeNormal or EventTypeWarning
	reason  string
	message string
	field   string // spec.containers{name}, or "" for the pod
	at      time.Time
}

// containerField is involvedObject.fieldPath as the kubelet writes it.
func containerField(p *corev1.Pod, name string) string {
	for _, c := range p.Spec.InitContainers {
		if c.Name == name {
			return "spec.initContainers{" + name + "}"
		}
	}
	return "spec.containers{" + name + "}"
}

// putEvents writes notes as events about an object and returns all its events:
// known, those that were there, with repeats counted and new ones added. It
// leaves known as it is, for the commit may fail.
func putEvents(tx *store.Tx, about corev1.ObjectReference, node string, known []*corev1.Event, notes []note) ([]*corev1.Event, error) {
	known, err := dropExpired(tx, known, time.Now())
	if err != nil {
		return known, err
	}
	known = slices.Clone(known)
	for _, n := range notes {
		i := slices.IndexFunc(known, n.repeats)
		if i < 0 {
			i = len(known)
			known = append(known, newEvent(about, node, n, i))
		}
		e := known[i].DeepCopy()
		known[i] = e
		e.Count++
		e.LastTimestamp = metav1.NewTime(n.at)
		if err := tx.Put(eventKey(e), encodeObject(e)); err != nil {
			return known, err
		}
	}
	for len(known) > maxEvents {
		oldest := slices.IndexFunc(known, func(e *corev1.Event) bool {
			return !slices.ContainsFunc(known, func(o *corev1.Event) bool { return o.LastTimestamp.Before(&e.LastTimestamp) })
		})
		if err := tx.Delete(eventKey(known[oldest])); err != nil && !errors.Is(err, store.ErrNotFound) {
			return known, err // ErrNotFound: as in dropExpired, before the clock was set back
		}
		known = slices.Delete(known, oldest, oldest+1)
	}
	return known, nil
}

// dropExpired removes the events that are too old and returns the others.
func dropExpired(tx *store.Tx, known []*corev1.Event, now time.Time) ([]*corev1.Event, error) {
	if !slices.ContainsFunc(known, func(e *corev1.Event) bool { return expired(e, now) }) {
		return known, nil
	}
	var rest []*corev1.Event
	for _, e := range known {
		if !expired(e, now) {
			rest = append(rest, e)
			continue
		}
		if err := tx.Delete(eventKey(e)); err != nil && !errors.Is(err, store.ErrNotFound) {
			return known, err // ErrNotFound: another pod's commit has swept it
		}
	}
	return rest, nil
}

func expired(e *corev1.Event, now time.Time) bool { return now.Sub(e.LastTimestamp.Time) > eventTTL }

// sweepEvents removes the expired events of all pods, those included that
// commit nothing more themselves. It does so once in sweepEvery.
func (s *Supervisor) sweepEvents(tx *store.Tx, now time.Time) error {
	last := s.swept.Load()
	if now.Sub(time.Unix(last, 0)) < sweepEvery || !s.swept.CompareAndSwap(last, now.Unix()) {
		return nil
	}
	objects, err := tx.List(kindEvent, "")
	if err != nil {
		return err
	}
	for _, o := range objects {
		e := new(corev1.Event)
		if err := json.Unmarshal(o.Value, e); err == nil && !expired(e, now) {
			continue
		}
		if err := tx.Delete(o.Key); err != nil {
			return err
		}
	}
	return nil
}

// repeats tells whether n is e once more.
func (n note) repeats(e *corev1.Event) bool {
	return e.Type == n.kind && e.Reason == n.reason && e.Message == n.message && e.InvolvedObject.FieldPath == n.field
}

// aboutPod is how events refer to p.
func aboutPod(p *corev1.Pod) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}
}

func newEvent(about corev1.ObjectReference, node string, n note, seq int) *corev1.Event {
	about.FieldPath = n.field
	return &corev1.Event{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{
			// The name's second part only has to differ between the events of one object.
			Name:              fmt.Sprintf("%s.%x%02x", about.Name, n.at.UnixNano(), seq),
			Namespace:         cmp.Or(about.Namespace, metav1.NamespaceDefault), // a node has none
			UID:               uuid.NewUUID(),
			CreationTimestamp: metav1.NewTime(n.at),
		},
		InvolvedObject: about,
		Type:           n.kind, Reason: n.reason, Message: n.message,
		Source:         corev1.EventSource{Component: "podrun", Host: node},
		FirstTimestamp: metav1.NewTime(n.at),
	}
}

func eventKey(e *corev1.Event) store.Key {
	return store.Key{Kind: kindEvent, Namespace: e.Namespace, Name: e.Name}
}

// NoteNode writes an event about the node, as the kubelet has them: in the
// namespace default, the node's name standing for its UID. Repeats are counted.
// kind is corev1.EventTypeNormal or EventTypeWarning. It may be called from any
// goroutine.
func (s *Supervisor) NoteNode(kind, reason, message string) error {
	s.nodeEvents.Lock()
	defer s.nodeEvents.Unlock()
	about := corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: s.node, UID: types.UID(s.node)}
	known, err := loadEvents(s.store, about)
	if err != nil {
		return err
	}
	_, err = s.store.Update(func(tx *store.Tx) error {
		_, err := putEvents(tx, about, s.node, known, []note{{kind, reason, message, "", time.Now()}})
		return errors.Join(err, s.sweepEvents(tx, time.Now()))
	})
	return err
}

// loadEvents returns the events about an object, oldest first.
func loadEvents(st *store.Store, about corev1.ObjectReference) ([]*corev1.Event, error) {
	objects, _, err := st.List(kindEvent, cmp.Or(about.Namespace, metav1.NamespaceDefault))
	if err != nil {
		return nil, err
	}
	var events []*corev1.Event
	for _, o := range objects {
		if !strings.HasPrefix(o.Name, about.Name+".") {
			continue // another's; spares the decoding
		}
		e := new(corev1.Event)
		if err := json.Unmarshal(o.Value, e); err != nil {
			return nil, fmt.Errorf("stored event %s: %w", o.Name, err)
		}
		if e.InvolvedObject.UID == about.UID {
			events = append(events, e)
		}
	}
	slices.SortStableFunc(events, func(a, b *corev1.Event) int { return a.FirstTimestamp.Compare(b.FirstTimestamp.Time) })
	return events, nil
}
