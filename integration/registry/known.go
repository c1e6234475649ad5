package registry

import (
	"context"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// known are images that published manifests name, played by the test program
// and busybox: what of them a page shows, is there. Debian, Fedora and the like
// are a shell with busybox's tools.
var known = []struct {
	config     v1.Config
	files      []File
	references []string
}{
	{config: v1.Config{Cmd: []string{"sh"}}, references: []string{"app"}},
	{
		config: v1.Config{Cmd: []string{"bash"}},
		references: []string{
			"debian", "fedora", "ubuntu", "alpine", "bash", "bash:5", "perl", "python", "busybox:1.27.2", "busybox:1.28", "busybox:1.36",
			"registry.k8s.io/busybox", "registry.k8s.io/busybox:1.24", "registry.k8s.io/busybox:1.27.2", "gcr.io/google-containers/busybox",
		},
	},
	{
		config: v1.Config{Cmd: []string{"nginx", "-g", "daemon off;"}, ExposedPorts: map[string]struct{}{"80/tcp": {}}, StopSignal: "SIGQUIT"},
		files: []File{
			{Name: "usr/sbin/", Mode: 0o755}, {Name: "usr/sbin/nginx", Link: "/" + appPath},
			{Name: "etc/nginx/", Mode: 0o755},
			{Name: "etc/nginx/nginx.conf", Mode: 0o644, Data: []byte("\nuser  nginx;\nworker_processes  1;\n\nerror_log  /var/log/nginx/error.log warn;\npid        /var/run/nginx.pid;\n")},
			{Name: "usr/share/", Mode: 0o755}, {Name: "usr/share/nginx/", Mode: 0o755}, {Name: "usr/share/nginx/html/", Mode: 0o755},
			{Name: "usr/share/nginx/html/index.html", Mode: 0o644, Data: []byte("<!DOCTYPE html>\n<html>\n<head>\n<title>Welcome to nginx!</title>\n")},
			{Name: "var/run/", Mode: 0o755},
		},
		references: []string{"nginx", "nginx:1.14.2", "nginx:1.29", "registry.k8s.io/nginx-slim:0.7", "registry.k8s.io/nginx-slim:0.8"},
	},
	{
		config: v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}},
		files:  []File{{Name: "agnhost", Link: appPath}},
		references: []string{
			"registry.k8s.io/e2e-test-images/agnhost:2.39", "registry.k8s.io/e2e-test-images/agnhost:2.40", "registry.k8s.io/liveness",
		},
	},
	{
		config:     v1.Config{Entrypoint: []string{"/goproxy"}},
		files:      []File{{Name: "goproxy", Link: appPath}},
		references: []string{"registry.k8s.io/goproxy:0.1"},
	},
	{
		config:     v1.Config{Entrypoint: []string{"/usr/local/bin/etcd"}},
		files:      []File{{Name: "usr/local/bin/etcd", Link: "app"}, {Name: "var/lib/", Mode: 0o755}},
		references: []string{"registry.k8s.io/etcd:3.5.1-0"},
	},
	{
		config: v1.Config{Cmd: []string{"redis-server"}, WorkingDir: "/data"},
		files: []File{
			{Name: "usr/local/bin/redis-server", Link: "app"}, {Name: "usr/local/bin/redis-cli", Link: "app"}, {Name: "data/", Mode: 0o755},
		},
		references: []string{"redis", "redis:5.0.4", "redis:8.0.2"},
	},
	{
		config:     v1.Config{Entrypoint: []string{"socat"}},
		files:      []File{{Name: "usr/local/bin/socat", Link: "app"}},
		references: []string{"alpine/socat:1.8.0.3"},
	},
	{
		config:     v1.Config{Entrypoint: []string{"/http-echo"}, ExposedPorts: map[string]struct{}{"5678/tcp": {}}},
		files:      []File{{Name: "http-echo", Link: appPath}},
		references: []string{"hashicorp/http-echo:1.0", "hashicorp/http-echo:0.2.3"},
	},
	{
		config: v1.Config{Cmd: []string{"/bin/sh", "-c", "node server.js"}, ExposedPorts: map[string]struct{}{"8080/tcp": {}}},
		files: []File{
			{Name: "usr/local/bin/node", Link: "app"}, {Name: "server.js", Mode: 0o644},
		},
		references: []string{"gcr.io/google-samples/node-hello:1.0", "gcr.io/google-samples/hello-app:2.0"},
	},
	{
		config:     v1.Config{Cmd: []string{"stress"}},
		files:      []File{{Name: "usr/local/bin/stress", Link: "app"}},
		references: []string{"polinux/stress", "vish/stress"},
	},
}

// PushKnown stores the well-known images, and as docker.io's app one
// that is busybox and the test program: "app http" and so on.
func (r *Registry) PushKnown(ctx context.Context) error {
	for _, k := range known {
		image, err := Part(k.config, k.files...)
		if err != nil {
			return err
		}
		for _, reference := range k.references {
			if err := r.PushAs(ctx, reference, image); err != nil {
				return fmt.Errorf("push %s: %w", reference, err)
			}
		}
	}
	// What is mounted as an image volume has neither a program nor a parent.
	layer, err := Layer(
		File{Name: "dir/", Mode: 0o755}, File{Name: "dir/file", Mode: 0o644, Data: []byte("1\n")},
		File{Name: "file", Mode: 0o644, Data: []byte("2\n")},
	)
	if err != nil {
		return err
	}
	artifact, err := Image(v1.Config{}, layer)
	if err != nil {
		return err
	}
	return r.PushAs(ctx, "quay.io/crio/artifact:v2", artifact)
}
