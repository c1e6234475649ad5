package integration

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/integration/registry"
)

// policyPod is a pod whose container runs as its image says.
func policyPod(name, image, policy string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec: {containers: [{name: c, image: %q%s}]}\n", name, image, policy)
}

// TestImagePullPolicy follows
// https://kubernetes.io/docs/concepts/containers/images/#image-pull-policy.
func TestImagePullPolicy(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	// Each version is told from the others by its command's argument.
	push := func(version string) string {
		t.Helper()
		image, err := registry.Part(v1.Config{Cmd: []string{"sleep", version}})
		if err != nil {
			t.Fatal(err)
		}
		if err := images.Push(context.Background(), "policy/app:v1", image); err != nil {
			t.Fatal(err)
		}
		digest, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return digest.String()
	}
	var answer atomic.Int64 // of a registry that has trouble
	p := newProxy(t, images.Address, func(ask) harm { return harm{status: int(answer.Load())} })
	name := p.address + "/policy/app:v1"
	runs := func(pod, version string) {
		t.Helper()
		e.ready(pod)
		if out := e.output(pod, "c", "tr '\\0' ' ' </proc/1/cmdline"); strings.TrimSpace(out) != "sleep "+version {
			t.Errorf("pod %s runs %q, want sleep %s", pod, out, version)
		}
	}
	waits := func(pod, reason, message string) {
		t.Helper()
		s := e.when(pod, reason, func(p *corev1.Pod) bool {
			s := p.Status.ContainerStatuses
			return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == reason
		}).Status.ContainerStatuses[0]
		mustContain(t, s.State.Waiting.Message, message)
	}
	first := push("3601")

	// Never: no try to fetch it.
	e.apply(policyPod("never", name, ", imagePullPolicy: Never"))
	waits("never", "ErrImageNeverPull", "imagePullPolicy is Never")
	if n := p.times("/"); n != 0 {
		t.Errorf("Never asked the registry %d times", n)
	}
	// IfNotPresent, the default of a tag: fetched when it is not here.
	e.apply(policyPod("first", name, ""))
	runs("first", "3601")
	if policy := e.pod("first").Spec.Containers[0].ImagePullPolicy; policy != corev1.PullIfNotPresent {
		t.Errorf("the policy of a tag is %s", policy)
	}

	second := push("3602")
	asked := p.times("/")
	e.apply(policyPod("present", name, ", imagePullPolicy: IfNotPresent"))
	runs("present", "3601")
	if n := p.times("/"); n != asked {
		t.Errorf("IfNotPresent asked the registry %d times for what is here", n-asked)
	}
	mustContain(t, e.ok("describe", "pod", "present"), "already present on machine")
	// Always asks what the tag stands for now, and fetches what is new.
	e.apply(policyPod("always", name, ", imagePullPolicy: Always"))
	runs("always", "3602")
	// What it asks for is here: no blob is fetched again.
	blobs, manifests := p.times("/blobs/"), p.times("/manifests/")
	e.apply(policyPod("again", name, ", imagePullPolicy: Always"))
	runs("again", "3602")
	if b, m := p.times("/blobs/")-blobs, p.times("/manifests/")-manifests; b != 0 || m == 0 {
		t.Errorf("Always asked for %d blobs and %d manifests of what is here", b, m)
	}
	// By digest it is IfNotPresent, and what the tag meant before.
	e.apply(policyPod("digest", p.address+"/policy/app@"+first, ""))
	runs("digest", "3601")
	pod := e.pod("digest")
	if pod.Spec.Containers[0].ImagePullPolicy != corev1.PullIfNotPresent || pod.Status.ContainerStatuses[0].ImageID != p.address+"/policy/app@"+first {
		t.Errorf("by digest: policy %s, image ID %s", pod.Spec.Containers[0].ImagePullPolicy, pod.Status.ContainerStatuses[0].ImageID)
	}
	mustContain(t, e.pod("always").Status.ContainerStatuses[0].ImageID, second)
	// latest, said or not, is Always.
	e.apply(policyPod("latest", "busybox", "") + policyPod("said", "busybox:latest", ""))
	for _, name := range []string{"latest", "said"} {
		if policy := e.pod(name).Spec.Containers[0].ImagePullPolicy; policy != corev1.PullAlways {
			t.Errorf("the policy of %s is %s", name, policy)
		}
	}
	// Never uses what is here by now.
	e.ready("never")

	// A restart asks again under Always, and under no other policy.
	restart := func(pod string) {
		t.Helper()
		e.kill9(e.initPID(ids(e.pod(pod))["c"]))
		e.restarted(pod, 1)
	}
	push("3603")
	restart("always")
	runs("always", "3603")
	asked = p.times("/")
	restart("present")
	runs("present", "3601")
	if n := p.times("/"); n != asked {
		t.Errorf("a restart with IfNotPresent asked the registry %d times", n-asked)
	}
	blobs = p.times("/blobs/")
	restart("again")
	runs("again", "3603")
	if n := p.times("/blobs/"); n != blobs {
		t.Errorf("a restart asked for %d blobs that are here", n-blobs)
	}
	// A registry that has trouble stops no restart; one that says no does.
	e.apply(policyPod("trouble", name, ", imagePullPolicy: Always") + policyPod("denied", name, ", imagePullPolicy: Always"))
	runs("trouble", "3603")
	runs("denied", "3603")
	answer.Store(http.StatusBadGateway)
	restart("trouble")
	runs("trouble", "3603")
	mustContain(t, e.ok("describe", "pod", "trouble"), "ImageNotChecked", "cannot be asked, the container keeps the one it had")
	answer.Store(http.StatusNotFound)
	e.kill9(e.initPID(ids(e.pod("denied"))["c"]))
	e.when("denied", "refused", func(pod *corev1.Pod) bool {
		s := pod.Status.ContainerStatuses[0].State.Waiting
		return s != nil && slices.Contains(imageErrors, s.Reason) && strings.Contains(s.Message, "no such image in registry "+p.address) && strings.Contains(s.Message, "imagePullPolicy IfNotPresent")
	})
}

