package integration

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// taskPods are about what becomes of containers.
func taskPods() []published {
	return []published{
		{file: "init-container-waits", text: `
apiVersion: v1
kind: Pod
metadata: {name: myapp-pod, labels: {app.kubernetes.io/name: MyApp}}
spec:
  containers: [{name: myapp-container, image: "busybox:1.28", command: [sh, -c, "echo The app is running! && sleep 3600"]}]
  initContainers:
  - {name: init-myservice, image: "busybox:1.28", command: [sh, -c, "until [ -e /go ]; do echo waiting for myservice; sleep 1; done"]}
  - {name: init-mydb, image: "busybox:1.28", command: [sh, -c, "echo ready"]}
`, see: func(e *env) {
			e.eventually("STATUS", func() string {
				if line := row(e.ok("get", "pods"), "myapp-pod"); !strings.HasPrefix(line, "myapp-pod 0/1 Init:0/2 0 ") {
					return line
				}
				return ""
			})
			e.logged("myapp-pod", "init-myservice", "waiting for myservice\n")
			e.ok("exec", "myapp-pod", "-c", "init-myservice", "--", "touch", "/go")
			p := e.ready("myapp-pod")
			e.logged("myapp-pod", "init-mydb", "ready\n")
			e.logged("myapp-pod", "myapp-container", "The app is running!\n")
			for _, s := range p.Status.InitContainerStatuses {
				if s.State.Terminated == nil || s.State.Terminated.Reason != "Completed" {
					e.t.Errorf("%s: %+v", s.Name, s.State)
				}
			}
		}},
		{file: "job-with-sidecar", text: `
apiVersion: v1
kind: Pod
metadata: {name: myjob}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 2
  volumes: [{name: data, emptyDir: {}}]
  initContainers:
  - {name: logshipper, image: "alpine:latest", restartPolicy: Always, command: [sh, -c, "touch /opt/logs.txt; exec tail -F /opt/logs.txt"], volumeMounts: [{name: data, mountPath: /opt}]}
  containers:
  - {name: myjob, image: "alpine:latest", command: [sh, -c, 'echo "logging" > /opt/logs.txt; sleep 2'], volumeMounts: [{name: data, mountPath: /opt}]}
`, see: func(e *env) {
			e.phase("myjob", corev1.PodSucceeded)
			e.logged("myjob", "logshipper", "logging\n")
			mustMatch(e.t, row(e.ok("get", "pods"), "myjob"), `myjob 0/2 Completed 0 \S+`)
		}},
		{file: "sysctls", text: `
apiVersion: v1
kind: Pod
metadata: {name: sysctl-example}
spec:
  securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: "1"}, {name: net.ipv4.ip_local_port_range, value: "20000 30000"}]}
  containers: [{name: c, image: busybox, command: [sleep, "3600"]}]
`, see: func(e *env) {
			e.ready("sysctl-example")
			same(e.t, e.output("sysctl-example", "c", "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range"), "1\n20000\t30000\n")
		}},
		{file: "graceful-termination", text: `
apiVersion: v1
kind: Pod
metadata: {name: lifecycle}
spec:
  terminationGracePeriodSeconds: 20
  volumes: [{name: v, hostPath: {path: /proc}}]
  containers:
  - {name: polite, image: app, command: [app, signals, -exit, "0", -linger, 1s], lifecycle: {preStop: {exec: {command: [sh, -c, "echo preStop >/proc/1/fd/1; sleep 1"]}}}}
`, see: func(e *env) {
			e.ready("lifecycle")
			e.logged("lifecycle", "polite", "waiting\n")
			follow := make(chan string)
			go func() {
				out, _ := e.command("--namespace="+e.ns, "logs", "lifecycle", "-f").Output()
				follow <- string(out)
			}()
			time.Sleep(300 * time.Millisecond)
			r := e.run("delete", "pod", "lifecycle")
			within(e.t, 18*time.Second, r)
			if r.took < 2*time.Second {
				e.t.Errorf("nobody waited for it: %v", r)
			}
			same(e.t, <-follow, "waiting\npreStop\ngot TERM\n")
		}},
		{file: "security-context-overrides", text: `
apiVersion: v1
kind: Pod
metadata: {name: security-context-demo-2}
spec:
  securityContext: {runAsUser: 1000}
  containers:
  - {name: sec-ctx-demo-2, image: "gcr.io/google-samples/hello-app:2.0", securityContext: {runAsUser: 2000, allowPrivilegeEscalation: false}}
  - {name: caps, image: busybox, command: [sleep, "3600"], securityContext: {runAsUser: 0, capabilities: {add: [NET_ADMIN, SYS_TIME], drop: [CHOWN]}}}
  - {name: frozen, image: busybox, command: [sleep, "3600"], securityContext: {readOnlyRootFilesystem: true, runAsNonRoot: true}}
`, see: func(e *env) {
			e.ready("security-context-demo-2")
			mustMatch(e.t, e.output("security-context-demo-2", "sec-ctx-demo-2", "ps -o pid,user,args"), `(?s)PID +USER +COMMAND\n +1 2000 +node server.js\n.*`)
			// The page's number, 00000000aa0435fb for containerd's set and these, less CHOWN.
			same(e.t, e.output("security-context-demo-2", "caps", "grep CapPrm /proc/1/status"), "CapPrm:\t00000000aa0435fa\n")
			if r := e.run("exec", "security-context-demo-2", "-c", "frozen", "--", "touch", "/tmp/x"); !strings.Contains(r.err, "Read-only file system") {
				e.t.Error(r)
			}
		}},
		{file: "quality-of-service", text: `
apiVersion: v1
kind: Pod
metadata: {name: guaranteed}
spec: {containers: [{name: c, image: nginx, resources: {limits: {memory: 200Mi, cpu: 700m}, requests: {memory: 200Mi, cpu: 700m}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: burstable}
spec: {containers: [{name: c, image: nginx, resources: {limits: {memory: 200Mi}, requests: {memory: 100Mi}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: best-effort}
spec: {containers: [{name: c, image: nginx}]}
`, see: func(e *env) {
			for name, want := range map[string]string{"guaranteed": "Guaranteed", "burstable": "Burstable", "best-effort": "BestEffort"} {
				e.ready(name)
				same(e.t, e.ok("get", "pod", name, "-o", "jsonpath={.status.qosClass}"), want)
			}
		}},
		{file: "one-node", text: `
apiVersion: v1
kind: Pod
metadata: {name: nginx, labels: {env: test}}
spec:
  nodeSelector: {disktype: ssd}
  schedulerName: my-scheduler
  serviceAccountName: robot
  tolerations: [{key: example-key, operator: Exists, effect: NoSchedule}]
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {env: test}}}]
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: disktype, operator: In, values: [ssd]}]}]}
  containers: [{name: nginx, image: nginx, imagePullPolicy: IfNotPresent}]
`, see: func(e *env) {
			e.ready("nginx")
			mustMatch(e.t, e.ok("describe", "pod", "nginx"), `(?s).*\nNode-Selectors: +disktype=ssd\nTolerations: +example-key:NoSchedule op=Exists\n`+
				`No Effect:\n.*spec.nodeSelector: .*spec.serviceAccountName: .*spec.affinity\S*: .*spec.schedulerName: .*spec.tolerations: .*`)
		}},
		{file: "two-pods-in-one-file", text: `
apiVersion: v1
kind: Pod
metadata: {name: pod1, labels: {tier: frontend}}
spec: {containers: [{name: hello1, image: "gcr.io/google-samples/hello-app:2.0"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: pod2, labels: {tier: frontend}}
spec: {containers: [{name: hello2, image: "gcr.io/google-samples/hello-app:2.0"}]}
`, see: func(e *env) {
			e.ready("pod1")
			p := e.ready("pod2")
			e.serves("http://"+p.Status.PodIP+":8080", "Hello Kubernetes!")
			same(e.t, e.ok("get", "pods", "-l", "tier=frontend", "-o", "name"), "pod/pod1\npod/pod2\n")
		}},
		{file: "named-port-probes", text: `
apiVersion: v1
kind: Pod
metadata: {name: probes}
spec:
  containers:
  - name: web
    image: app
    command: [app, http, -port, "8081", -listen-after, 3s]
    ports: [{name: liveness-port, containerPort: 8081}]
    livenessProbe: {httpGet: {path: /healthz, port: liveness-port}, failureThreshold: 1, periodSeconds: 1}
    startupProbe: {httpGet: {path: /healthz, port: liveness-port}, failureThreshold: 60, periodSeconds: 1}
    readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1}
`, see: func(e *env) {
			p := e.when("probes", "started", func(p *corev1.Pod) bool {
				s := p.Status.ContainerStatuses
				return len(s) == 1 && s[0].Started != nil && *s[0].Started
			})
			if s := p.Status.ContainerStatuses[0]; s.Ready || s.RestartCount != 0 {
				e.t.Errorf("got %+v", s)
			}
			e.output("probes", "web", "touch /tmp/ready")
			e.ready("probes")
			e.output("probes", "web", "rm /tmp/ready")
			e.when("probes", "not ready", func(p *corev1.Pod) bool { return !p.Status.ContainerStatuses[0].Ready })
			mustContain(e.t, e.ok("get", "pods"), " 0/1 ")
			e.output("probes", "web", "app get http://localhost:8081/fail")
			e.when("probes", "restarted", func(p *corev1.Pod) bool { return restarts(p) >= 1 })
		}},
		{file: "errors-and-logs", text: `
apiVersion: v1
kind: Pod
metadata: {name: counter-err}
spec:
  restartPolicy: Never
  containers:
  - {name: count, image: "busybox:1.28", args: [/bin/sh, -c, "echo out; echo err >&2; exit 3"], terminationMessagePolicy: FallbackToLogsOnError}
`, see: func(e *env) {
			p := e.phase("counter-err", corev1.PodFailed)
			if last := p.Status.ContainerStatuses[0].State.Terminated; last.ExitCode != 3 || last.Reason != "Error" || !strings.Contains(last.Message, "err\n") {
				e.t.Errorf("got %+v", last)
			}
			mustMatch(e.t, row(e.ok("get", "pods"), "counter-err"), `counter-err 0/1 Error 0 \S+`)
			mustContain(e.t, e.ok("logs", "counter-err"), "out\n", "err\n")
		}},
	}
}
