package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/node"
	"get.podrun.dev/podrun/pod"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

func values(pods []corev1.Pod) []pod.Value {
	out := make([]pod.Value, len(pods))
	for i := range pods {
		out[i] = &pods[i]
	}
	return out
}

type podChange func(*corev1.Pod)

func testPod(name string, containers int, changes ...podChange) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: "u", CreationTimestamp: ago(90 * time.Second)}}
	p.Spec.NodeName = "laptop"
	p.Status.Phase, p.Status.PodIP = corev1.PodRunning, "10.88.0.2"
	for i := range containers {
		name := string(rune('a' + i))
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name, Image: "busybox"})
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: name, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: ago(80 * time.Second)}},
		})
	}
	for _, c := range changes {
		c(&p)
	}
	return p
}

func ended(i int, code int32, reason string) podChange {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses[i].Ready = false
		p.Status.ContainerStatuses[i].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, FinishedAt: ago(5 * time.Second)}}
	}
}

func waits(i int, reason string) podChange {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses[i].Ready = false
		p.Status.ContainerStatuses[i].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
	}
}

func restarted(i int, n int32, when time.Duration) podChange {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses[i].RestartCount = n
		p.Status.ContainerStatuses[i].LastTerminationState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, FinishedAt: ago(when)}}
	}
}

func phase(ph corev1.PodPhase) podChange { return func(p *corev1.Pod) { p.Status.Phase = ph } }

func initContainer(state corev1.ContainerState) podChange {
	return func(p *corev1.Pod) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "init"})
		p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, corev1.ContainerStatus{Name: "init", State: state})
		for i := range p.Status.ContainerStatuses {
			waits(i, "PodInitializing")(p)
		}
		p.Status.Phase = corev1.PodPending
	}
}

// sidecarContainer is an init container that keeps running; started tells
// whether it counts as started, which initializes the pod.
func sidecarContainer(started bool, restarts int32, state corev1.ContainerState) podChange {
	return func(p *corev1.Pod) {
		always := corev1.ContainerRestartPolicyAlways
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "side", RestartPolicy: &always})
		p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, corev1.ContainerStatus{
			Name: "side", State: state, Started: &started, Ready: started, RestartCount: restarts,
		})
	}
}

func isInitialized(p *corev1.Pod) {
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue})
}

var stateRuns = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: ago(80 * time.Second)}}

// The STATUS column is what people look at first: kubectl's word for each case.
func TestPodTable(t *testing.T) {
	pods := []corev1.Pod{
		testPod("running", 2),
		testPod("restarted", 2, restarted(0, 1, 3*time.Second)),
		testPod("restarted-twice", 2, restarted(0, 1, 3*time.Second), restarted(1, 2, time.Hour)),
		testPod("creating", 1, waits(0, "ContainerCreating"), phase(corev1.PodPending), func(p *corev1.Pod) { p.Status.PodIP = "" }),
		testPod("pull-error", 2, waits(0, "ErrImagePull"), waits(1, "ContainerCreating"), phase(corev1.PodPending)),
		testPod("crash-loop", 1, waits(0, "CrashLoopBackOff"), restarted(0, 5, 10*time.Second)),
		testPod("failed", 1, ended(0, 3, "Error"), phase(corev1.PodFailed)),
		testPod("no-reason", 1, ended(0, 3, "")),
		testPod("out-of-memory", 1, ended(0, 137, "OOMKilled"), phase(corev1.PodFailed)),
		testPod("completed", 1, ended(0, 0, "Completed"), phase(corev1.PodSucceeded)),
		testPod("one-completed", 2, ended(0, 0, "Completed")),
		testPod("initializing", 1, initContainer(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})),
		testPod("init-failed", 1, initContainer(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error"}})),
		testPod("init-waits", 1, initContainer(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}})),
		testPod("sidecar", 1, sidecarContainer(true, 1, stateRuns), isInitialized),
		testPod("sidecar-starts", 1, sidecarContainer(false, 0, stateRuns), initContainer(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}})),
		testPod("beside-sidecar", 1, sidecarContainer(true, 2, stateRuns), initContainer(stateRuns)),
		testPod("sidecar-waits", 1, sidecarContainer(false, 1, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}), isInitialized),
		testPod("terminating", 1, func(p *corev1.Pod) { at := ago(0); p.DeletionTimestamp = &at }),
		testPod("deadline", 1, ended(0, 137, "Error"), phase(corev1.PodFailed), func(p *corev1.Pod) { p.Status.Reason = "DeadlineExceeded" }),
	}
	pods[0].Labels = map[string]string{"b": "2", "a": "1"}
	var b bytes.Buffer
	for _, o := range []columns{{}, {wide: true}, {namespace: true, labels: true}} {
		if err := kubectlTable(&b, podTable(pods, o, now), true); err != nil {
			t.Fatal(err)
		}
		b.WriteByte('\n')
	}
	golden(t, "pods.txt", b.String())
}

