package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// tool is one of the two that are compared: how each verb is said to it.
type tool interface {
	name() string
	version() string
	apply(file string) []string
	get() []string
	exec(pod, container, program string) []string
	remove(pod string) []string
	removeAll() []string
	// restarted is how many programs run anew after one of the pod's two was
	// killed.
	restarted() int
	// memory is the PSS of everything it runs for its pods.
	memory(m *meter) int64
	// clean ends what it leaves running, as far as it can be told to.
	clean()
}

// podrun restarts the group.
type podrun struct{}

func (*podrun) name() string { return "podrun" }

func (*podrun) version() string {
	out, _ := exec.Command("podrun", "version", "--client").Output()
	return "podrun " + regexp.MustCompile(`: (\S+)`).ReplaceAllString(regexp.MustCompile(`: \S+`).FindString(string(out)), "$1")
}
func (*podrun) apply(file string) []string { return []string{"podrun", "apply", "-f", file} }
func (*podrun) get() []string              { return []string{"podrun", "get", "pods"} }
func (*podrun) exec(pod, container, program string) []string {
	return []string{"podrun", "exec", pod, "-c", container, "--", program}
}
func (*podrun) remove(pod string) []string {
	return []string{"podrun", "delete", "pod", pod, "--grace-period=0", "--force"}
}
func (*podrun) removeAll() []string {
	return []string{"podrun", "delete", "pods", "--all", "--grace-period=0", "--force"}
}
func (*podrun) restarted() int { return 2 }
func (*podrun) memory(m *meter) int64 {
	return m.pss(func(args string) bool { return strings.HasPrefix(args, "podrun") })
}
func (p *podrun) clean() { _ = run(p.removeAll()) }

// podman restarts the one container.
type podman struct{}

func (*podman) name() string { return "podman" }
func (*podman) version() string {
	out, _ := exec.Command("podman", "--version").Output()
	return strings.Replace(strings.TrimSpace(string(out)), "version ", "", 1)
}
func (*podman) apply(file string) []string { return []string{"podman", "play", "kube", file} }
func (*podman) get() []string              { return []string{"podman", "pod", "ps"} }
func (*podman) exec(pod, container, program string) []string {
	return []string{"podman", "exec", pod + "-" + container, program}
}
func (*podman) remove(pod string) []string {
	return []string{"podman", "pod", "rm", "-f", "-t", "0", pod}
}
func (*podman) removeAll() []string { return []string{"podman", "pod", "rm", "-f", "-t", "0", "-a"} }
func (*podman) restarted() int      { return 1 }
func (*podman) memory(m *meter) int64 {
	return m.pss(func(args string) bool { return !strings.HasPrefix(args, "podrun") })
}
func (p *podman) clean() { _ = run(p.removeAll()) }

// manifest writes n pods of two containers to a file; one pod is called name,
// several have a number after it.
func manifest(name string, n int) (string, error) {
	var b strings.Builder
	for i := range n {
		pod := name
		if n > 1 {
			pod = fmt.Sprintf("%s-%d", name, i)
		}
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Pod
metadata:
  name: %s
  labels: {app: myapp}
spec:
  containers:
  - name: container-1
    image: busybox
    imagePullPolicy: IfNotPresent
    command: ['sh', '-c', 'echo Hello Kubernetes! && sleep 3600']
  - name: container-2
    image: busybox
    imagePullPolicy: IfNotPresent
    command: ['sh', '-c', 'echo Hello Kubernetes! && sleep 3600']
`, pod)
	}
	file := filepath.Join(os.TempDir(), name+".yml")
	return file, os.WriteFile(file, []byte(b.String()), 0o600)
}
