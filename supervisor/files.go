package supervisor

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/sandbox"
)

// filesDir holds the files that all containers of the pod share below /etc.
func (w *worker) filesDir() string {
	return filepath.Join(w.s.paths.State, "pods", string(w.uid))
}

// etcMounts are the mounts of those files.
func (w *worker) etcMounts() []sandbox.Mount {
	var mounts []sandbox.Mount
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		mounts = append(mounts, sandbox.Mount{Source: filepath.Join(w.filesDir(), name), Destination: "/etc/" + name})
	}
	return mounts
}

// writeFiles writes them with what is known of p's network; nil is nothing yet.
// They are written in place, never replaced: containers have them mounted. It
// is safe for concurrent use with the worker.
func (w *worker) writeFiles(p *corev1.Pod, result *cni.Result) error {
	dir := w.filesDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var network cni.Result
	if result != nil {
		network = *result
	}
	resolver, warnings := resolvConf(p, network.DNS)
	if result != nil {
		for _, n := range warnings {
			w.warn(n.reason, "", n.message)
		}
	}
	hosts := hostsFile(p, network, w.s.clusterDomain())
	if p.Spec.HostNetwork {
		host, err := os.ReadFile("/etc/hosts")
		if err != nil {
			return err
		}
		hosts = hostHostsFile(string(host), p.Spec.HostAliases)
	}
	name, err := w.s.nodename(p)
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"hosts":       hosts,
		"hostname":    name + "\n",
		"resolv.conf": resolver,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// hostname is the pod's host name: spec.hostnameOverride, spec.hostname, or the
// pod's name cut to what DNS takes, as the kubelet does it.
func hostname(p *corev1.Pod) string {
	if o := p.Spec.HostnameOverride; o != nil && *o != "" {
		return *o
	}
	name := first(p.Spec.Hostname, p.Name)
	const limit = 63
	if len(name) > limit {
		name = strings.TrimRight(name[:limit], "-.")
	}
	return name
}

// clusterDomain is the domain of pods' names.
func (s *Supervisor) clusterDomain() string {
	if s.network == nil {
		return cni.DefaultClusterDomain
	}
	return s.network.ClusterDomain()
}

// fqdn is the pod's name in the domain of its subdomain, "" without one.
func fqdn(p *corev1.Pod, domain string) string {
	if p.Spec.Subdomain == "" || p.Spec.HostnameOverride != nil && *p.Spec.HostnameOverride != "" {
		return ""
	}
	return hostname(p) + "." + p.Spec.Subdomain + "." + p.Namespace + ".svc." + domain
}

// nodename is what uname(2) and /etc/hostname tell in the pod. With the host's
// network it is the host's.
func (s *Supervisor) nodename(p *corev1.Pod) (string, error) {
	if p.Spec.HostNetwork {
		return s.node, nil
	}
	full := fqdn(p, s.clusterDomain())
	if full == "" || !isTrue(p.Spec.SetHostnameAsFQDN) {
		return hostname(p), nil
	}
	const limit = 64 // utsname(2)
	if len(full) > limit {
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)", full, limit, len(full))
	}
	return full, nil
}

// hostNames are what pods call the host: our name, docker's and podman's.
const hostNames = "host.podrun.internal host.docker.internal host.containers.internal"

// hostsFile is /etc/hosts as the kubelet writes it.
func hostsFile(p *corev1.Pod, network cni.Result, domain string) string {
	var b strings.Builder
	b.WriteString("# Kubernetes-managed hosts file.\n" +
		"127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\n" +
		"fe00::0\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\n" +
		"fe00::2\tip6-allrouters\n")
	for _, ip := range network.IPs {
		if full := fqdn(p, domain); full != "" {
			fmt.Fprintf(&b, "%s\t%s\t%s\n", ip.Addr(), full, hostname(p))
		} else {
			fmt.Fprintf(&b, "%s\t%s\n", ip.Addr(), hostname(p))
		}
	}
	if network.HostIP.IsValid() {
		fmt.Fprintf(&b, "%s\t%s\n", network.HostIP, hostNames)
	}
	writeAliases(&b, p.Spec.HostAliases)
	return b.String()
}

// hostHostsFile is /etc/hosts of a pod in the host's network: the host's own,
// and the pod's aliases.
func hostHostsFile(host string, aliases []corev1.HostAlias) string {
	var b strings.Builder
	b.WriteString("# Kubernetes-managed hosts file (host network).\n" + host)
	writeAliases(&b, aliases)
	return b.String()
}

func writeAliases(b *strings.Builder, aliases []corev1.HostAlias) {
	if len(aliases) == 0 {
		return
	}
	b.WriteString("\n# Entries added by HostAliases.\n")
	for _, a := range aliases {
		fmt.Fprintf(b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
	}
}

// putAddress copies the pod's addresses from the network's answer; nil is none
// yet.
func putAddress(p *corev1.Pod, network *cni.Result) {
	if network == nil || len(network.IPs) == 0 {
		return
	}
	p.Status.PodIPs = nil
	for _, ip := range network.IPs {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip.Addr().String()})
	}
	p.Status.PodIP = p.Status.PodIPs[0].IP
}

func parseAddr(s string) netip.Addr {
	a, _ := netip.ParseAddr(s) // "" gives the zero Addr: no wish
	return a
}

// sysctls are the kernel parameters that the pod asks for.
func sysctls(p *corev1.Pod) map[string]string {
	if p.Spec.SecurityContext == nil {
		return nil
	}
	m := map[string]string{}
	for _, s := range p.Spec.SecurityContext.Sysctls {
		m[s.Name] = s.Value
	}
	return m
}
