package supervisor

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"get.podrun.dev/podrun/store"
)

// Kinds of the objects that this package keeps in the store.
const (
	kindPod   = "Pod"   // corev1.Pod
	kindRun   = "Run"   // run, under the pod's namespace and name
	kindEvent = "Event" // corev1.Event
)

// run is what the worker of a pod must know beyond the pod's status to go on
// after a crash. It is saved in the same commit as the pod.
type run struct {
	UID   types.UID `json:"uid"`
	State State     `json:"state"`

	// Incarnation counts how often each container, init containers included,
	// was to be made; it is part of the container's id.
	Incarnation map[string]int `json:"incarnation"`
	// Images pins the image each container started with: a restart keeps it
	// and asks no registry.
	Images map[string]pinnedImage `json:"images,omitempty"`
	// InitDone is the number of init containers that are done: that completed,
	// or, as sidecars, have started.
	InitDone int `json:"initDone,omitempty"`

	// Restarting is the container on which the restart that was decided is to
	// be counted; "" when none is.
	Restarting string `json:"restarting,omitempty"`
	// ByRule tells that a rule of the manifest decided it.
	ByRule bool `json:"byRule,omitempty"`
	// Alone holds the restarts of single containers.
	Alone map[string]alone `json:"alone,omitempty"`

	History   History   `json:"history,omitzero"`
	NotBefore time.Time `json:"notBefore,omitzero"` // end of the back-off
	// Retries counts failed attempts to start since the last success; the
	// back-off of image pulls and of containers that cannot be made.
	Retries int `json:"retries,omitempty"`
	// Unscheduled is why the pod has not got the ports of the host that it asks
	// for; "" when it has, or asks for none.
	Unscheduled string `json:"unscheduled,omitempty"`

	// IP is the address of the pod, asked for again when its sandbox has to
	// be made anew.
	IP string `json:"ip,omitempty"`
	// Ended is the decided end of a pod that is Finishing or Finished.
	Ended *ended `json:"ended,omitempty"`
	// ByPerson holds the ids of containers that "podrun stop" ended.
	ByPerson map[string]bool `json:"byPerson,omitempty"`
	// Condemned holds the ids of containers that podrun ended because a probe or
	// a hook failed.
	Condemned map[string]bool `json:"condemned,omitempty"`
}

type pinnedImage struct {
	Reference string `json:"reference"` // as the manifest has it
	Name      string `json:"name"`      // the whole name it stood for
	ID        string `json:"id"`        // digest of the image's config
	Digest    string `json:"digest"`    // digest of the image's manifest
	// Incarnation of the container that it was found for, of those whose policy
	// is Always: the next one asks again.
	Incarnation int `json:"incarnation,omitempty"`
}

type ended struct {
	Phase   corev1.PodPhase `json:"phase"`
	Reason  string          `json:"reason,omitempty"`
	Message string          `json:"message,omitempty"`
	Until   time.Time       `json:"until,omitzero"` // what runs has this long to end
}

func newRun(p *corev1.Pod) *run {
	r := &run{UID: p.UID, State: Starting, Incarnation: map[string]int{}, Images: map[string]pinnedImage{}}
	for _, c := range allContainers(p) {
		r.Incarnation[c.Name] = 0
	}
	return r
}

// count counts the restart that was decided, if any, on the container that
// ended first: the sum over the containers, which is kubectl's RESTARTS, grows
// by one. From here on the pod is like one that was never started.
func (r *run) count(p *corev1.Pod) {
	if r.Restarting == "" {
		return
	}
	statusOf(p, r.Restarting).RestartCount++
	r.Restarting, r.ByRule, r.InitDone = "", false, 0
	for _, c := range allContainers(p) {
		setWaiting(statusOf(p, c.Name), firstReason(p), "")
	}
}

// firstReason is what the containers of a pod wait for that is being started.
func firstReason(p *corev1.Pod) string {
	if len(p.Spec.InitContainers) > 0 {
		return reasonInitializing
	}
	return reasonCreating
}

// containerID is the id of one incarnation of a container: 64 hex digits that
// follow from their arguments alone, so that a crash between making a
// container and saving that it was made loses nothing.
func containerID(uid types.UID, name string, incarnation int) string {
	sum := sha256.Sum256([]byte(string(uid) + "\x00" + name + "\x00" + strconv.Itoa(incarnation)))
	return hex.EncodeToString(sum[:])
}

// id returns the id of the current incarnation of the container name.
func (r *run) id(name string) string {
	return containerID(r.UID, name, r.Incarnation[name])
}

// allContainers returns the init containers of p and then its containers. The
// elements are copies.
func allContainers(p *corev1.Pod) []corev1.Container {
	all := make([]corev1.Container, 0, len(p.Spec.InitContainers)+len(p.Spec.Containers))
	all = append(all, p.Spec.InitContainers...)
	return append(all, p.Spec.Containers...)
}

func podKey(namespace, name string) store.Key {
	return store.Key{Kind: kindPod, Namespace: namespace, Name: name}
}

func runKey(namespace, name string) store.Key {
	return store.Key{Kind: kindRun, Namespace: namespace, Name: name}
}

// DecodePod returns the pod that a stored object holds.
func DecodePod(o store.Object) (*corev1.Pod, error) {
	p := new(corev1.Pod)
	if err := json.Unmarshal(o.Value, p); err != nil {
		return nil, fmt.Errorf("stored pod %s/%s: %w", o.Namespace, o.Name, err)
	}
	return p, nil
}

// encodeObject gives the store v with the revision of the commit as its
// resourceVersion, as the Kubernetes API has it.
func encodeObject(v metav1.Object) func(uint64) ([]byte, error) {
	return func(revision uint64) ([]byte, error) {
		v.SetResourceVersion(strconv.FormatUint(revision, 10))
		return json.Marshal(v)
	}
}

func encode(v any) func(uint64) ([]byte, error) {
	return func(uint64) ([]byte, error) { return json.Marshal(v) }
}

// forget drops why a container was ended, once that was judged.
func (r *run) forget(id string) {
	delete(r.ByPerson, id)
	delete(r.Condemned, id)
}

// clone returns a copy of r that shares nothing with it.
func (r *run) clone() *run {
	c := *r
	c.Incarnation = maps.Clone(r.Incarnation)
	c.Images = maps.Clone(r.Images)
	c.ByPerson = maps.Clone(r.ByPerson)
	c.Condemned = maps.Clone(r.Condemned)
	c.Alone = maps.Clone(r.Alone)
	if c.Images == nil {
		c.Images = map[string]pinnedImage{}
	}
	if c.Alone == nil {
		c.Alone = map[string]alone{}
	}
	if c.ByPerson == nil {
		c.ByPerson = map[string]bool{}
	}
	if c.Condemned == nil {
		c.Condemned = map[string]bool{}
	}
	return &c
}