func TestDescribe(t *testing.T) {
	p := testPod("web", 2, restarted(0, 1, 3*time.Second), ended(1, 0, "Completed"))
	start, priority := ago(88*time.Second), int32(0)
	p.Status.StartTime, p.Spec.Priority = &start, &priority
	p.Status.HostIP, p.Status.PodIPs, p.Status.QOSClass = "192.0.2.1", []corev1.PodIP{{IP: "10.88.0.2"}}, corev1.PodQOSBurstable
	p.Labels = map[string]string{"app": "web", "tier": "front"}
	p.Annotations = map[string]string{"note": "x", corev1.LastAppliedConfigAnnotation: "{}"}
	p.Spec.Containers[0].Command = []string{"sh", "-c", "echo a\necho b"}
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "status.podIP"}}}}
	p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, Protocol: "TCP"}}
	p.Spec.Containers[1].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data", ReadOnly: true}}
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	events := []corev1.Event{
		{Type: "Normal", Reason: "Started", Message: "Started container a", Count: 2, FirstTimestamp: ago(80 * time.Second), LastTimestamp: ago(3 * time.Second), Source: corev1.EventSource{Component: "podrun"}},
		{Type: "Normal", Reason: "GroupRestart", Message: "container a exited with code 1; all 2 containers are made again", Count: 1, FirstTimestamp: ago(3 * time.Second), LastTimestamp: ago(3 * time.Second), Source: corev1.EventSource{Component: "podrun"}},
	}
	var b bytes.Buffer
	d := &description{w: tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)}
	d.pod(&p, events, now)
	if err := d.w.Flush(); err != nil {
		t.Fatal(err)
	}
	golden(t, "describe.txt", b.String())
}

// TestDescribeAll: whatever a container and a volume may have.
func TestDescribeAll(t *testing.T) {
	objects, err := pod.Parse("all.yml", []byte(`
apiVersion: v1
kind: Pod
metadata: {name: all, annotations: {lines: "a: b\nc: d\n", long: "012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789", short: "x"}}
spec:
  securityContext: {seccompProfile: {type: Localhost, localhostProfile: mine.json}}
  resources: {limits: {cpu: "1", memory: 200Mi}, requests: {cpu: "1"}}
  nodeSelector: {disk: ssd}
  tolerations: [{key: a, value: b, effect: NoExecute, tolerationSeconds: 5}, {operator: Exists}]
  readinessGates: [{conditionType: www.example.com/gate}]
  initContainers: [{name: first, image: busybox}]
  containers:
  - name: c
    image: busybox
    securityContext: {seccompProfile: {type: RuntimeDefault}}
    ports: [{containerPort: 80, protocol: TCP, hostPort: 8080}, {containerPort: 53, protocol: UDP}]
    livenessProbe: {exec: {command: [cat, /healthy]}, initialDelaySeconds: 5}
    readinessProbe: {httpGet: {path: "/ready?a=b", port: web, scheme: HTTPS}, timeoutSeconds: 2}
    startupProbe: {grpc: {port: 2379, service: s}, failureThreshold: 30}
    envFrom: [{configMapRef: {name: settings}}, {prefix: P_, secretRef: {name: passwords, optional: true}}]
    env:
    - {name: LINES, value: "a\nb"}
    - {name: NAME, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: requests.cpu}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    - {name: DISK, valueFrom: {resourceFieldRef: {resource: limits.ephemeral-storage}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: passwords, key: p}}}
    - {name: SETTING, valueFrom: {configMapKeyRef: {name: settings, key: s, optional: true}}}
    - {name: LINE, valueFrom: {fileKeyRef: {volumeName: disk, path: a.env, key: L}}}
    volumeMounts: [{name: disk, mountPath: /b, subPath: sub}, {name: secret, mountPath: /a, readOnly: true}]
  volumes:
  - {name: disk, emptyDir: {medium: Memory, sizeLimit: 10Mi}}
  - {name: host, hostPath: {path: /srv, type: Directory}}
  - {name: secret, secret: {secretName: passwords}}
  - {name: config, configMap: {name: settings, optional: true}}
  - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: cpu, resourceFieldRef: {containerName: c, resource: limits.cpu}}]}}
  - {name: both, projected: {sources: [{secret: {name: passwords}}, {configMap: {name: settings}}, {downwardAPI: {items: []}}]}}
  - {name: claim, persistentVolumeClaim: {claimName: data}}
  - {name: image, image: {reference: "quay.io/crio/artifact:v2", pullPolicy: IfNotPresent}}
`))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	d := &description{w: tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)}
	d.pod(objects[0].Pod, nil, now)
	if err := d.w.Flush(); err != nil {
		t.Fatal(err)
	}
	golden(t, "describe-all.txt", b.String())
}

