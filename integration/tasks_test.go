package integration

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/integration/registry"
)

// TestTasks: whole manifests of the kind that Kubernetes' pages of tasks have
// their readers try.
func TestTasks(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.runAll(t, append(append(taskConfigurations(), taskStorage()...), taskPods()...))
}

const specialConfig = `{apiVersion: v1, kind: ConfigMap, metadata: {name: special-config}, data: {SPECIAL_LEVEL: very, SPECIAL_TYPE: charm}}`

// taskConfigurations are pods that are configured by ConfigMaps, Secrets and
// what is known of themselves.
func taskConfigurations() []published {
	return []published{
		{file: "configmap-keys-as-command", before: specialConfig, text: `
apiVersion: v1
kind: Pod
metadata: {name: dapi-test-pod}
spec:
  containers:
  - name: test-container
    image: registry.k8s.io/busybox:1.27.2
    command: [/bin/echo, "$(SPECIAL_LEVEL_KEY) $(SPECIAL_TYPE_KEY)"]
    env:
    - {name: SPECIAL_LEVEL_KEY, valueFrom: {configMapKeyRef: {name: special-config, key: SPECIAL_LEVEL}}}
    - {name: SPECIAL_TYPE_KEY, valueFrom: {configMapKeyRef: {name: special-config, key: SPECIAL_TYPE}}}
  restartPolicy: Never
`, see: func(e *env) {
			e.phase("dapi-test-pod", corev1.PodSucceeded)
			same(e.t, e.logged("dapi-test-pod", "test-container", "very"), "very charm\n")
		}},
		{file: "configmap-envfrom", before: specialConfig, text: `
apiVersion: v1
kind: Pod
metadata: {name: dapi-test-pod}
spec:
  containers:
  - name: test-container
    image: busybox
    command: [sh, -c, "env | grep -E '^(P_)?SPECIAL' | sort"]
    envFrom: [{configMapRef: {name: special-config}}, {prefix: P_, configMapRef: {name: special-config}}, {secretRef: {name: missing, optional: true}}]
  restartPolicy: Never
`, see: func(e *env) {
			e.phase("dapi-test-pod", corev1.PodSucceeded)
			same(e.t, e.logged("dapi-test-pod", "test-container", "TYPE"), "P_SPECIAL_LEVEL=very\nP_SPECIAL_TYPE=charm\nSPECIAL_LEVEL=very\nSPECIAL_TYPE=charm\n")
			mustContain(e.t, e.ok("describe", "pod", "dapi-test-pod"), "ConfigMap with prefix 'P_'", "Optional: true")
		}},
		{file: "configmap-live-update", before: specialConfig, text: `
apiVersion: v1
kind: Pod
metadata: {name: live}
spec:
  containers:
  - name: c
    image: busybox
    command: [sleep, "3600"]
    env: [{name: TYPE, valueFrom: {configMapKeyRef: {name: special-config, key: SPECIAL_TYPE}}}]
    volumeMounts:
    - {name: config, mountPath: /config}
    - {name: config, mountPath: /type, subPath: type}
  volumes:
  - name: config
    configMap: {name: special-config, items: [{key: SPECIAL_TYPE, path: type, mode: 0600}]}
`, see: func(e *env) {
			e.ready("live")
			same(e.t, e.output("live", "c", "cat /config/type; echo; stat -Lc %a /config/type; ls /config"), "charm\n600\ntype\n")
			same(e.t, e.apply(strings.Replace(specialConfig, "charm", "magic", 1)), "configmap/special-config configured\n")
			e.eventually("the new value in the volume", func() string {
				if got := e.output("live", "c", "cat /config/type"); got != "magic" {
					return got
				}
				return ""
			})
			// Neither a subPath nor the environment changes.
			same(e.t, e.output("live", "c", "cat /type; echo; echo $TYPE"), "charm\ncharm\n")
			if n := restarts(e.pod("live")); n != 0 {
				e.t.Errorf("got %d restarts", n)
			}
		}},
		{file: "redis-configmap", text: `
apiVersion: v1
kind: ConfigMap
metadata: {name: example-redis-config}
data:
  redis-config: |
    maxmemory 2mb
    maxmemory-policy allkeys-lru
---
apiVersion: v1
kind: Pod
metadata: {name: redis}
spec:
  containers:
  - name: redis
    image: redis:8.0.2
    command: [redis-server, /redis-master/redis.conf]
    env: [{name: MASTER, value: "true"}]
    ports: [{containerPort: 6379}]
    resources: {limits: {cpu: "0.1"}}
    volumeMounts: [{mountPath: /redis-master-data, name: data}, {mountPath: /redis-master, name: config}]
  volumes:
  - {name: data, emptyDir: {}}
  - {name: config, configMap: {name: example-redis-config, items: [{key: redis-config, path: redis.conf}]}}
`, see: func(e *env) {
			e.ready("redis")
			same(e.t, e.ok("exec", "redis", "--", "redis-cli", "CONFIG", "GET", "maxmemory-policy"), "maxmemory-policy allkeys-lru\n")
		}},
		{file: "secret-env-and-modes", text: `
apiVersion: v1
kind: Pod
metadata: {name: envvars-multiple-secrets}
spec:
  containers:
  - name: c
    image: nginx
    env:
    - {name: BACKEND_USERNAME, valueFrom: {secretKeyRef: {name: backend-user, key: backend-username}}}
    - {name: DB_USERNAME, valueFrom: {secretKeyRef: {name: db-user, key: db-username}}}
    volumeMounts: [{name: foo, mountPath: /etc/foo, readOnly: true}]
  volumes:
  - name: foo
    secret: {secretName: db-user, defaultMode: 0400, items: [{key: db-username, path: my-group/my-username}]}
---
{apiVersion: v1, kind: Secret, metadata: {name: backend-user}, stringData: {backend-username: backend-admin}}
---
{apiVersion: v1, kind: Secret, metadata: {name: db-user}, type: Opaque, data: {db-username: ZGItYWRtaW4=}}
`, see: func(e *env) {
			e.ready("envvars-multiple-secrets")
			same(e.t, e.output("envvars-multiple-secrets", "c", "echo $BACKEND_USERNAME $DB_USERNAME; cd /etc/foo; cat my-group/my-username; stat -Lc ' %a' my-group/my-username; ls"),
				"backend-admin db-admin\ndb-admin 400\nmy-group\n")
			if out := e.ok("get", "secret", "db-user", "-o", "yaml") + e.ok("describe", "secret", "db-user"); strings.Contains(out, "db-admin") {
				e.t.Errorf("a secret is shown: %s", out)
			}
		}},
		{file: "downward-resources", text: `
apiVersion: v1
kind: Pod
metadata: {name: downward-2, labels: {app: "x"}, annotations: {note: yes-it-is}}
spec:
  containers:
  - name: client-container
    image: registry.k8s.io/busybox:1.24
    command: [sleep, "3600"]
    resources: {requests: {memory: 32Mi, cpu: 125m}, limits: {memory: 64Mi, cpu: 250m}}
    env:
    - {name: APP, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
    - {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    volumeMounts: [{name: podinfo, mountPath: /etc/podinfo}]
  volumes:
  - name: podinfo
    downwardAPI:
      items:
      - {path: cpu_limit, resourceFieldRef: {containerName: client-container, resource: limits.cpu, divisor: 1m}}
      - {path: cpu_request, resourceFieldRef: {containerName: client-container, resource: requests.cpu, divisor: 1m}}
      - {path: mem_limit, resourceFieldRef: {containerName: client-container, resource: limits.memory, divisor: 1Mi}}
      - {path: mem_request, resourceFieldRef: {containerName: client-container, resource: requests.memory}}
`, see: func(e *env) {
			p := e.ready("downward-2")
			same(e.t, e.output("downward-2", "client-container", "cd /etc/podinfo; for f in *; do echo $f $(cat $f); done; echo $APP $NOTE $POD_UID $HOST_IP"),
				fmt.Sprintf("cpu_limit 250\ncpu_request 125\nmem_limit 64\nmem_request 33554432\nx yes-it-is %s %s\n", p.UID, p.Status.HostIP))
		}},
	}
}

