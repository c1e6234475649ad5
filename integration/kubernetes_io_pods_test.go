package integration

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// publishedPods are those whose page shows something within seconds.
func publishedPods() []published {
	return []published{
		{file: "pods__simple-pod", see: func(e *env) {
			e.ready("nginx")
			mustContain(e.t, e.output("nginx", "nginx", "wget -qO- http://localhost"), "<title>Welcome to nginx!</title>")
		}},
		{file: "pods__two-container-pod", see: func(e *env) {
			p := e.when("two-containers", "with one container left", func(p *corev1.Pod) bool {
				s := statuses(p)
				return s["nginx-container"].State.Running != nil && s["debian-container"].State.Terminated != nil
			})
			if got := statuses(p)["debian-container"].State.Terminated; got.Reason != "Completed" || got.ExitCode != 0 {
				e.t.Errorf("got %v", got)
			}
			same(e.t, e.output("two-containers", "nginx-container", "wget -qO- http://localhost"), "Hello from the debian container\n")
		}},
		{file: "debug__counter-pod", see: func(e *env) {
			e.logged("counter", "count", "0: ", "\n1: ")
		}},
		{file: "admin__logging__two-files-counter-pod-streaming-sidecar", see: func(e *env) {
			e.logged("counter", "count-log-1", "0: ", "1: ")
			e.logged("counter", "count-log-2", " INFO 0\n", " INFO 1\n")
		}},
		{file: "pods__image-volumes", see: func(e *env) {
			e.ready("image-volume")
			same(e.t, e.output("image-volume", "shell", "cat /volume/dir/file /volume/file"), "1\n2\n")
			if r := e.run("exec", "image-volume", "--", "touch", "/volume/new"); !strings.Contains(r.err, "Read-only file system") {
				e.t.Error(r)
			}
		}},
		{file: "pods__init-containers", see: func(e *env) {
			e.ready("init-demo")
			same(e.t, e.output("init-demo", "nginx", "wget -qO- http://localhost"), "<title>http://info.cern.ch/</title>\n")
		}},
		{file: "pods__inject__dapi-envars-container", see: func(e *env) {
			e.logged("dapi-envars-resourcefieldref", "test-container", "\n1\n1\n33554432\n67108864\n")
		}},
		{file: "pods__inject__dapi-envars-pod", see: func(e *env) {
			p := e.ready("dapi-envars-fieldref")
			e.logged("dapi-envars-fieldref", "test-container",
				strings.Join([]string{"", p.Spec.NodeName, p.Name, p.Namespace, p.Status.PodIP, "default", ""}, "\n"))
		}},
		{file: "pods__inject__dapi-volume", see: seeDownwardVolume},
		{file: "pods__inject__dependent-envars", see: func(e *env) {
			e.logged("dependent-envars-demo", "dependent-envars-demo",
				"SERVICE_ADDRESS\nhttps://172.17.0.1:80\n", "ESCAPED_REFERENCE\n$(PROTOCOL)://172.17.0.1:80\n")
			same(e.t, e.output("dependent-envars-demo", "dependent-envars-demo", "echo $UNCHANGED_REFERENCE"), "$(PROTOCOL)://172.17.0.1:80\n")
		}},
		{file: "pods__inject__envars-file-container", see: func(e *env) {
			log := e.logged("envfile-test-pod", "use-envfile", "DB_ADDRESS=address\n")
			if strings.Contains(log, "REST_ENDPOINT") {
				e.t.Errorf("got a key that was not asked for: %s", log)
			}
			e.phase("envfile-test-pod", corev1.PodSucceeded)
		}},
		{file: "pods__inject__secret", see: func(e *env) {
			mustMatch(e.t, e.ok("get", "secret", "test-secret"), `NAME +TYPE +DATA +AGE\ntest-secret +Opaque +2 +\d+s\n`)
			out := e.ok("describe", "secret", "test-secret")
			mustContain(e.t, out, "Name:         test-secret\n", "Type:  Opaque\n", "Data\n====\n", "password:  12 bytes\n", "username:  6 bytes\n")
		}},
		{file: "pods__inject__secret-pod", before: readPublished("pods__inject__secret"), see: func(e *env) {
			e.ready("secret-test-pod")
			same(e.t, e.output("secret-test-pod", "test-container", "cd /etc/secret-volume; ls; cat username; echo; cat password"), "password\nusername\nmy-app\n39528$vdg7Jb")
			mustContain(e.t, e.output("secret-test-pod", "test-container", "grep secret-volume /proc/mounts"), " tmpfs ro,")
		}},
		{file: "configmap__configmap-multikeys", namespace: "default", see: func(e *env) {
			same(e.t, e.ok("get", "configmap", "special-config", "-o", "jsonpath={.data}"), `{"SPECIAL_LEVEL":"very","SPECIAL_TYPE":"charm"}`)
		}},
		{
			file:   "pods__pod-configmap-volume",
			before: strings.Replace(readPublished("configmap__configmap-multikeys"), `namespace: "default",`, "", 1),
			see: func(e *env) {
				same(e.t, e.logged("dapi-test-pod", "test-container", "SPECIAL_TYPE\n"), "SPECIAL_LEVEL\nSPECIAL_TYPE\n")
				e.phase("dapi-test-pod", corev1.PodSucceeded)
			},
		},
		{
			file: "pods__storage__projected-secret-downwardapi-configmap",
			before: `{apiVersion: v1, kind: Secret, metadata: {name: mysecret}, stringData: {username: admin}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: myconfigmap}, data: {config: "a=b\n"}}
`,
			see: func(e *env) {
				e.ready("volume-test")
				// The pod has no labels, and without a limit it is the node's processors.
				same(e.t, e.output("volume-test", "container-test", "cd /projected-volume; cat my-group/my-username my-group/my-config labels; ls"),
					"admina=b\ncpu_limit\nlabels\nmy-group\n")
				same(e.t, e.output("volume-test", "container-test", "test $(cat /projected-volume/cpu_limit) = $(nproc) && echo same"), "same\n")
			},
		},
		{file: "pods__lifecycle-events", see: func(e *env) {
			e.ready("lifecycle-demo")
			same(e.t, e.output("lifecycle-demo", "lifecycle-demo-container", "cat /usr/share/message"), "Hello from the postStart handler\n")
			// preStop ends nginx, so that nobody waits for the 30 seconds.
			within(e.t, 20*time.Second, e.run("delete", "pod", "lifecycle-demo"))
		}},
		{file: "pods__multi-container__ambassador", see: func(e *env) {
			e.ready("ambassador-sidecar-example")
			// The database does not exist, its ambassador listens.
			same(e.t, e.output("ambassador-sidecar-example", "main-app", "echo $DATABASE_URL; nc -w 5 localhost 5432 </dev/null && echo open"), "localhost:5432\nopen\n")
		}},
		{file: "pods__multi-container__localhost", see: func(e *env) {
			e.ready("localhost-example")
			e.logged("localhost-example", "client", "<title>Welcome to nginx!</title>")
		}},
		{file: "pods__multi-container__shared-volume", see: func(e *env) {
			e.ready("shared-volume-example")
			same(e.t, e.output("shared-volume-example", "web", "wget -qO- http://localhost"), "Hello from the init container\n")
			if r := e.run("exec", "shared-volume-example", "--", "touch", "/usr/share/nginx/html/new"); !strings.Contains(r.err, "Read-only file system") {
				e.t.Error(r)
			}
		}},
		{file: "pods__multi-container__startup-coordination", see: func(e *env) {
			p := e.ready("startup-coordination-example")
			e.logged("startup-coordination-example", "main-app", "greeting=hello\n")
			if s := p.Status.InitContainerStatuses[0]; s.Started == nil || !*s.Started || s.State.Running == nil {
				e.t.Errorf("the sidecar is %+v", s)
			}
			mustContain(e.t, e.ok("get", "pods"), " 2/2 ")
		}},
		{file: "pods__security__seccomp__ga__default-pod", see: func(e *env) {
			p := e.ready("default-pod")
			e.serves("http://"+p.Status.PodIP+":5678", "just made some more syscalls!\n")
			same(e.t, e.output("default-pod", "test-container", "grep -E '^(NoNewPrivs|Seccomp):' /proc/1/status"), "NoNewPrivs:\t1\nSeccomp:\t2\n")
		}},
		{file: "pods__security__security-context", see: func(e *env) {
			e.ready("security-context-demo")
			sh := func(script string) string { return e.output("security-context-demo", "sec-ctx-demo", script) }
			mustMatch(e.t, sh("ps -o pid,user,args"), `(?s)PID +USER +COMMAND\n +1 1000 +node server.js\n.*`)
			mustMatch(e.t, sh("ls -ld /data/demo"), `drwxrwsrwx .* root +2000 .*/data/demo\n`)
			mustMatch(e.t, sh("cd /data/demo && echo hello >testfile && ls -l testfile"), `-rw-r--r-- .* 1000 +2000 .* testfile\n`)
			same(e.t, sh("id"), "uid=1000 gid=0(root) groups=0(root),2000\n")
		}},
		{file: "pods__share-process-namespace", see: seeSharedProcesses},
		{file: "pods__storage__redis", see: seeRedis},
		{file: "pods__user-namespaces-stateless", see: func(e *env) {
			e.ready("userns")
			got := strings.TrimSpace(e.output("userns", "shell", "readlink /proc/self/ns/user"))
			if host := e.namespace(os.Getpid(), "user"); got == host || !strings.HasPrefix(got, "user:[") {
				e.t.Errorf("got user namespace %s, the host's is %s", got, host)
			}
			mustMatch(e.t, e.output("userns", "shell", "cat /proc/self/uid_map"), `( +\d+ +\d+ +\d+\n)+`)
			same(e.t, e.output("userns", "shell", "id -u"), "0\n")
		}},
		{file: "pods__resource__pod-level-resources", namespace: "pod-resources-example", see: func(e *env) {
			p := e.ready("pod-resources-demo")
			if p.Status.QOSClass != corev1.PodQOSBurstable {
				e.t.Errorf("got QoS class %s", p.Status.QOSClass)
			}
			mustMatch(e.t, e.ok("describe", "pod", "pod-resources-demo"),
				`(?s).*\nResources:\n  Limits:\n    cpu:     1\n    memory:  200Mi\n  Requests:\n    cpu:     1\n    memory:  100Mi\n.*`)
		}},
		{file: "service__networking__custom-dns", namespace: "default", see: func(e *env) {
			e.ready("dns-example")
			same(e.t, e.output("dns-example", "test", "cat /etc/resolv.conf"),
				"nameserver 192.0.2.1\nsearch ns1.svc.cluster-domain.example my.dns.search.suffix\noptions ndots:2 edns0\n")
		}},
		{file: "service__networking__hostaliases-pod", see: func(e *env) {
			e.phase("hostaliases-pod", corev1.PodSucceeded)
			mustContain(e.t, e.logged("hostaliases-pod", "cat-hosts", "Entries added"),
				"# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n", e.pod("hostaliases-pod").Status.PodIP+"\thostaliases-pod\n",
				"\n# Entries added by HostAliases.\n127.0.0.1\tfoo.local\tbar.local\n10.1.2.3\tfoo.remote\tbar.remote\n")
		}},
	}
}