// TestImagePullSecrets follows
// https://kubernetes.io/docs/concepts/containers/images/#specifying-imagepullsecrets-on-a-pod
// and the page's interpretation of config.json: every entry that matches is
// tried, of all the pod's Secrets and then of the user's files.
func TestImagePullSecrets(t *testing.T) {
	t.Parallel()
	private, err := registry.Start(t.TempDir(), registry.Options{User: "jane", Password: "xyz"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(private.Stop)
	image, err := registry.Part(v1.Config{Cmd: []string{"sleep", "3600"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := private.Push(context.Background(), "team/app:v1", image); err != nil {
		t.Fatal(err)
	}
	e := newEnv(t)
	host := private.Address
	_, port, _ := strings.Cut(host, ":")
	secret := func(namespace, name, kind, data string) string {
		field := map[string]string{"dockerconfigjson": ".dockerconfigjson", "dockercfg": ".dockercfg"}[kind]
		return fmt.Sprintf("---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\ntype: kubernetes.io/%s\ndata: {%s: %s}\n",
			name, namespace, kind, field, base64.StdEncoding.EncodeToString([]byte(data)))
	}
	// entries are USER:PASSWORD by key.
	entries := func(pairs ...string) string {
		var list []string
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, fmt.Sprintf(`%q:{"auth":%q}`, pairs[i], base64.StdEncoding.EncodeToString([]byte(pairs[i+1]))))
		}
		return "{" + strings.Join(list, ",") + "}"
	}
	auths := func(pairs ...string) string { return `{"auths":` + entries(pairs...) + "}" }
	pod := func(name, secrets string) string {
		return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  containers: [{name: c, image: %q, imagePullPolicy: Always}]\n  imagePullSecrets: [%s]\n",
			name, host+"/team/app:v1", secrets)
	}
	const right, wrong = "jane:xyz", "jane:abc"
	e.ok("create", "namespace", "other")
	good := map[string]string{
		"old":        "{name: old}",
		"url":        "{name: url}",
		"several":    "{name: wrong}, {name: nosuch}, {name: right}",
		"two-fields": "{name: both}",
		"path":       "{name: path}",
		"pattern":    "{name: pattern}",
	}
	bad := map[string]string{
		"none":      "",
		"wrong":     "{name: wrong}",
		"elsewhere": "{name: elsewhere}", // it is in another namespace
		"deeper":    "{name: deeper}",
		"domain":    "{name: domain}",
		"untyped":   "{name: untyped}",
	}
	manifest := secret("default", "right", "dockerconfigjson", auths(host, right)) +
		secret("default", "wrong", "dockerconfigjson", auths(host, wrong)) +
		secret("default", "old", "dockercfg", entries(host, right)) +
		secret("default", "url", "dockerconfigjson", auths("http://"+host+"/v1/", right)) +
		secret("default", "both", "dockerconfigjson", auths(host+"/team/app", wrong, host+"/team", right, "other.example", wrong)) +
		secret("default", "path", "dockerconfigjson", auths(host+"/team", right, host+"/tea", wrong)) +
		secret("default", "pattern", "dockerconfigjson", auths("127.*.0.*:"+port+"/team", right)) +
		secret("other", "elsewhere", "dockerconfigjson", auths(host, right)) +
		secret("default", "deeper", "dockerconfigjson", auths(host+"/team/app/below", right)) +
		secret("default", "domain", "dockerconfigjson", auths("*.0.1:"+port, right)) + // a star is one part
		"---\napiVersion: v1\nkind: Secret\nmetadata: {name: untyped}\ndata: {.dockerconfigjson: " + base64.StdEncoding.EncodeToString([]byte(auths(host, right))) + "}\n"
	for name, secrets := range bad {
		manifest += pod(name, secrets)
	}
	for name, secrets := range good {
		manifest += pod(name, secrets)
	}
	e.apply(manifest)
	for name := range good {
		e.ready(name)
	}
	mustContain(t, e.ok("describe", "pod", "several"), "Unable to retrieve some image pull secrets (nosuch)")
	for name := range bad {
		e.when(name, "refused", func(p *corev1.Pod) bool {
			s := p.Status.ContainerStatuses
			return len(s) == 1 && s[0].State.Waiting != nil && strings.Contains("ErrImagePull ImagePullBackOff", s[0].State.Waiting.Reason)
		})
		mustContain(t, e.ok("describe", "pod", name), "401")
	}
	// The user's own credentials come after the pod's.
	e.dockerLogin(host, right)
	e.apply(pod("own", "{name: wrong}"))
	e.ready("own")
}
