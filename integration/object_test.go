package integration

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// besidePods is a manifest in the order in which nothing can be made.
const besidePods = `
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: team}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox, command: [sleep, "3600"]}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: team}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: game, namespace: team}
data: {lives: "3"}
---
apiVersion: v1
kind: Secret
metadata: {name: login, namespace: team}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Namespace
metadata: {name: team}
`

// TestKindsBesidePods: apply, get, describe and delete of every kind.
func TestKindsBesidePods(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	same(t, e.apply(besidePods), "namespace/team created\nsecret/login created\nconfigmap/game created\npersistentvolumeclaim/data created\npod/p created\n")
	same(t, e.apply(besidePods), "namespace/team unchanged\nsecret/login unchanged\nconfigmap/game unchanged\npersistentvolumeclaim/data unchanged\npod/p unchanged\n")
	same(t, e.apply(strings.Replace(besidePods, `lives: "3"`, `lives: "2"`, 1)),
		"namespace/team unchanged\nsecret/login unchanged\nconfigmap/game configured\npersistentvolumeclaim/data unchanged\npod/p unchanged\n")
	same(t, e.ok("get", "-n", "team", "cm", "game", "-o", "jsonpath={.data.lives}"), "2")
	same(t, e.ok("get", "-n", "team", "secret/login", "-o", "jsonpath={.data.password}"), "aHVudGVyMg==")
	mustContain(t, row(e.ok("get", "ns"), "team"), "team Active")
	mustContain(t, row(e.ok("get", "ns"), "default"), "default Active")
	mustContain(t, row(e.ok("get", "pvc", "-A"), "team"), "team data Bound pvc-", " 1Gi RWO <unset> ")
	mustContain(t, e.ok("get", "-n", "team", "pods,cm,secrets"), "\n\nNAME             DATA   AGE\nconfigmap/game   1 ", "secret/login   Opaque   1 ")
	same(t, e.ok("get", "-n", "team", "cm/game", "pvc/data", "-o", "name"), "configmap/game\npersistentvolumeclaim/data\n")
	same(t, e.fails(1, "get", "cm", "game"), "Error from server (NotFound): configmaps \"game\" not found\n")
	same(t, e.fails(1, "get", "deployments"), "error: the server doesn't have a resource type \"deployments\"\n")

	mustContain(t, e.ok("describe", "-n", "team", "cm", "game"), "Name:         game\n", "Namespace:    team\n", "Data\n====\nlives:\n----\n2\n", "Events:  <none>")
	secret := e.ok("describe", "-n", "team", "secret")
	mustContain(t, secret, "Type:  Opaque\n", "password:  7 bytes\n")
	if strings.Contains(secret, "hunter2") || strings.Contains(secret, "aHVudGVyMg") || strings.Contains(e.nodeLog(), "hunter2") {
		t.Errorf("the secret is told: %s", secret)
	}
	mustContain(t, e.ok("describe", "-n", "team", "pvc/data"), "Status:        Bound\n", "Finalizers:    [kubernetes.io/pvc-protection]\n", "Used By:       <none>\n")
	mustContain(t, e.ok("describe", "ns", "team"), "Name:         team\n", "Status:       Active\n")

	same(t, e.ok("delete", "-n", "team", "cm/game", "secret/login"), "configmap \"game\" deleted\nsecret \"login\" deleted\n")
	same(t, e.fails(1, "delete", "-n", "team", "cm", "game"), "Error from server (NotFound): configmaps \"game\" not found\n")
	same(t, e.ok("delete", "ns", "team"), "namespace \"team\" deleted\n")
	same(t, e.ok("get", "ns", "-o", "name"), "namespace/default\n")
	same(t, e.ok("get", "pods,pvc", "-A", "-o", "name"), "")
}

// TestObjectRefusals: what the API server refuses, in its words.
func TestObjectRefusals(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: fixed}, immutable: true, data: {a: b}}")
	e.apply("{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: hunter2}}")
	e.apply("{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}")
	for _, tt := range []struct{ name, manifest, want string }{
		{"immutable", "{apiVersion: v1, kind: ConfigMap, metadata: {name: fixed}, immutable: true, data: {a: c}}",
			"The ConfigMap \"fixed\" is invalid: data: Forbidden: field is immutable when `immutable` is set\n"},
		{"secret type", "{apiVersion: v1, kind: Secret, metadata: {name: s}, type: example.org/x, stringData: {a: hunter2}}",
			"The Secret \"s\" is invalid: type: Invalid value: \"example.org/x\": field is immutable\n"},
		{"claim", "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {accessModes: [ReadWriteMany], resources: {requests: {storage: 1Gi}}}}",
			"The PersistentVolumeClaim \"data\" is invalid: spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"},
		{"no namespace", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: nowhere}}",
			"Error from server (NotFound): error when applying \"f.yml\": namespaces \"nowhere\" not found; make it with \"podrun create namespace nowhere\", or apply a Namespace\n"},
		{"pod in no namespace", strings.Replace(podYAML("a", "", "c=true"), "name: a\n", "name: a\n  namespace: nowhere\n", 1),
			"Error from server (NotFound): error when applying \"f.yml\": namespaces \"nowhere\" not found; make it with \"podrun create namespace nowhere\", or apply a Namespace\n"},
		{"wrong type", "{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {a: hunter2}}", "f.yml:1:63: data[a]: not base64: illegal base64 data at input byte 4\n"},
		{"other kind", "{apiVersion: v1, kind: Service, metadata: {name: s}}",
			"f.yml:1:24: kind Service: not supported by this version of podrun; podrun takes Pod, PersistentVolumeClaim, ConfigMap, Secret and Namespace\n"},
	} {
		e.write("f.yml", tt.manifest)
		text := e.fails(1, "apply", "-f", "f.yml")
		if !strings.HasPrefix(text, tt.want) || strings.Contains(text, "hunter2") {
			t.Errorf("%s: got  %q\nwant %q", tt.name, text, tt.want)
		}
	}
	same(t, e.fails(1, "delete", "ns", "default"), "Error from server (Forbidden): namespaces \"default\" is forbidden: this namespace may not be deleted\n")
	same(t, e.fails(1, "delete", "events", "--all"), "error: events cannot be changed or deleted: they go by themselves\n")
	same(t, e.fails(1, "get", "cm", "--field-selector", "status.phase=x"), "Error from server (BadRequest): field label not supported: status.phase\n")
}

