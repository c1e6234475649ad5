package main

import (
	"bytes"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/pod"
)

func testObjects() map[*kind][]pod.Value {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Name: name, Namespace: "default", UID: "u", CreationTimestamp: ago(time.Hour), Labels: map[string]string{"app": "web"},
			Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: "hunter2"},
		}
	}
	class, mode, immutable := "fast", corev1.PersistentVolumeFilesystem, true
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: meta("data")}
	claim.Finalizers = []string{"kubernetes.io/pvc-protection"}
	claim.Spec.VolumeName, claim.Spec.VolumeMode, claim.Spec.StorageClassName = "pvc-u", &mode, &class
	claim.Status.Phase = corev1.ClaimBound
	claim.Status.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany, corev1.ReadWriteOnce}
	claim.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	going := claim.DeepCopy()
	at := ago(time.Minute)
	going.Name, going.Spec.StorageClassName, going.DeletionTimestamp = "going", nil, &at
	cluster := meta("team")
	cluster.Namespace = ""
	return map[*kind][]pod.Value{
		configMapKind: {
			&corev1.ConfigMap{ObjectMeta: meta("game"), Data: map[string]string{"lives": "3", "ui": "color=purple\n\tfont=mono\n"}, BinaryData: map[string][]byte{"logo": []byte("12345")}, Immutable: &immutable},
			&corev1.ConfigMap{ObjectMeta: meta("empty")},
		},
		secretKind:    {&corev1.Secret{ObjectMeta: meta("login"), Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"password": []byte("hunter2"), "user": []byte("me")}}},
		claimKind:     {claim, going},
		namespaceKind: {&corev1.Namespace{ObjectMeta: cluster, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}}},
	}
}

func TestObjectTables(t *testing.T) {
	objects := testObjects()
	var b bytes.Buffer
	for _, o := range []columns{{}, {wide: true}, {namespace: true, labels: true}, {kind: true}} {
		for _, k := range kinds {
			if len(objects[k]) == 0 {
				continue
			}
			if err := kubectlTable(&b, k.table(objects[k], o, now), true); err != nil {
				t.Fatal(err)
			}
			b.WriteByte('\n')
		}
	}
	golden(t, "objects.txt", b.String())
}

func TestDescribeObjects(t *testing.T) {
	objects := testObjects()
	var b bytes.Buffer
	for _, k := range kinds {
		for _, v := range objects[k] {
			about := surroundings{now: now}
			if k == claimKind && v.GetName() == "going" {
				about.users = []string{"web-0", "web-1"}
			}
			d := &description{w: tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)}
			k.describe(d, v, about)
			if err := d.w.Flush(); err != nil {
				t.Fatal(err)
			}
			b.WriteString("---\n")
		}
	}
	golden(t, "describe-objects.txt", b.String())
	if strings.Contains(b.String(), "hunter2") {
		t.Error("describe shows a secret's value")
	}
}

func TestParseTargets(t *testing.T) {
	for args, want := range map[string]string{
		"po":                  "pods",
		"po,cm":               "pods configmaps",
		"all":                 "pods",
		"PVC a b":             "persistentvolumeclaims/a,b",
		"pod/a pod/b cm/a":    "pods/a,b configmaps/a",
		"cm/a secret/b cm/c":  "configmaps/a secrets/b configmaps/c",
		"ns,ev":               "namespaces events",
		"deployments":         `the server doesn't have a resource type "deployments"`,
		"po pod/a":            "there is no need to specify a resource type",
		"pod/a b":             "there is no need to specify a resource type",
		"pod/":                "arguments in resource/name form may not have more than one slash",
		"pods,deployments":    `the server doesn't have a resource type "deployments"`,
		"persistentvolumes/a": `the server doesn't have a resource type "persistentvolumes"`,
	} {
		targets, err := parseTargets(strings.Fields(args))
		if err != nil {
			if !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%s: %v, want %s", args, err, want)
			}
			continue
		}
		var got []string
		for _, g := range targets {
			s := g.kind.Resource
			if len(g.names) > 0 {
				s += "/" + strings.Join(g.names, ",")
			}
			got = append(got, s)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %q, want %q", args, got, want)
		}
	}
}
