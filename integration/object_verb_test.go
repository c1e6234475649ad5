package integration

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestCreate: objects of files and values, kubectl's words, and no node for a
// client's dry run.
func TestCreate(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.write("app.conf", "level=debug\n")
	e.write("raw", "\xff\xfe")
	e.write("vars.env", "# settings\nA=1\n\nB=two words\n")
	same(t, e.ok("create", "ns", "team", "--dry-run=client", "-o", "yaml"), "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: team\nspec: {}\nstatus: {}\n")
	same(t, e.ok("create", "ns", "team", "--dry-run=client", "-o", "name"), "namespace/team\n")
	if _, err := os.Stat(filepath.Join(e.state, "node.log")); err == nil {
		t.Error("a client's dry run started a node")
	}
	same(t, e.ok("create", "namespace", "team"), "namespace/team created\n")
	same(t, e.ok("create", "cm", "settings", "-n", "team", "--from-file=app.conf", "--from-file=bytes=raw", "--from-literal=a=b=c"), "configmap/settings created\n")
	same(t, e.ok("get", "cm", "settings", "-n", "team", "-o", `jsonpath={.data.app\.conf}{.data.a} {.binaryData.bytes}`), "level=debug\nb=c //4=")
	same(t, e.ok("create", "cm", "vars", "--from-env-file=vars.env"), "configmap/vars created\n")
	same(t, e.ok("get", "cm", "vars", "-o", "jsonpath={.data.A},{.data.B}"), "1,two words")
	same(t, e.ok("create", "secret", "generic", "login", "--from-literal=password=hunter2"), "secret/login created\n")
	same(t, e.ok("create", "secret", "docker-registry", "pull", "--docker-server=r.example", "--docker-username=me", "--docker-password=hunter2"), "secret/pull created\n")
	config, err := base64.StdEncoding.DecodeString(e.ok("get", "secret", "pull", "-o", `jsonpath={.data.\.dockerconfigjson}`))
	if err != nil {
		t.Fatal(err)
	}
	same(t, string(config), `{"auths":{"r.example":{"auth":"bWU6aHVudGVyMg==","password":"hunter2","username":"me"}}}`)
	mustContain(t, row(e.ok("get", "secrets"), "pull"), "pull kubernetes.io/dockerconfigjson 1 ")
	e.write("pod.yml", podYAML("p", "terminationGracePeriodSeconds: 0", "c=sleep 3600"))
	same(t, e.ok("create", "-f", "pod.yml"), "pod/p created\n")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"create", "-f", "pod.yml"}, "Error from server (AlreadyExists): error when creating \"pod.yml\": pods \"p\" already exists\n"},
		{[]string{"create", "ns", "team"}, "Error from server (AlreadyExists): namespaces \"team\" already exists\n"},
		{[]string{"create", "cm", "x", "-n", "nowhere"}, "Error from server (NotFound): namespaces \"nowhere\" not found; make it with \"podrun create namespace nowhere\", or apply a Namespace\n"},
		{[]string{"create", "cm", "x", "--from-literal=a"}, "error: invalid literal source a, expected key=value\n"},
		{[]string{"create", "cm", "x", "--from-literal=a=1", "--from-literal=a=2"}, "error: cannot add key \"a\", another key by that name already exists\n"},
		{[]string{"create", "cm", "x", "--from-file=nowhere"}, "error: error reading nowhere: no such file or directory\n"},
		{[]string{"create", "cm", "x", "--from-env-file=vars.env", "--from-literal=a=b"}, "error: from-env-file cannot be combined with from-file or from-literal\n"},
		{[]string{"create", "cm"}, "error: exactly one NAME is required, got 0\nSee 'podrun create configmap --help' for usage.\n"},
		{[]string{"create", "secret", "tls", "x"}, "error: key and cert must be specified\n"},
		{[]string{"create", "secret", "x"}, "error: unknown kind of secret \"x\": it is generic, docker-registry or tls\nSee 'podrun create secret --help' for usage.\n"},
		{[]string{"create", "ns", "x", "--dry-run"}, "error: --dry-run flag without a value was specified. A value must be set: \"none\", \"server\", or \"client\".\n"},
		{[]string{"create", "ns", "x", "--dry-run=yes"}, "error: Invalid dry-run value (yes). Must be \"none\", \"server\", or \"client\".\n"},
	} {
		same(t, e.fails(1, tt.args...), tt.want)
	}
	e.ok("delete", "pod", "p")
}