// TestNamespaceIsTerminating: while its pods end, a namespace is shown as
// Terminating and takes nothing new.
func TestNamespaceIsTerminating(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply("{apiVersion: v1, kind: Namespace, metadata: {name: team}}")
	e.apply(strings.Replace(podYAML("slow", "terminationGracePeriodSeconds: 600", "c=trap '' TERM; sleep 3600"), "name: slow\n", "name: slow\n  namespace: team\n", 1))
	e.eventually("pod slow runs", func() string {
		return strings.TrimPrefix(e.ok("get", "pods", "-n", "team", "-o", "jsonpath={.items[0].status.phase}"), string(corev1.PodRunning))
	})
	same(t, e.ok("delete", "ns", "team", "--wait=false"), "namespace \"team\" deleted\n")
	mustContain(t, row(e.ok("get", "ns"), "team"), "team Terminating")
	e.write("f.yml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: team}}")
	same(t, e.fails(1, "apply", "-f", "f.yml"),
		"Error from server (Forbidden): error when applying \"f.yml\": configmaps \"a\" is forbidden: unable to create new content in namespace team because it is being terminated\n")
	e.eventually("the pod is deleted", func() string {
		if strings.Contains(e.ok("get", "pods", "-n", "team"), "Terminating") {
			return ""
		}
		return "not yet"
	})
	r := e.run("delete", "ns", "team", "--timeout=1s")
	if r.code != 1 || r.err != "error: timed out waiting for the condition on namespaces/team\n" {
		t.Errorf("waiting for a namespace that stays: %v", r)
	}
	e.ok("delete", "pod", "-n", "team", "slow", "--now")
	e.ok("delete", "ns", "team", "--ignore-not-found")
}

// TestSecretsAreKept: a secret that a pod uses is in no log, event, description,
// message or argument of a process; what holds it is the user's alone.
func TestSecretsAreKept(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "PODRUN_DEBUG=1")
	const value = "correct-horse-battery"
	encoded := base64.StdEncoding.EncodeToString([]byte(value))
	e.apply("{apiVersion: v1, kind: Secret, metadata: {name: login}, stringData: {password: " + value + "}}")
	manifest := strings.Replace(podYAML("a", "terminationGracePeriodSeconds: 0\nvolumes: [{name: v, secret: {secretName: login}}]", "c=sleep 3600"),
		"image: busybox,", "image: busybox, env: [{name: P, valueFrom: {secretKeyRef: {name: login, key: password}}}], volumeMounts: [{name: v, mountPath: /v}],", 1)
	e.start(manifest, "a")
	same(t, e.ok("exec", "a", "--", "sh", "-c", "echo $P; cat /v/password"), value+"\n"+value)

	e.write("bad.yml", "{apiVersion: v1, kind: Secret, metadata: {name: login}, type: kubernetes.io/tls, stringData: {password: "+value+"}}")
	log, err := os.ReadFile(filepath.Join(e.state, "node.log"))
	if err != nil {
		t.Fatal(err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var arguments []byte
	for _, path := range processes {
		text, _ := os.ReadFile(path) // one that ended meanwhile has none
		arguments = append(arguments, text...)
	}
	for what, text := range map[string]string{
		"describe secret": e.ok("describe", "secret", "login"),
		"describe pod":    e.ok("describe", "pod", "a"),
		"get pod":         e.ok("get", "pod", "a", "-o", "yaml"),
		"events":          e.ok("get", "events", "-o", "yaml"),
		"a refusal":       e.fails(1, "apply", "-f", "bad.yml"),
		"node.log":        string(log),
		"arguments":       string(arguments),
	} {
		if strings.Contains(text, value) || strings.Contains(text, encoded) {
			t.Errorf("%s tells the secret:\n%s", what, text)
		}
	}
	info, err := os.Stat(filepath.Join(e.data, "store.db"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("store.db: %v, %v", info.Mode(), err)
	}
	e.ok("delete", "pod", "a")
}

// TestWatchObjects: get -w of a kind that is no pod, also across nodes.
func TestWatchObjects(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.ok("create", "cm", "first")
	w := e.begin(t, "get", "cm", "-w")
	w.expect("first   0 ")
	e.ok("create", "cm", "second", "--from-literal=a=b")
	w.expect("second   1 ")
	e.killNode()
	e.ok("create", "cm", "third", "--from-literal=a=b", "--from-literal=b=c")
	w.expect("third    2 ")
	n := e.begin(t, "get", "ns", "-w", "-o", "name")
	n.expect("namespace/default\n")
	e.ok("create", "ns", "team")
	n.expect("namespace/team\n")
	w.kill()
	n.kill()
	r := e.run("get", "cm,secrets", "-w")
	if r.code != 1 || r.err != "error: watch is only supported on individual resources and resource collections - 2 resources were found\n" {
		t.Errorf("watching two kinds: %v", r)
	}
}