// taskStorage are pods with claims, host directories and images.
func taskStorage() []published {
	return []published{
		{file: "persistent-volume-claim", text: `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: task-pv-claim}
spec:
  storageClassName: manual
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 3Gi}}
---
apiVersion: v1
kind: Pod
metadata: {name: task-pv-pod}
spec:
  volumes: [{name: task-pv-storage, persistentVolumeClaim: {claimName: task-pv-claim}}]
  containers:
  - name: task-pv-container
    image: nginx
    ports: [{containerPort: 80, name: http-server}]
    volumeMounts:
    - {mountPath: /usr/share/nginx/html, name: task-pv-storage, subPath: html}
    - {mountPath: /whole, name: task-pv-storage}
`, see: func(e *env) {
			manifest := podYAML("second", "volumes: [{name: v, persistentVolumeClaim: {claimName: task-pv-claim}}]", "c=cat /v/html/index.html")
			e.ready("task-pv-pod")
			e.output("task-pv-pod", "task-pv-container", "echo 'Hello from Kubernetes storage' >/usr/share/nginx/html/index.html")
			same(e.t, e.output("task-pv-pod", "task-pv-container", "wget -qO- http://localhost; cat /whole/html/index.html"), strings.Repeat("Hello from Kubernetes storage\n", 2))
			mustMatch(e.t, e.ok("get", "pvc"), `NAME +STATUS +VOLUME +CAPACITY +ACCESS MODES +STORAGECLASS +(VOLUMEATTRIBUTESCLASS +)?AGE\ntask-pv-claim +Bound +\S+ +3Gi +RWO +manual +(<unset> +)?\d+s\n`)
			// What is on it stays when the pod goes, and goes with the claim.
			e.ok("delete", "pod", "task-pv-pod", "--now")
			e.apply(strings.Replace(manifest, "image: busybox", "image: busybox, volumeMounts: [{name: v, mountPath: /v}]", 1))
			e.logged("second", "c", "Hello from Kubernetes storage\n")
			e.ok("delete", "pod", "second", "--now")
			e.ok("delete", "pvc", "task-pv-claim")
		}},
		{file: "shared-memory", text: `
apiVersion: v1
kind: Pod
metadata: {name: cache}
spec:
  volumes: [{name: cache, emptyDir: {medium: Memory, sizeLimit: 8Mi}}, {name: work, emptyDir: {}}]
  containers:
  - {name: a, image: busybox, command: [sleep, "3600"], volumeMounts: [{name: cache, mountPath: /cache}, {name: work, mountPath: /work}]}
  - {name: b, image: busybox, command: [sleep, "3600"], volumeMounts: [{name: cache, mountPath: /cache, readOnly: true}]}
`, see: func(e *env) {
			e.ready("cache")
			e.output("cache", "a", "echo hot >/cache/x")
			same(e.t, e.output("cache", "b", "cat /cache/x"), "hot\n")
			mustContain(e.t, e.output("cache", "a", "grep ' /cache ' /proc/mounts"), "tmpfs ", "size=8192k")
			if r := e.run("exec", "cache", "-c", "a", "--", "dd", "if=/dev/zero", "of=/cache/big", "bs=1M", "count=9"); !strings.Contains(r.err, "No space left on device") {
				e.t.Error(r)
			}
		}},
		{file: "image-volume-subpath", text: `
apiVersion: v1
kind: Pod
metadata: {name: image-volume}
spec:
  containers:
  - {name: shell, command: [sleep, infinity], image: debian, volumeMounts: [{name: volume, mountPath: /volume, subPath: dir}]}
  volumes: [{name: volume, image: {reference: "quay.io/crio/artifact:v2", pullPolicy: IfNotPresent}}]
`, see: func(e *env) {
			e.ready("image-volume")
			same(e.t, e.output("image-volume", "shell", "ls /volume; cat /volume/file"), "file\n1\n")
		}},
		{file: "host-directory", text: `
apiVersion: v1
kind: Pod
metadata: {name: hostpath-example}
spec:
  containers: [{name: c, image: busybox, command: [sleep, "3600"], volumeMounts: [{name: etc, mountPath: /foo, readOnly: true}]}]
  volumes: [{name: etc, hostPath: {path: /etc, type: Directory}}]
`, see: func(e *env) {
			e.ready("hostpath-example")
			want, err := os.ReadFile("/etc/passwd")
			if err != nil {
				e.t.Fatal(err)
			}
			same(e.t, e.output("hostpath-example", "c", "cat /foo/passwd"), string(want))
		}},
	}
}

