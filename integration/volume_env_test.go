package integration

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestEnvFromPod: what a container's environment can say of its pod, and what a
// file of a volume can say to it.
func TestEnvFromPod(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(`
apiVersion: v1
kind: Pod
metadata:
  name: env
  labels: {app: myapp}
  annotations: {note: a note}
spec:
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - {name: init, image: busybox, command: [sh, -c, "mkdir /v/d; printf \"# a file\\nA='one'\\nB='two\\nlines'\\n\" >/v/d/env; ln -s /etc/passwd /v/out"], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - name: c
    image: busybox
    command: [sh, -c, 'echo "$0 $1"; env | sort; exec sleep 3600', "$(A)", "$$(A) $(NONE)"]
    resources: {requests: {cpu: 250m}, limits: {memory: 64Mi}}
    env:
    - {name: A, value: "1"}
    - {name: X_REF, value: "$(A)-$$(A)-$(LATER)"}
    - {name: LATER, value: "2"}
    - {name: X_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: X_LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: X_NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
    - {name: X_NO_LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['none']"}}}
    - {name: X_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: X_NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: X_ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: X_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: X_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
    - {name: X_HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: X_HOSTS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
    - {name: X_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    - {name: X_REQUEST, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
    - {name: X_CPU, valueFrom: {resourceFieldRef: {resource: requests.cpu, containerName: c}}}
    - {name: X_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: X_FILE, valueFrom: {fileKeyRef: {volumeName: v, path: d/env, key: A}}}
    - {name: X_LINES, valueFrom: {fileKeyRef: {volumeName: v, path: d/env, key: B}}}
    - {name: X_NONE, valueFrom: {fileKeyRef: {volumeName: v, path: d/env, key: C, optional: true}}}
`, "env")
	p := e.pod("env")
	var ips, hosts []string
	for _, ip := range p.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	for _, ip := range p.Status.HostIPs {
		hosts = append(hosts, ip.IP)
	}
	if len(ips) == 0 || len(hosts) == 0 || p.Spec.NodeName == "" {
		t.Errorf("got addresses %q, of the host %q, node %q", ips, hosts, p.Spec.NodeName)
	}
	var out string
	e.eventually("output", func() string {
		if out = e.ok("logs", "env", "-c", "c"); !strings.Contains(out, "X_UID=") {
			return "not there"
		}
		return ""
	})
	mustContain(t, out, "1 $(A) $(NONE)\n", "X_REF=1-$(A)-$(LATER)\n", "X_NAME=env\n", "X_LABEL=myapp\n", "X_NOTE=a note\n", "X_IP="+p.Status.PodIP+"\n",
		"X_HOST="+p.Status.HostIP+"\n", "X_UID="+string(p.UID)+"\n", "X_NO_LABEL=\n", "X_NAMESPACE=default\n", "X_NODE="+p.Spec.NodeName+"\n", "X_ACCOUNT=default\n",
		"X_IPS="+strings.Join(ips, ",")+"\n", "X_HOSTS="+strings.Join(hosts, ",")+"\n", "X_REQUEST=250\n", "X_CPU=1\n", "X_LIMIT=64\n", "X_FILE=one\n", "X_LINES=two\n", "\nlines\n")
	if strings.Contains(out, "X_NONE") {
		t.Errorf("an optional variable is there: %s", out)
	}

	// What a file does not say, and where a link leads out.
	for name, c := range map[string]struct{ ref, script, want string }{
		"nokey":  {"path: env, key: B", `echo "A='1'" >/v/env`, `environment variable key "B" not found in file "env" of volume "v"`},
		"escape": {"path: env, key: root", "ln -s /etc/passwd /v/env", "couldn't parse env file: open env: it leads out of the volume"},
		"syntax": {"path: env, key: A", "echo A=1 >/v/env", `couldn't parse env file: "env" of volume "v": invalid environment variable format at line 1: value must be enclosed in single quotes`},
	} {
		e.apply(strings.Replace(volumePod(name, "emptyDir: {}", c.script, "mountPath: /m"),
			"{name: WHO, value: me}", "{name: A, valueFrom: {fileKeyRef: {volumeName: v, "+c.ref+"}}}", 1))
		p := e.when(name, "refused", func(p *corev1.Pod) bool { return waitingFor(p, "c0") == "CreateContainerConfigError" })
		same(t, p.Status.ContainerStatuses[0].State.Waiting.Message, c.want)
		mustContain(t, e.ok("describe", "pod", name), "Error: "+c.want)
	}
}
