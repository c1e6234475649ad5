package object

import (
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/pod"
	"get.podrun.dev/podrun/store"
)

// TestDeletionAtTheEndOfAnother: who deletes an object while the goroutine of an
// earlier deletion is about to go has it look again.
func TestDeletionAtTheEndOfAnother(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "store.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	nothing := func(string, string) error { return nil }
	o, err := Open(Config{Store: s, DeletePod: nothing, RemoveClaim: nothing})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	k := key(claimKind, "default", "data")
	o.going[k] = false // the other one, which has seen its claim go
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: k.Namespace, Name: k.Name}}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	if _, _, err := o.Write(claimKind, k.Namespace, k.Name, Create(c), false); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Delete(pod.KindOf(c), k.Namespace, k.Name, Deletion{}); err != nil {
		t.Fatal(err)
	}
	if !o.again(k) {
		t.Error("nobody sees to the second deletion")
	}
	if o.again(k) || o.Active() != 0 {
		t.Error("it is looked at for ever")
	}
}