func seeDownwardVolume(e *env) {
	const name = "kubernetes-downwardapi-volume-example"
	e.ready(name)
	labels := "cluster=\"test-cluster1\"\nrack=\"rack-22\"\nzone=\"us-est-coast\""
	e.logged(name, "client-container", labels, "build=\"two\"\nbuilder=\"john-doe\"")
	same(e.t, strings.TrimSuffix(e.output(name, "client-container", "cat /etc/podinfo/labels"), "\n"), labels)
	list := e.output(name, "client-container", "ls -la /etc/podinfo")
	for _, pattern := range []string{`\.\.data -> \.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+\n`, `labels -> \.\.data/labels\n`, `annotations -> \.\.data/annotations\n`} {
		if !regexp.MustCompile(pattern).MatchString(list) {
			e.t.Errorf("no match of %s in\n%s", pattern, list)
		}
	}
}

func seeSharedProcesses(e *env) {
	e.ready("nginx")
	sh := func(script string) string { return e.output("nginx", "shell", script) }
	var pid string
	e.eventually("processes of nginx", func() string {
		ps := sh("ps -o pid,args")
		m := regexp.MustCompile(`(\d+) nginx: master process nginx -g daemon off;\n`).FindStringSubmatch(ps)
		if m == nil || !strings.Contains(ps, " nginx: worker process\n") || !regexp.MustCompile(`\n +1 podrun-pause `).MatchString(ps) {
			return ps
		}
		pid = m[1]
		return ""
	})
	before := sh("pidof nginx")
	sh("kill -HUP " + pid)
	e.eventually("new worker", func() string {
		if after := sh("pidof nginx"); after == before || !strings.Contains(after, " ") {
			return after
		}
		return ""
	})
	mustContain(e.t, sh("head /proc/"+pid+"/root/etc/nginx/nginx.conf"), "worker_processes  1;")
	same(e.t, e.ok("get", "pod", "nginx", "-o", "jsonpath={.spec.containers[1].stdin} {.spec.containers[1].tty}"), "true true")
}

