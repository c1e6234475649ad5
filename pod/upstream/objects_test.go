package upstream_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"sigs.k8s.io/yaml"

	"get.podrun.dev/podrun/pod"
)

// TestObjects compares the kinds beside Pod: an object a line, with "->"
// before what it is to become, if anything.
func TestObjects(t *testing.T) {
	for kind, cases := range map[string][]string{
		"ConfigMap": {
			`{}`, `data: {a: b, a.b-C_d: ""}, binaryData: {c: AA==}`, `data: {"a/b": c}`, `data: {..: c}`, `data: {"": c}`, `data: {a: b}, binaryData: {a: AA==}`,
			`binaryData: {"é": AA==}`, `immutable: true`, `metadata: {name: A}`, `metadata: {name: ""}`,
			`data: {a: b} -> data: {a: c}`, `immutable: true, data: {a: b} -> immutable: true, data: {a: c}`, `immutable: true -> {}`, `immutable: true -> immutable: false`,
			`immutable: true, binaryData: {a: AA==} -> immutable: true`, `immutable: true -> immutable: true, metadata: {labels: {a: b}}`, `{} -> immutable: true, data: {a: b}`,
			`{} -> data: {a b: c}`,
		},
		"Secret": {
			`{}`, `type: example.com/any`, `data: {a: AA==}`, `stringData: {a: b}`, `data: {a b: AA==}`, `metadata: {name: A}`,
			`type: kubernetes.io/tls`, `type: kubernetes.io/tls, stringData: {tls.crt: a, tls.key: ""}`, `type: kubernetes.io/tls, stringData: {tls.crt: a}`,
			`type: kubernetes.io/basic-auth`, `type: kubernetes.io/basic-auth, stringData: {password: a}`, `type: kubernetes.io/ssh-auth, stringData: {ssh-privatekey: ""}`,
			`type: kubernetes.io/ssh-auth, stringData: {ssh-privatekey: a}`, `type: kubernetes.io/dockerconfigjson`, `type: kubernetes.io/dockercfg`,
			`type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: "{}"}`, `type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: "[]"}`,
			`type: kubernetes.io/dockercfg, stringData: {.dockercfg: "{"}`, `type: kubernetes.io/service-account-token`,
			`type: kubernetes.io/service-account-token, metadata: {annotations: {kubernetes.io/service-account.name: a}}`,
			`stringData: {a: b} -> stringData: {a: c}`, `{} -> type: example.com/other`, `immutable: true, stringData: {a: b} -> immutable: true, stringData: {a: c}`,
			`immutable: true -> {}`, `{} -> immutable: true`,
		},
		"PersistentVolumeClaim": {
			claim(``), claim(`storageClassName: a, volumeName: b`), claim(`storageClassName: ""`), claim(`storageClassName: A`), claim(`volumeMode: Filesystem`),
			claim(`volumeMode: Other`), claim(`selector: {matchLabels: {a: b}}`), claim(`selector: {matchLabels: {a: b c}}`), claim(`volumeAttributesClassName: A`),
			`{}`, `spec: {accessModes: [ReadWriteOnce]}`, `spec: {accessModes: [Nope], resources: {requests: {storage: 1Gi}}}`,
			`spec: {accessModes: [ReadWriteOncePod, ReadWriteOnce], resources: {requests: {storage: 1Gi}}}`,
			`spec: {accessModes: [ReadWriteOncePod, ReadWriteOncePod], resources: {requests: {storage: 1Gi}}}`,
			`spec: {accessModes: [ReadWriteOncePod, Nope], resources: {requests: {storage: 1Gi}}}`,
			`spec: {accessModes: [ReadOnlyMany, ReadWriteMany], resources: {requests: {storage: "0"}}}`,
			`spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: -1Gi}}}`,
		},
		"Namespace": {`{}`, `metadata: {name: a-b}`, `metadata: {name: a.b}`, `metadata: {name: A}`, `metadata: {name: "", generateName: ""}`, `metadata: {labels: {a: b c}}`},
	} {
		for _, c := range cases {
			t.Run(kind+" "+c, func(t *testing.T) { compareObjects(t, kind, c) })
		}
	}
}