// TestPrivateRegistry: imagePullSecrets opens a registry that asks for a
// password; without it, or with a wrong one, the pod says why it waits.
func TestPrivateRegistry(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	private, err := registry.Start(dir, registry.Options{User: "jane", Password: "xyz"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(private.Stop)
	image, err := registry.Part(v1.Config{Cmd: []string{"sleep", "3600"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := private.Push(context.Background(), "private:v1", image); err != nil {
		t.Fatal(err)
	}
	e := newEnv(t)
	conf, err := os.ReadFile(images.Conf)
	if err != nil {
		t.Fatal(err)
	}
	e.write("registries.conf", string(conf)+fmt.Sprintf("\n[[registry]]\nlocation = %q\ninsecure = true\n", private.Address))
	e.vars["PODRUN_REGISTRIES_CONF"] = e.home + "/registries.conf"
	secret := func(name, password string) string {
		config := fmt.Sprintf(`{"auths":{%q:{"username":"jane","password":%q}}}`, private.Address, password)
		return fmt.Sprintf("---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s}\ntype: kubernetes.io/dockerconfigjson\ndata: {.dockerconfigjson: %s}\n",
			name, base64.StdEncoding.EncodeToString([]byte(config)))
	}
	manifest := func(name, secrets string) string {
		return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  containers: [{name: c, image: %q, imagePullPolicy: Always}]\n  imagePullSecrets: [%s]\n",
			name, private.Address+"/private:v1", secrets)
	}
	e.apply(secret("regcred", "xyz") + secret("wrong", "abc") +
		manifest("private-reg", "{name: regcred}") + manifest("none", "") + manifest("bad", "{name: wrong}"))
	e.ready("private-reg")
	for _, name := range []string{"none", "bad"} {
		e.when(name, "refused", func(p *corev1.Pod) bool {
			s := p.Status.ContainerStatuses
			return len(s) == 1 && s[0].State.Waiting != nil && strings.Contains("ErrImagePull ImagePullBackOff", s[0].State.Waiting.Reason)
		})
		mustContain(t, e.ok("describe", "pod", name), "Failed to pull image", "401")
	}
}
