package integration

import "testing"

// TestKnownImages: what the test program plays, it plays under every name that
// manifests have for it.
func TestKnownImages(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(`
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - {name: nginx, image: "nginx:1.14.2"}
  - {name: agnhost, image: "registry.k8s.io/e2e-test-images/agnhost:2.40", args: [liveness]}
  - {name: redis, image: redis}
  - {name: echo, image: "hashicorp/http-echo:1.0", args: ["-text=hello"]}
  - {name: socat, image: "docker.io/alpine/socat:1.8.0.3", args: ["tcp-listen:5432,fork", "tcp-connect:localhost:5678"]}
  - {name: etcd, image: "registry.k8s.io/etcd:3.5.1-0", command: [/usr/local/bin/etcd, --data-dir, /var/lib/etcd]}
  - {name: app, image: app, command: [app, http, -port, "8081", -tls]}
`, "web")
	get := func(want string, url ...string) {
		t.Helper()
		e.eventually("an answer of "+url[len(url)-1], func() string {
			r := e.run(append([]string{"exec", "web", "-c", "app", "--", "app", "get"}, url...)...)
			if r.code != 0 {
				return r.err
			}
			mustContain(t, r.out, want)
			return ""
		})
	}
	get("Welcome to nginx!", "http://localhost")
	get("ok\n", "http://localhost:8080/healthz")
	get("hello\n", "http://localhost:5678")
	get("hello\n", "http://localhost:5432")
	get("Custom: Header", "-H", "Custom: Header", "https://localhost:8081/x")
	same(t, e.ok("exec", "web", "-c", "redis", "--", "redis-cli", "PING"), "PONG\n")
}