// TestLabelAndAnnotate: kubectl's words; a running pod takes both.
func TestLabelAndAnnotate(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(podYAML("a", "terminationGracePeriodSeconds: 0", "c=sleep 3600"), "a")
	e.ok("create", "cm", "settings")
	before := e.pod("a")
	for _, tt := range []struct{ args, want string }{
		{"label pod a tier=front", "pod/a labeled\n"},
		{"label pod a tier=front", "pod/a not labeled\n"},
		{"label --overwrite pod/a tier=back", "pod/a labeled\n"},
		{"label pod a other=x --dry-run=client", "pod/a labeled (dry run)\n"},
		{"label pod a other=x --dry-run=server", "pod/a labeled (server dry run)\n"},
		{"label pod a --list", "app=myapp\ntier=back\n"},
		{"label pod a tier-", "pod/a unlabeled\n"},
		{"label pod a tier-", "label \"tier\" not found.\npod/a not labeled\n"},
		{"label pods,cm --all all=yes", "pod/a labeled\nconfigmap/settings labeled\n"},
		{"label pods -l all=yes all-", "pod/a unlabeled\n"},
		{"annotate pod a note=hello", "pod/a annotated\n"},
		{"annotate pod/a cm/settings -o name --overwrite note=bye", "pod/a\nconfigmap/settings\n"},
		{"annotate ns default note=x", "namespace/default annotated\n"},
	} {
		same(t, e.ok(strings.Fields(tt.args)...), tt.want)
	}
	after := e.pod("a")
	if after.Annotations["note"] != "bye" || after.Labels["app"] != "myapp" || ids(after)["c"] != ids(before)["c"] || restarts(after) > 0 {
		t.Errorf("the running pod: %v, %v", after.ObjectMeta, after.Status)
	}
	for _, tt := range []struct{ args, want string }{
		{"label pod a app=x", "error: 'app' already has a value (myapp), and --overwrite is false\n"},
		{"annotate pod a note=x", "error: --overwrite is false but found the following declared annotation(s): 'note' already has a value (bye)\n"},
		{"label pod a", "error: at least one label update is required\n"},
		{"annotate pod a", "error: at least one annotation update is required\n"},
		{"label a=b", "error: one or more resources must be specified as <resource> <name> or <resource>/<name>\n"},
		{"label pod a=b a", "error: all resources must be specified before label changes: a\n"},
		{"label pod a b=c b-", "error: can not both modify and remove the following label(s) in the same command: b\n"},
		{"label pods --all -l a=b c=d", "error: cannot set --all and --selector at the same time\n"},
		{"label pods a=b", "error: resource(s) were provided, but no name was specified\n"},
		{"label pod nope a=b", "Error from server (NotFound): pods \"nope\" not found\n"},
		{"label pod a b=c --resource-version=1", "Error from server (Conflict): Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to the latest version and try again\n"},
	} {
		same(t, e.fails(1, strings.Fields(tt.args)...), tt.want)
	}
	mustContain(t, e.fails(1, "label", "pod", "a", "x=-"), "error: invalid label value: \"x=-\": a valid label must be")
	mustContain(t, e.fails(1, "label", "pod", "a", "a/b/c=d"), "The Pod \"a\" is invalid: metadata.labels: Invalid value: \"a/b/c\"")
	e.ok("delete", "pod", "a")
}

