package integration

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// publishedSlow are those where a page has its reader wait, shortest first.
func publishedSlow() []published {
	return []published{
		{file: "pods__probe__tcp-liveness-readiness", see: func(e *env) {
			p := e.ready("goproxy")
			s := p.Status.ContainerStatuses[0]
			if waited := readyAt(p).Sub(s.State.Running.StartedAt.Time); waited < 14*time.Second {
				e.t.Errorf("ready after %v, before its first probe", waited)
			}
			mustContain(e.t, e.ok("describe", "pod", "goproxy"),
				"Liveness:       tcp-socket :8080 delay=15s timeout=1s period=10s #success=1 #failure=3\n",
				"Readiness:      tcp-socket :8080 delay=15s timeout=1s period=10s #success=1 #failure=3\n")
		}},
		{file: "pods__probe__grpc-liveness", see: func(e *env) {
			e.ready("etcd-with-grpc")
			e.logged("etcd-with-grpc", "etcd", `check of "" from `, "-probe/", "SERVING")
			mustContain(e.t, e.ok("describe", "pod", "etcd-with-grpc"), "Liveness:       grpc <pod>:2379  delay=10s timeout=1s period=10s #success=1 #failure=3\n")
			if n := restarts(e.pod("etcd-with-grpc")); n != 0 {
				e.t.Errorf("got %d restarts", n)
			}
		}},
		{file: "debug__termination", see: func(e *env) {
			p := e.when("termination-demo", "restarted", func(p *corev1.Pod) bool {
				return p.Status.ContainerStatuses[0].LastTerminationState.Terminated != nil
			})
			last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated
			if last.ExitCode != 0 || last.Message != "Sleep expired\n" || last.Reason != "Completed" {
				e.t.Errorf("got %+v", last)
			}
			same(e.t, e.ok("get", "pod", "termination-demo", "-o", "jsonpath={.status.containerStatuses[*].lastState.terminated.message}"), "Sleep expired\n")
			mustContain(e.t, e.ok("describe", "pod", "termination-demo"), "Last State:", "Sleep expired")
		}},
		{file: "pods__resource__memory-request-limit-2", namespace: "mem-example", see: seeMemoryLimit},
		{file: "pods__probe__http-liveness", see: func(e *env) {
			e.when("liveness-http", "restarted", func(p *corev1.Pod) bool { return restarts(p) >= 1 && isReady(p) })
			mustContain(e.t, e.ok("describe", "pod", "liveness-http"),
				"Liveness:       http-get http://:8080/healthz delay=3s timeout=1s period=3s #success=1 #failure=3\n",
				"Warning  Unhealthy ", "Liveness probe failed: HTTP probe failed with statuscode: 500\n",
				"Normal   Killing ", "Container liveness failed liveness probe, will be restarted\n")
			mustContain(e.t, e.ok("logs", "liveness-http", "--previous"), "GET /healthz from ", "-probe/")
		}},
		// 30 seconds well, three failures, and a shell that ignores SIGTERM for
		// the 30 seconds of grace.
		{file: "pods__probe__exec-liveness", see: func(e *env) {
			e.long("liveness-exec", func(p *corev1.Pod) bool { return restarts(p) >= 1 })
			mustContain(e.t, e.ok("describe", "pod", "liveness-exec"),
				"Liveness:       exec [cat /tmp/healthy] delay=5s timeout=1s period=5s #success=1 #failure=3\n",
				"Liveness probe failed: cat: can't open '/tmp/healthy': No such file or directory\n",
				"Container liveness failed liveness probe, will be restarted\n")
			e.when("liveness-exec", "up again", isReady)
		}},
		// The sidecar ends after 60 seconds with the code that restarts all.
		{file: "pods__restart-policy__restart-all-containers", see: func(e *env) {
			e.long("ml-worker", func(p *corev1.Pod) bool { return restarts(p) >= 1 && isReady(p) })
			p := e.pod("ml-worker")
			if last := p.Status.InitContainerStatuses[1].LastTerminationState.Terminated; last == nil || last.ExitCode != 88 {
				e.t.Errorf("the sidecar ended with %+v", last)
			}
			if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 137 {
				e.t.Errorf("the main container ended with %+v", last)
			}
			e.logged("ml-worker", "setup-environment", "Setting up environment\n")
			e.logged("ml-worker", "main-application", "Application is running\n")
			mustMatch(e.t, row(e.ok("get", "pods"), "ml-worker"), `ml-worker 2/2 Running 1 \(\S+ ago\) \S+`)
		}},
	}
}

func seeMemoryLimit(e *env) {
	if limited := !strings.Contains(e.run("doctor").out, "limits of containers have no effect"); !limited {
		// Nothing is delegated to us: it runs, and the pod says what is missing.
		if os.Geteuid() == 0 {
			e.t.Error("root cannot limit memory")
		}
		e.ready("memory-demo-2")
		mustContain(e.t, e.ok("describe", "pod", "memory-demo-2"), "podrun.dev/ResourceLimits")
		return
	}
	p := e.when("memory-demo-2", "killed", func(p *corev1.Pod) bool {
		return p.Status.ContainerStatuses[0].LastTerminationState.Terminated != nil
	})
	if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last.Reason != "OOMKilled" || last.ExitCode != 137 {
		e.t.Errorf("got %+v", last)
	}
	e.eventually("STATUS", func() string {
		line := row(e.ok("get", "pods"), "memory-demo-2")
		if strings.Contains(line, " OOMKilled ") || strings.Contains(line, " CrashLoopBackOff ") {
			return ""
		}
		return line
	})
}

// long is when for what takes more than a minute by itself.
func (e *env) long(name string, ok func(*corev1.Pod) bool) {
	e.t.Helper()
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if ok(e.pod(name)) {
			return
		}
	}
	e.when(name, "there at last", ok)
}

// readyAt is when a pod became ready.
func readyAt(p *corev1.Pod) time.Time {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// readPublished is the text of a manifest.
func readPublished(file string) string {
	text, err := os.ReadFile(filepath.Join(publishedDir, file+".yaml"))
	if err != nil {
		panic(err)
	}
	return string(text)
}
