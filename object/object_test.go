package object_test

import (
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/object"
	"get.podrun.dev/podrun/pod"
	"get.podrun.dev/podrun/store"
)

// world is a store with objects on it; deleted pods stay until gone is called.
type world struct {
	*object.Objects
	t       *testing.T
	store   *store.Store
	mu      sync.Mutex
	deleted []string
	removed []string // claims
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	w := &world{t: t, store: s}
	w.open()
	return w
}

// open is what a node does at its start.
func (w *world) open() {
	w.t.Helper()
	note := func(list *[]string) func(namespace, name string) error {
		return func(namespace, name string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			*list = append(*list, namespace+"/"+name)
			return nil
		}
	}
	var err error
	w.Objects, err = object.Open(object.Config{Store: w.store, DeletePod: note(&w.deleted), RemoveClaim: note(&w.removed)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.Close)
}

func (w *world) noted(list *[]string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(*list)
}

func (w *world) write(v pod.Value, change object.Change) (pod.Value, object.Action, error) {
	return w.Write(pod.KindOf(v), v.GetNamespace(), v.GetName(), change, false)
}

func (w *world) apply(v pod.Value, want object.Action) pod.Value {
	w.t.Helper()
	got, action, err := w.write(v, object.Apply(v))
	if err != nil || action != want {
		w.t.Fatalf("apply %s: %s, %v; want %s", v.GetName(), action, err, want)
	}
	return got
}

// putPod stores a pod as the supervisor would.
func (w *world) putPod(namespace, name, claim string, phase corev1.PodPhase) {
	w.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Status: corev1.PodStatus{Phase: phase}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "x"}}
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	_, err := w.store.Update(func(tx *store.Tx) error {
		return tx.Put(store.Key{Kind: "Pod", Namespace: namespace, Name: name}, func(uint64) ([]byte, error) {
			return []byte(mustJSON(w.t, p)), nil
		})
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) removePod(namespace, name string) {
	w.t.Helper()
	if _, err := w.store.Update(func(tx *store.Tx) error { return tx.Delete(store.Key{Kind: "Pod", Namespace: namespace, Name: name}) }); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) has(kind, namespace, name string) bool {
	_, err := w.store.Get(store.Key{Kind: kind, Namespace: namespace, Name: name})
	return err == nil
}

// gone waits until an object is no more.
func (w *world) gone(kind, namespace, name string) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); w.has(kind, namespace, name); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s %s/%s stays", kind, namespace, name)
		}
	}
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Data: data}
}