// TestDiff: kubectl's exit codes, and no secret's value.
func TestDiff(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const manifest = "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {same: hunter1, other: hunter2}}\n"
	e.write("f.yml", manifest)
	r := e.run("diff", "-f", "f.yml")
	if r.code != 1 || !strings.Contains(r.out, "+kind: Secret\n") || !strings.Contains(r.out, "+  same: '***'\n") {
		t.Errorf("diff of what is not there: %v", r)
	}
	if e.run("get", "secret", "s").code == 0 {
		t.Error("diff made the object")
	}
	e.ok("apply", "-f", "f.yml")
	same(t, e.ok("diff", "-f", "f.yml"), "")
	e.write("f.yml", strings.Replace(manifest, "hunter2", "hunter3", 1))
	r = e.run("diff", "-f", "f.yml")
	if r.code != 1 || !strings.Contains(r.out, "-  other: '*** (before)'\n+  other: '*** (after)'\n   same: '***'\n") || strings.Contains(r.out, "hunter") {
		t.Errorf("diff of a secret: %v", r)
	}
	e.vars["KUBECTL_EXTERNAL_DIFF"] = "ls"
	mustContain(t, e.ok("diff", "-f", "f.yml"), "v1.Secret.default.s\n")
	e.vars["KUBECTL_EXTERNAL_DIFF"] = "no-such-program"
	mustContain(t, e.fails(2, "diff", "-f", "f.yml"), "error: failed to run \"no-such-program\": ")
	delete(e.vars, "KUBECTL_EXTERNAL_DIFF")
	same(t, e.fails(2, "diff", "-f", "nowhere.yml"), "error: the path \"nowhere.yml\" does not exist\n")
	same(t, e.fails(2, "diff"), "error: must specify -f\n")
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "LIVE-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestReplace: what is left out is gone; --force makes a pod anew.
func TestReplace(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.write("cm.yml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: b}}")
	mustContain(t, e.fails(1, "replace", "-f", "cm.yml"), "Error from server (NotFound): error when replacing \"cm.yml\": configmaps \"c\" not found\n")
	e.ok("create", "cm", "c", "--from-literal=other=x")
	e.ok("label", "cm", "c", "l=x")
	same(t, e.ok("replace", "-f", "cm.yml", "--dry-run=server"), "configmap/c replaced (server dry run)\n")
	same(t, e.ok("replace", "-f", "cm.yml"), "configmap/c replaced\n")
	same(t, e.ok("get", "cm", "c", "-o", "jsonpath={.data}{.metadata.labels}"), `{"a":"b"}`)
	e.write("stale.yml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, resourceVersion: \"1\"}}")
	same(t, e.fails(1, "replace", "-f", "stale.yml"), "Error from server (Conflict): error when replacing \"stale.yml\": Operation cannot be fulfilled on configmaps \"c\": the object has been modified; please apply your changes to the latest version and try again\n")

	manifest := podYAML("p", "terminationGracePeriodSeconds: 600", "c=trap '' TERM; sleep 3600")
	e.start(manifest, "p")
	before := e.pod("p")
	e.write("p.yml", strings.Replace(manifest, "sleep 3600", "sleep 7200", 1))
	mustContain(t, e.fails(1, "replace", "-f", "p.yml"), "The Pod \"p\" is invalid: spec.containers[0].command: Forbidden: pod updates may not change fields")
	same(t, e.fails(1, "replace", "-f", "p.yml", "--grace-period=0"), "error: --grace-period must have --force specified\n")
	same(t, e.ok("replace", "--force", "--grace-period=0", "-f", "p.yml"), "pod \"p\" deleted\npod/p replaced\n")
	if after := e.ready("p"); after.UID == before.UID || !strings.Contains(after.Spec.Containers[0].Command[2], "7200") {
		t.Errorf("the pod was not made anew: %v", after.Spec)
	}
	e.ok("delete", "pod", "p", "--now")
}

// TestApplyDryRunAndWait: nothing is written; --wait tells why not.
func TestApplyDryRunAndWait(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	manifest := podYAML("a", "terminationGracePeriodSeconds: 0", "c=sleep 3600")
	e.write("a.yml", manifest)
	same(t, e.ok("apply", "-f", "a.yml", "--dry-run=client"), "pod/a created (dry run)\n")
	same(t, e.ok("apply", "-f", "a.yml", "--dry-run=server"), "pod/a created (server dry run)\n")
	same(t, e.ok("apply", "-f", "a.yml", "--dry-run=server", "-o", "jsonpath={.spec.restartPolicy}"), "Always")
	same(t, e.ok("apply", "-f", "a.yml", "--dry-run=client", "-o", "jsonpath={.spec.restartPolicy}"), "")
	if e.exists("a") {
		t.Fatal("a dry run made the pod")
	}
	same(t, e.ok("apply", "-f", "a.yml", "--wait"), "pod/a created\n")
	if !isReady(e.pod("a")) {
		t.Error("--wait did not wait")
	}
	e.write("a.yml", strings.Replace(manifest, "sleep 3600", "sleep 7200", 1))
	mustContain(t, e.fails(1, "apply", "-f", "a.yml", "--dry-run=server"), "The Pod \"a\" is invalid: ")
	same(t, e.ok("apply", "-f", "a.yml", "--dry-run=client"), "pod/a configured (dry run)\n")

	e.write("b.yml", strings.Replace(podYAML("b", "", "c=true"), "image: busybox", "image: nosuch", 1))
	r := e.run("apply", "-f", "b.yml", "--wait", "--timeout=3s")
	if r.code != 1 || r.out != "pod/b created\n" || !strings.HasPrefix(r.err, "error: timed out waiting for pod \"b\" to be ready: container \"c\" is waiting: ") || !strings.Contains(r.err, "ImagePull") {
		t.Errorf("waiting for an image that is not there: %v", r)
	}
	e.write("d.yml", podYAML("d", "restartPolicy: Never\ninitContainers: [{name: i, image: busybox, command: [sh, -c, exit 3]}]", "c=true"))
	r = e.run("apply", "-f", "d.yml", "--wait")
	if r.code != 1 || r.err != "error: pod \"d\" failed: container \"i\" ended with exit code 3 (Error)\n" {
		t.Errorf("waiting for a pod that fails: %v", r)
	}
	e.write("e.yml", podYAML("e", "restartPolicy: Never", "c=true"))
	same(t, e.ok("apply", "-f", "e.yml", "--wait"), "pod/e created\n")
	e.ok("delete", "pods", "--all", "--now")
}

// TestClaimInUse: a claim that a pod uses is Terminating until the pod is gone,
// also when the node dies meanwhile.
func TestClaimInUse(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	claim := "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}\n"
	e.apply(claim)
	manifest := strings.Replace(podYAML("a", "terminationGracePeriodSeconds: 0\nvolumes: [{name: v, persistentVolumeClaim: {claimName: data}}]", "c=echo kept >/v/file; sleep 3600"),
		"image: busybox,", "image: busybox, volumeMounts: [{name: v, mountPath: /v}],", 1)
	e.start(manifest, "a")
	mustContain(t, e.ok("describe", "pvc", "data"), "Used By:       a\n")
	same(t, e.ok("delete", "pvc", "data", "--wait=false"), "persistentvolumeclaim \"data\" deleted\n")
	mustContain(t, row(e.ok("get", "pvc"), "data"), "data Terminating pvc-")
	r := e.run("delete", "pvc", "data", "--timeout=500ms")
	if r.code != 1 || r.err != "error: timed out waiting for the condition on persistentvolumeclaims/data\n" {
		t.Errorf("waiting for a claim in use: %v", r)
	}
	e.stdin = claim
	same(t, e.fails(1, "apply", "-f", "-"), "Error from server (Conflict): error when applying \"-\": Operation cannot be fulfilled on persistentvolumeclaims \"data\": the persistentvolumeclaim is being deleted; apply it again when it is gone\n")
	// A pod that comes later waits for the next claim, and does not keep this one.
	e.apply(strings.Replace(manifest, "name: a\n", "name: late\n", 1))
	e.killNode()
	e.ok("delete", "pod", "a")
	e.eventually("the claim goes", func() string { return e.ok("get", "pvc", "-o", "name") })
	if left, _ := filepath.Glob(filepath.Join(e.data, "claims", "*")); len(left) > 0 {
		t.Errorf("left of the claim: %v", left)
	}
	e.apply(claim)
	e.when("late", "runs with the new claim", func(p *corev1.Pod) bool { return isReady(p) })
	same(t, e.ok("exec", "late", "--", "cat", "/v/file"), "kept\n")
	e.ok("delete", "pod", "late")
	e.ok("delete", "pvc", "data")
}