func seeRedis(e *env) {
	before := e.ready("redis")
	e.output("redis", "redis", "cd /data/redis && echo Hello >test-file")
	e.run("exec", "redis", "--", "sh", "-c", "kill $(pidof redis-server)")
	after := e.restarted("redis", 1)
	if ids(before)["redis"] == ids(after)["redis"] {
		e.t.Error("it is the same container")
	}
	same(e.t, e.output("redis", "redis", "cat /data/redis/test-file"), "Hello\n")
}

// statuses are the containers' by name.
func statuses(p *corev1.Pod) map[string]corev1.ContainerStatus {
	m := map[string]corev1.ContainerStatus{}
	for _, s := range p.Status.ContainerStatuses {
		m[s.Name] = s
	}
	return m
}

// phase waits for a pod's.
func (e *env) phase(name string, want corev1.PodPhase) *corev1.Pod {
	e.t.Helper()
	return e.when(name, string(want), func(p *corev1.Pod) bool { return p.Status.Phase == want })
}

// serves asks from a pod of its own what a URL answers.
func (e *env) serves(url, want string) {
	e.t.Helper()
	e.start(strings.Replace(podYAML("client", "", "c=exec sleep 3600"), "busybox", "app", 1), "client")
	e.eventually("answer of "+url, func() string {
		if r := e.run("exec", "client", "--", "app", "get", url); r.out != want {
			return fmt.Sprint(r)
		}
		return ""
	})
}