func claim(namespace, name, size string) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	return c
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func TestApplyMerges(t *testing.T) {
	w := newWorld(t)
	first := w.apply(configMap("a", map[string]string{"kept": "1", "dropped": "1"}), object.Created)
	if first.GetUID() == "" || first.GetResourceVersion() == "" || first.GetCreationTimestamp() == (metav1.Time{}) {
		t.Errorf("a new object lacks what the API server gives: %+v", first)
	}
	w.apply(configMap("a", map[string]string{"kept": "1", "dropped": "1"}), object.Unchanged)
	patch := object.Patch(pod.KindOf(first), "a", []byte(`{"data":{"other":"1"},"metadata":{"labels":{"by":"hand"}}}`))
	if _, action, err := w.write(first, patch); err != nil || action != object.Configured {
		t.Fatalf("patch: %s, %v", action, err)
	}
	got := w.apply(configMap("a", map[string]string{"kept": "2", "new": "1"}), object.Configured).(*corev1.ConfigMap)
	if want := map[string]string{"kept": "2", "new": "1", "other": "1"}; !maps.Equal(got.Data, want) {
		t.Errorf("data %v, want %v", got.Data, want)
	}
	if got.UID != first.GetUID() || got.Labels["by"] != "hand" || got.ResourceVersion == first.GetResourceVersion() {
		t.Errorf("after three writes: %+v", got.ObjectMeta)
	}
	// A manifest without any data takes away its own only.
	got = w.apply(configMap("a", nil), object.Configured).(*corev1.ConfigMap)
	if want := map[string]string{"other": "1"}; !maps.Equal(got.Data, want) {
		t.Errorf("data %v, want %v", got.Data, want)
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	w := newWorld(t)
	c := configMap("a", nil)
	if _, action, err := w.Write(pod.KindOf(c), "default", "a", object.Apply(c), true); err != nil || action != object.Created {
		t.Errorf("dry run: %s, %v", action, err)
	}
	if w.has("ConfigMap", "default", "a") {
		t.Error("a dry run made the object")
	}
	w.apply(c, object.Created)
	if _, err := w.Delete(pod.KindOf(c), "default", "a", object.Deletion{DryRun: true}); err != nil || !w.has("ConfigMap", "default", "a") {
		t.Errorf("a dry run deleted the object, or failed: %v", err)
	}
}

func TestSecretsAreCompleted(t *testing.T) {
	w := newWorld(t)
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default"}, StringData: map[string]string{"a": "x"}, Data: map[string][]byte{"a": []byte("y"), "b": []byte("z")}}
	got := w.apply(s, object.Created).(*corev1.Secret)
	if string(got.Data["a"]) != "x" || string(got.Data["b"]) != "z" || got.StringData != nil || got.Type != corev1.SecretTypeOpaque {
		t.Errorf("stored secret: %+v", got)
	}
	w.apply(s, object.Unchanged)
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	immutable := configMap("fixed", map[string]string{"a": "1"})
	yes := true
	immutable.Immutable = &yes
	w.apply(immutable, object.Created)
	w.apply(claim("default", "data", "1Gi"), object.Created)
	w.apply(namespace("going"), object.Created)
	w.putPod("going", "p", "", corev1.PodRunning)
	if _, err := w.Delete(pod.KindNamed("Namespace"), "", "going", object.Deletion{}); err != nil {
		t.Fatal(err)
	}
	changed := immutable.DeepCopy()
	changed.Data["a"] = "2"
	elsewhere := configMap("a", nil)
	elsewhere.Namespace = "nowhere"
	late := configMap("a", nil)
	late.Namespace = "going"
	stale := immutable.DeepCopy()
	stale.ResourceVersion = "1"
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default"}}
	w.apply(secret, object.Created)
	final := configMap("b", nil)
	final.Finalizers = []string{"example.org/x"}
	generated := configMap("b", nil)
	generated.GenerateName = "b-"
	typed := secret.DeepCopy()
	typed.Type = "example.org/other"
	for _, tt := range []struct {
		name   string
		v      pod.Value
		change func(pod.Value) object.Change
		want   string
	}{
		{"immutable", changed, object.Apply, "data: Forbidden: field is immutable when `immutable` is set"},
		{"create again", immutable, object.Create, `configmaps "fixed" already exists`},
		{"replace nothing", configMap("none", nil), object.Replace, `configmaps "none" not found`},
		{"stale", stale, object.Replace, "the object has been modified; please apply your changes to the latest version and try again"},
		{"no namespace", elsewhere, object.Apply, `namespaces "nowhere" not found`},
		{"namespace goes", late, object.Apply, "unable to create new content in namespace going because it is being terminated"},
		{"namespace itself", namespace("going"), object.Apply, "the namespace is being deleted; apply it again when it is gone"},
		{"smaller claim", claim("default", "data", "1Mi"), object.Apply, "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"},
		{"type of a secret", typed, object.Apply, "type: Invalid value: \"example.org/other\": field is immutable"},
		{"finalizer", final, object.Apply, "metadata.finalizers[0]: Forbidden: nothing on this node removes finalizers"},
		{"generated name", generated, object.Create, "metadata.generateName: Forbidden: an object without a name cannot be applied again"},
		{"bad key", configMap("b", map[string]string{"a/b": ""}), object.Apply, "a valid config key must consist of"},
	} {
		_, _, err := w.write(tt.v, tt.change(tt.v))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if tt.name == "no namespace" && !strings.Contains(hint.Of(err), "podrun create namespace nowhere") {
			t.Errorf("no mend with %v", err)
		}
	}
	if _, err := w.Delete(pod.KindNamed("Namespace"), "", "default", object.Deletion{}); !apierrors.IsForbidden(err) {
		t.Errorf("deleting namespace default: %v", err)
	}
	if _, err := w.Delete(pod.KindNamed("ConfigMap"), "default", "fixed", object.Deletion{UID: "other"}); !apierrors.IsConflict(err) {
		t.Errorf("deleting another object of the name: %v", err)
	}
	if !errors.Is(func() error {
		_, err := w.store.Get(store.Key{Kind: "ConfigMap", Namespace: "default", Name: "b"})
		return err
	}(), store.ErrNotFound) {
		t.Error("a refused object was stored")
	}
}

func TestClaimIsBoundAndGrows(t *testing.T) {
	w := newWorld(t)
	c := w.apply(claim("default", "data", "1Gi"), object.Created).(*corev1.PersistentVolumeClaim)
	if c.Status.Phase != corev1.ClaimBound || c.Spec.VolumeName != "pvc-"+string(c.UID) || len(c.Finalizers) != 1 {
		t.Errorf("new claim: %+v %+v", c.Spec, c.Status)
	}
	w.apply(claim("default", "data", "1Gi"), object.Unchanged)
	c = w.apply(claim("default", "data", "2Gi"), object.Configured).(*corev1.PersistentVolumeClaim)
	if size := c.Status.Capacity[corev1.ResourceStorage]; size.String() != "2Gi" {
		t.Errorf("capacity %s, want 2Gi", size.String())
	}
}

// What a claim's stored form says can be applied again, a deletion too.
func TestStoredFormIsAManifest(t *testing.T) {
	w := newWorld(t)
	c := w.apply(claim("default", "data", "1Gi"), object.Created).(*corev1.PersistentVolumeClaim).DeepCopy()
	at := metav1.Now()
	c.DeletionTimestamp = &at
	if _, _, err := w.write(c, object.Replace(c)); err != nil {
		t.Fatal(err)
	}
	got := w.apply(c, object.Configured) // by the annotation
	if got.GetDeletionTimestamp() != nil || !slices.Equal(got.GetFinalizers(), []string{"kubernetes.io/pvc-protection"}) {
		t.Errorf("a write began a deletion, or lost the finalizer: %+v", got)
	}
}

// A claim stays while a pod that was there uses it, across nodes, and does not
// wait for one that came later.
func TestClaimWaitsForItsPods(t *testing.T) {
	w := newWorld(t)
	w.apply(claim("default", "data", "1Gi"), object.Created)
	w.putPod("default", "user", "data", corev1.PodRunning)
	w.putPod("default", "done", "data", corev1.PodSucceeded)
	if _, err := w.Delete(pod.KindNamed("PersistentVolumeClaim"), "default", "data", object.Deletion{}); err != nil {
		t.Fatal(err)
	}
	w.putPod("default", "late", "data", corev1.PodPending)
	w.Close()
	w.open()
	if err := w.Recover(); err != nil {
		t.Fatal(err)
	}
	if w.Active() != 1 || !w.has("PersistentVolumeClaim", "default", "data") || len(w.noted(&w.removed)) > 0 {
		t.Fatalf("a used claim went, or nobody sees to it: active %d, removed %v", w.Active(), w.removed)
	}
	w.putPod("default", "user", "data", corev1.PodFailed)
	w.gone("PersistentVolumeClaim", "default", "data")
	if got := w.noted(&w.removed); !slices.Equal(got, []string{"default/data"}) {
		t.Errorf("removed %v", got)
	}
}

// A claim that is deleted, made again and deleted in the moment in which its
// first deletion ends goes too, and one that is only made again stays.
func TestClaimIsDeletedTwice(t *testing.T) {
	w := newWorld(t)
	remove := func() {
		t.Helper()
		if _, err := w.Delete(pod.KindNamed("PersistentVolumeClaim"), "default", "data", object.Deletion{}); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		w.apply(claim("default", "data", "1Gi"), object.Created)
		remove()
		// As somebody does who did not see it go.
		if _, err := w.Delete(pod.KindNamed("PersistentVolumeClaim"), "default", "data", object.Deletion{}); err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		for w.has("PersistentVolumeClaim", "default", "data") {
			runtime.Gosched()
		}
		w.apply(claim("default", "data", "1Gi"), object.Created)
		remove()
		w.gone("PersistentVolumeClaim", "default", "data")
	}
	for w.Active() > 0 {
		runtime.Gosched()
	}
	w.apply(claim("default", "data", "1Gi"), object.Created)
	time.Sleep(50 * time.Millisecond)
	if !w.has("PersistentVolumeClaim", "default", "data") {
		t.Error("a claim went that nobody has deleted")
	}
}

// A namespace takes all that is in it along, pods first, across nodes.
func TestNamespaceTakesAllAlong(t *testing.T) {
	w := newWorld(t)
	w.apply(namespace("team"), object.Created)
	c := configMap("a", nil)
	c.Namespace = "team"
	w.apply(c, object.Created)
	w.apply(configMap("a", nil), object.Created)
	w.apply(claim("team", "data", "1Gi"), object.Created)
	w.putPod("team", "p", "data", corev1.PodRunning)
	v, err := w.Delete(pod.KindNamed("Namespace"), "", "team", object.Deletion{})
	if err != nil || v.(*corev1.Namespace).Status.Phase != corev1.NamespaceTerminating {
		t.Fatalf("delete: %+v, %v", v, err)
	}
	w.Close()
	w.open()
	if err := w.Recover(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); len(w.noted(&w.deleted)) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the pod is not deleted")
		}
	}
	if !w.has("ConfigMap", "team", "a") || !w.has("Namespace", "", "team") {
		t.Error("the namespace does not wait for its pods")
	}
	w.removePod("team", "p")
	w.gone("Namespace", "", "team")
	if w.has("ConfigMap", "team", "a") || w.has("PersistentVolumeClaim", "team", "data") || !w.has("ConfigMap", "default", "a") {
		t.Error("too much or too little went with the namespace")
	}
	if got := w.noted(&w.removed); !slices.Equal(got, []string{"team/data"}) {
		t.Errorf("removed %v", got)
	}
}

// A store of a podrun that had no Namespaces gets those of its pods.
func TestNamespacesOfOldPods(t *testing.T) {
	w := newWorld(t)
	if _, err := w.store.Update(func(tx *store.Tx) error { return tx.Delete(store.Key{Kind: "Namespace", Name: "default"}) }); err != nil {
		t.Fatal(err)
	}
	w.putPod("old", "p", "", corev1.PodRunning)
	w.open()
	if !w.has("Namespace", "", "default") || !w.has("Namespace", "", "old") {
		t.Error("namespaces are missing")
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
