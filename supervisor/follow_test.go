package supervisor

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/store"
)

// storeWith opens a store with a history of so many changes.
func storeWith(t *testing.T, history int) *store.Store {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "store.db"), store.Options{History: history})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

func put(t *testing.T, st *store.Store, kind, namespace, name string) uint64 {
	t.Helper()
	revision, err := st.Update(func(tx *store.Tx) error {
		return tx.Put(store.Key{Kind: kind, Namespace: namespace, Name: name}, encode(struct{}{}))
	})
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func TestChanges(t *testing.T) {
	st := storeWith(t, 3)
	s := &Supervisor{store: st}
	ctx, cancel := context.WithCancel(context.Background())
	keys := map[store.Key]bool{
		{Kind: kindConfigMap, Namespace: "a", Name: "x"}: true,
		{Kind: kindSecret, Namespace: "a", Name: "x"}:    true,
	}
	told := func(changed <-chan struct{}, wait time.Duration) bool {
		select {
		case <-changed:
			return true
		case <-time.After(wait):
			return false
		}
	}
	const soon, long = 50 * time.Millisecond, 10 * time.Second
	since := put(t, st, kindConfigMap, "a", "other")
	changed := s.changes(ctx, keys, since)
	put(t, st, kindConfigMap, "b", "x")
	put(t, st, kindClaim, "a", "x")
	if told(changed, soon) {
		t.Error("told of what nobody asked for")
	}
	put(t, st, kindSecret, "a", "x")
	if !told(changed, long) {
		t.Error("not told of a change")
	}
	if _, err := st.Update(func(tx *store.Tx) error { return tx.Delete(store.Key{Kind: kindSecret, Namespace: "a", Name: "x"}) }); err != nil {
		t.Fatal(err)
	}
	if told(changed, soon) {
		t.Error("told of a deletion")
	}
	// What was written between the look and the question, and what is too old
	// to be known.
	since = put(t, st, kindConfigMap, "a", "other")
	put(t, st, kindConfigMap, "a", "x")
	if !told(s.changes(ctx, keys, since), long) {
		t.Error("not told of a change before the question")
	}
	for range 5 {
		put(t, st, kindClaim, "a", "x")
	}
	if !told(s.changes(ctx, keys, since), long) {
		t.Error("not told though changes are forgotten")
	}
	cancel()
	s.goroutines.Wait()
}

func TestReferences(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}}
	ref := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{ref("pull")}
	p.Spec.InitContainers = []corev1.Container{{EnvFrom: []corev1.EnvFromSource{
		{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref("env")}}, {SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref("env")}},
	}}}
	p.Spec.Containers = []corev1.Container{{Env: []corev1.EnvVar{
		{Name: "A", Value: "1"},
		{Name: "B", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref("key")}}},
		{Name: "C", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("key")}}},
	}}}
	p.Spec.Volumes = []corev1.Volume{
		{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref("vol")}}},
		{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "vol"}}},
		{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
		{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: ref("proj")}}, {Secret: &corev1.SecretProjection{LocalObjectReference: ref("proj")}}, {DownwardAPI: &corev1.DownwardAPIProjection{}},
		}}}},
	}
	var got []string
	for k := range references(p) {
		got = append(got, k.String())
	}
	slices.Sort(got)
	want := []string{
		"ConfigMap ns/env", "ConfigMap ns/key", "ConfigMap ns/proj", "ConfigMap ns/vol", "PersistentVolumeClaim ns/claim",
		"Secret ns/env", "Secret ns/key", "Secret ns/proj", "Secret ns/pull", "Secret ns/vol",
	}
	if !slices.Equal(got, want) {
		t.Errorf("references %q, want %q", got, want)
	}
	if !showsPod(&p.Spec.Volumes[3]) || showsPod(&p.Spec.Volumes[0]) {
		t.Error("the downward API shows the pod, and a ConfigMap does not")
	}
}