func TestDockerTables(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	containers := []node.Container{
		{ID: id, Image: "busybox", Command: []string{"sh", "-c", "echo Hello Kubernetes! && sleep 3600"}, Created: now.Add(-3 * time.Second), State: "running", StartedAt: now.Add(-3 * time.Second), Namespace: "default", Pod: "pod", Name: "a"},
		{ID: id, Image: "busybox", Command: []string{"true"}, Created: now.Add(-2 * time.Hour), State: "exited", ExitCode: 137, StartedAt: now.Add(-2 * time.Hour), FinishedAt: now.Add(-2 * time.Minute), Namespace: "other", Pod: "pod", Name: "b"},
	}
	busybox := &node.Image{
		ID: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", Digest: "sha256:ff", References: []string{"docker.io/library/busybox:latest", "quay.io/a/b:v1"}, Created: now.Add(-50 * time.Hour), Size: 4_260_000,
	}
	images := []namedImage{
		{busybox, "docker.io/library/busybox:latest"}, {busybox, "quay.io/a/b:v1"},
		{&node.Image{ID: "sha256:fedcba9876543210", Created: now.Add(-400 * 24 * time.Hour), Size: 999}, ""},
	}
	var b bytes.Buffer
	for _, g := range []grid{containerTable(containers, false, now), containerTable(containers, true, now), imageTable(images, false, false, now), imageTable(images, true, true, now)} {
		if err := dockerTable(&b, g, true); err != nil {
			t.Fatal(err)
		}
		b.WriteByte('\n')
	}
	golden(t, "docker.txt", b.String())
}

func TestFormats(t *testing.T) {
	pods := []corev1.Pod{testPod("b", 1), testPod("a", 2, restarted(0, 3, time.Minute))}
	items, err := toObjects(values(pods))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, format := range []string{
		"name", "json", "yaml", "jsonpath={.items[*].metadata.name}", `jsonpath={range .items[*]}{.metadata.name}{"\t"}{.status.podIP}{"\n"}{end}`,
		"custom-columns=NAME:.metadata.name,RESTARTS:.status.containerStatuses[*].restartCount,NONE:.spec.nope", "jsonpath=.kind",
	} {
		b.WriteString("# -o " + format + "\n")
		if err := printFormatted(&b, items, false, format, true); err != nil {
			t.Errorf("-o %s: %v", format, err)
		}
		b.WriteByte('\n')
	}
	b.WriteString("# one object -o jsonpath={.metadata.name}\n")
	if err := printFormatted(&b, items[:1], true, "jsonpath={.metadata.name}", true); err != nil {
		t.Error(err)
	}
	golden(t, "formats.txt", b.String())
	for format, want := range map[string]string{
		"xml":               `unable to match a printer suitable for the output format "xml"`,
		"jsonpath={.items[": "unclosed action",
		"custom-columns=A":  "unexpected custom-columns spec",
		"custom-columns":    "no custom columns given",
	} {
		if err := printFormatted(&b, items, false, format, true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("-o %s: %v, want %q", format, err, want)
		}
	}
}

func TestSortBy(t *testing.T) {
	pods := []corev1.Pod{testPod("b", 1), testPod("c", 1, restarted(0, 3, time.Minute)), testPod("a", 1, restarted(0, 12, time.Minute))}
	for path, want := range map[string]string{
		".metadata.name": "abc", "{.metadata.name}": "abc", "metadata.name": "abc", ".status.containerStatuses[0].restartCount": "bca",
	} {
		sorted, err := sortObjects(values(pods), path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		got := ""
		for _, p := range sorted {
			got += p.GetName()
		}
		if got != want {
			t.Errorf("--sort-by %s gives %s, want %s", path, got, want)
		}
	}
	if _, err := sortObjects(values(pods), ".nope"); err == nil {
		t.Error("sorting by a field that no pod has succeeded")
	}
}

func TestHuman(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "Less than a second", time.Second: "1 second", 59 * time.Second: "59 seconds", time.Minute: "About a minute", 5 * time.Minute: "5 minutes",
		time.Hour: "About an hour", 47 * time.Hour: "47 hours", 48 * time.Hour: "2 days", 15 * 24 * time.Hour: "2 weeks", 70 * 24 * time.Hour: "2 months", 800 * 24 * time.Hour: "2 years",
	} {
		if got := human(d); got != want {
			t.Errorf("human(%s) = %q, want %q", d, got, want)
		}
	}
}

func TestWatchKeepsColumns(t *testing.T) {
	var b bytes.Buffer
	l := newLines(&b, true)
	for _, p := range []corev1.Pod{testPod("a-long-name", 1), testPod("b", 1), testPod("c", 1, waits(0, "CrashLoopBackOff"))} {
		if err := l.print(podTable([]corev1.Pod{p}, columns{}, now)); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "watch.txt", b.String())
}

func TestLabelColumns(t *testing.T) {
	web, plain := testPod("web", 1), testPod("plain", 1)
	web.Labels = map[string]string{"app": "web", "example.com/tier": "front"}
	objects := values([]corev1.Pod{web, plain})
	for _, f := range []getFlags{
		{labelColumns: []string{"app", "example.com/tier"}},
		{labelColumns: []string{"app", "example.com/tier"}, labels: true},
	} {
		table := f.table(podKind, objects)
		want := [][]string{{"APP", "TIER"}, {"web", "front"}, {none, none}}
		for i, row := range append([][]string{table.headers}, table.rows...) {
			if got := row[5:7]; !slices.Equal(got, want[i]) {
				t.Errorf("show labels %v: got %v, want %v", f.labels, got, want[i])
			}
		}
		if f.labels && table.headers[7] != "LABELS" {
			t.Errorf("got %v", table.headers)
		}
	}
}
