package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func configMap(name string, data ...string) string {
	return object("ConfigMap", name, "data", data...)
}

func secret(name string, data ...string) string { return object("Secret", name, "stringData", data...) }

func object(kind, name, field string, data ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "---\napiVersion: v1\nkind: %s\nmetadata: {name: %s}\n%s:\n", kind, name, field)
	for _, kv := range data {
		key, value, _ := strings.Cut(kv, "=")
		fmt.Fprintf(&b, "  %s: %q\n", key, value)
	}
	return b.String()
}

// TestEnvFromObjects: a pod waits for what its environment is made of, says
// which, and starts when it is there.
func TestEnvFromObjects(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers:
  - name: c
    image: busybox
    command: [sh, -c, "env | sort; exec sleep 3600"]
    envFrom:
    - {prefix: P_, configMapRef: {name: all}}
    - {secretRef: {name: hidden}}
    - {configMapRef: {name: none, optional: true}}
    env:
    - {name: P_two, value: "over $(P_one)"}
    - {name: KEY, valueFrom: {configMapKeyRef: {name: keys, key: key}}}
    - {name: PASS, valueFrom: {secretKeyRef: {name: hidden, key: pass}}}
    - {name: NONE, valueFrom: {configMapKeyRef: {name: keys, key: none, optional: true}}}
`)
	waits := func(message string) {
		t.Helper()
		e.when("p", message, func(p *corev1.Pod) bool {
			w := p.Status.ContainerStatuses[0].State.Waiting
			return w != nil && w.Reason == "CreateContainerConfigError" && w.Message == message
		})
		mustContain(t, e.ok("describe", "pod", "p"), "Error: "+message)
	}
	waits(`configmap "all" not found`)
	mustContain(t, row(e.ok("get", "pods"), "p"), "0/1 CreateContainerConfigError")
	// Each of these is seen at once, and not when the back-off, which grows, is
	// over: 10, 20, 40 and 80 seconds.
	began := time.Now()
	e.apply(configMap("all", "one=1", "two=2"))
	waits(`secret "hidden" not found`)
	e.apply(secret("hidden", "user=me", "pass=word"))
	waits(`configmap "keys" not found`)
	e.apply(configMap("keys", "other=1"))
	waits(`couldn't find key key in ConfigMap default/keys`)
	e.apply(configMap("keys", "key=value"))
	e.ready("p")
	if took := time.Since(began); took > 75*time.Second {
		t.Errorf("it took %v", took)
	}
	var out string
	e.eventually("output", func() string {
		if out = e.ok("logs", "p"); !strings.Contains(out, "user=") {
			return "not there"
		}
		return ""
	})
	mustContain(t, out, "P_one=1\n", "P_two=over 1\n", "user=me\n", "pass=word\n", "PASS=word\n", "KEY=value\n")
	if strings.Contains(out, "NONE") {
		t.Errorf("an optional variable is there: %s", out)
	}
	if n := restarts(e.pod("p")); n != 0 {
		t.Errorf("%d restarts", n)
	}
}

const shown = `
apiVersion: v1
kind: Pod
metadata:
  name: shown
  labels: {app: %s}
  annotations: {note: a note}
spec:
  volumes:
  - {name: config, configMap: {name: config, defaultMode: 0640}}
  - {name: items, configMap: {name: config, items: [{key: a, path: dir/renamed, mode: 0400}]}}
  - {name: secret, secret: {secretName: hidden}}
  - {name: maybe, secret: {secretName: none, optional: true}}
  - name: all
    projected:
      sources:
      - configMap: {name: config}
      - secret: {name: hidden, items: [{key: pass, path: s/pass}]}
      - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: cpu, resourceFieldRef: {containerName: c, resource: requests.cpu, divisor: 1m}}]}
  - name: me
    downwardAPI: {items: [{path: app, fieldRef: {fieldPath: "metadata.labels['app']"}}, {path: notes, fieldRef: {fieldPath: "metadata.annotations['note']"}}]}
  initContainers:
  - {name: init, image: busybox, command: [cat, /config/a], volumeMounts: [{name: config, mountPath: /config}]}
  containers:
  - name: c
    image: busybox
    command: [sleep, "3600"]
    resources: {requests: {cpu: 100m}}
    volumeMounts:
    - {name: config, mountPath: /config}
    - {name: config, mountPath: /fixed, subPath: a}
    - {name: items, mountPath: /items}
    - {name: secret, mountPath: /secret}
    - {name: maybe, mountPath: /maybe}
    - {name: all, mountPath: /all}
    - {name: me, mountPath: /me}
`