func claim(more string) string {
	if more != "" {
		more = ", " + more
	}
	return `spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}` + more + `}`
}

func compareObjects(t *testing.T, kind, text string) {
	from, to, update := strings.Cut(text, " -> ")
	ours, theirs := object(t, kind, from)
	got, want := pod.Check(ours), check(theirs, nil)
	if update {
		old, theirOld := ours, theirs
		ours, theirs = object(t, kind, to)
		got, want = append(pod.Check(ours), pod.CheckUpdate(old, ours)...), check(theirs, theirOld)
	}
	// The version of an update is the business of the store.
	want = slices.DeleteFunc(want, func(e *field.Error) bool { return e.Field == "metadata.resourceVersion" })
	if got, want := slices.Compact(complaints(got)), slices.Compact(complaints(want)); !slices.Equal(got, want) {
		t.Errorf("podrun says\n  %s\nKubernetes says\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// object makes an object and completes it, as podrun and as Kubernetes does.
func object(t *testing.T, kind, text string) (pod.Value, runtime.Object) {
	t.Helper()
	if !strings.HasPrefix(text, "{") {
		text = "{" + text + "}"
	}
	v := pod.KindNamed(kind).New()
	if err := yaml.Unmarshal([]byte(text), v); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text, "name:") {
		v.SetName("o")
	}
	theirs := v.DeepCopyObject()
	pod.Complete(v)
	if s, ok := theirs.(*corev1.Secret); ok { // the conversion's part
		for key, value := range s.StringData {
			if s.Data == nil {
				s.Data = map[string][]byte{}
			}
			s.Data[key] = []byte(value)
		}
		s.StringData = nil
	}
	theirs.(pod.Value).SetNamespace(v.GetNamespace())
	legacyscheme.Scheme.Default(theirs)
	switch o := theirs.(type) {
	case *corev1.Namespace: // the strategy's part
		o.Spec.Finalizers = []corev1.FinalizerName{corev1.FinalizerKubernetes}
		o.Status = v.(*corev1.Namespace).Status
		if o.Name == "" {
			o.Labels = v.GetLabels()
		}
	case *corev1.PersistentVolumeClaim: // the node's part
		o.Status = v.(*corev1.PersistentVolumeClaim).Status
	}
	if !equality.Semantic.DeepEqual(theirs, runtime.Object(v)) {
		t.Errorf("the defaults differ: -kubernetes +podrun\n%s", diff.Diff(theirs, v))
	}
	internal := reflect.New(reflect.TypeOf(map[string]any{
		"ConfigMap": core.ConfigMap{}, "Secret": core.Secret{}, "Namespace": core.Namespace{}, "PersistentVolumeClaim": core.PersistentVolumeClaim{},
	}[kind])).Interface().(runtime.Object)
	if err := legacyscheme.Scheme.Convert(theirs, internal, nil); err != nil {
		t.Fatal(err)
	}
	return v, internal
}

func check(o, old runtime.Object) field.ErrorList {
	switch o := o.(type) {
	case *core.ConfigMap:
		if old != nil {
			return validation.ValidateConfigMapUpdate(o, old.(*core.ConfigMap))
		}
		return validation.ValidateConfigMap(o)
	case *core.Secret:
		if old != nil {
			return validation.ValidateSecretUpdate(o, old.(*core.Secret))
		}
		return validation.ValidateSecret(o)
	case *core.PersistentVolumeClaim:
		return validation.ValidatePersistentVolumeClaim(o, validation.ValidationOptionsForPersistentVolumeClaimCreate())
	case *core.Namespace:
		return validation.ValidateNamespace(o)
	}
	panic("internal error: kind")
}