// TestVolumesShowObjects: a pod waits for what its volumes show, they show it,
// and follow it.
func TestVolumesShowObjects(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(fmt.Sprintf(shown, "one"))
	e.eventually("events", func() string {
		out := e.ok("describe", "pod", "shown")
		for _, want := range []string{
			`MountVolume.SetUp failed for volume "config" : configmap "config" not found`,
			`MountVolume.SetUp failed for volume "secret" : secret "hidden" not found`,
		} {
			if !strings.Contains(out, want) || !strings.Contains(out, "FailedMount") {
				return "no " + want
			}
		}
		return ""
	})
	mustContain(t, row(e.ok("get", "pods"), "shown"), "shown 0/1 Init:0/1")
	e.apply(configMap("config", "a=1", "b=2") + secret("hidden", "pass=word", "user=me"))
	e.ready("shown")
	cat := func(path string) string {
		t.Helper()
		return e.sh("shown", "c", "cat "+path).out
	}
	same(t, e.ok("logs", "shown", "-c", "init"), "1")
	same(t, e.sh("shown", "c", "cd /; head -n 99 config/* items/*/* secret/* all/[abcl]* all/s/* me/* fixed 2>/dev/null; ls maybe").out, strings.Join([]string{
		"==> config/a <==\n1\n", "==> config/b <==\n2\n", "==> items/dir/renamed <==\n1\n", "==> secret/pass <==\nword\n", "==> secret/user <==\nme\n",
		"==> all/a <==\n1\n", "==> all/b <==\n2\n", "==> all/cpu <==\n100\n", "==> all/labels <==\napp=\"one\"\n", "==> all/s/pass <==\nword\n",
		"==> me/app <==\none\n", "==> me/notes <==\na note\n", "==> fixed <==\n1",
	}, ""))
	same(t, e.sh("shown", "c", "stat -L -c %a /config/a /items/dir/renamed /secret/pass; readlink /config/a").out, "640\n400\n644\n..data/a\n")
	if r := e.sh("shown", "c", "echo x >/config/a"); !strings.Contains(r.err, "Read-only file system") {
		t.Error(r)
	}

	becomes := func(path, want string) {
		t.Helper()
		e.eventually(path, func() string {
			if got := cat(path); got != want {
				return "shows " + got
			}
			return ""
		})
	}
	e.apply(configMap("config", "a=new", "b=2", "c=3"))
	becomes("/config/a", "new")
	becomes("/config/c", "3")
	becomes("/items/dir/renamed", "new")
	becomes("/all/a", "new")
	same(t, cat("/fixed"), "1") // as Kubernetes has it
	e.apply(fmt.Sprintf(shown, "two"))
	becomes("/me/app", "two")
	becomes("/all/labels", `app="two"`)
	e.apply(secret("none", "late=1"))
	becomes("/maybe/late", "1")
	// The next node follows too.
	e.killNode()
	e.ready("shown")
	e.apply(secret("hidden", "pass=other", "user=me"))
	becomes("/secret/pass", "other")
	becomes("/all/s/pass", "other")
	// What cannot be shown any more is said at once, and leaves what is there.
	e.apply(configMap("config", "b=2"))
	e.described("shown", "FailedMount", `MountVolume.SetUp failed for volume "items" : configmap references non-existent config key: a`)
	same(t, cat("/items/dir/renamed"), "new")
	e.apply(configMap("config", "a=new", "b=2", "c=3"))
	// A deleted object leaves what is there.
	e.ok("delete", "configmap", "config")
	same(t, cat("/config/a"), "new")
	// On disk a secret is in the store only.
	out, _ := os.ReadFile(filepath.Join(e.data, "store.db"))
	if !strings.Contains(string(out), "b3RoZXI=") {
		t.Error("the store does not have it: the next look proves nothing")
	}
	_ = filepath.WalkDir(e.data, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasSuffix(path, "store.db") && !strings.Contains(path, "/images/") {
			if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), "other") {
				t.Errorf("a secret lies in %s", path)
			}
		}
		return nil
	})
}

// TestClaim: a directory that outlives pods, until the claim is deleted.
func TestClaim(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(volumePod("one", "persistentVolumeClaim: {claimName: data}", "echo kept >>/v/f", "mountPath: /m"))
	e.eventually("event", func() string {
		if out := e.ok("describe", "pod", "one"); !strings.Contains(out, `persistentvolumeclaim "data" not found`) || !strings.Contains(out, "FailedScheduling") {
			return "not there"
		}
		return ""
	})
	e.apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`)
	e.ready("one")
	same(t, e.sh("one", "c0", "cat /m/f").out, "kept\n")
	e.ok("delete", "pod", "one", "--now")
	e.start(volumePod("two", "persistentVolumeClaim: {claimName: data, readOnly: true}", "true", "mountPath: /m"), "two")
	if r := e.sh("two", "c0", "cat /m/f; touch /m/g"); r.out != "kept\n" || !strings.Contains(r.err, "Read-only file system") {
		t.Error(r)
	}
	e.ok("delete", "pod", "two", "--now")
	e.ok("delete", "pvc", "data")
	if _, err := os.Stat(filepath.Join(e.data, "claims", "default_data")); !os.IsNotExist(err) {
		t.Errorf("the claim's files are left: %v", err)
	}
}
