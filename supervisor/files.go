package supervisor

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
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

// writeFiles writes them into dir with what is known of p's network; nil is
// nothing yet. They are written in place, never replaced: containers have them
// mounted.
func writeFiles(dir string, p *corev1.Pod, result *cni.Result) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var network cni.Result
	if result != nil {
		network = *result
	}
	for name, content := range map[string]string{
		"hosts":       hostsFile(p, network),
		"hostname":    hostname(p) + "\n",
		"resolv.conf": resolvConf(p, network.DNS),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// hostname is the pod's host name: spec.hostname, or the pod's name cut to
// what the kernel takes, as the kubelet does it.
func hostname(p *corev1.Pod) string {
	name := first(p.Spec.Hostname, p.Name)
	const limit = 63
	if len(name) > limit {
		name = strings.TrimRight(name[:limit], "-.")
	}
	return name
}

// hostsFile is /etc/hosts as the kubelet writes it.
func hostsFile(p *corev1.Pod, network cni.Result) string {
	var b strings.Builder
	b.WriteString("# Kubernetes-managed hosts file.\n" +
		"127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\n" +
		"fe00::0\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\n" +
		"fe00::2\tip6-allrouters\n")
	for _, ip := range network.IPs {
		if p.Spec.Subdomain != "" {
			fmt.Fprintf(&b, "%s\t%s.%s.%s.svc.cluster.local\t%s\n", ip.Addr(), hostname(p), p.Spec.Subdomain, p.Namespace, hostname(p))
		} else {
			fmt.Fprintf(&b, "%s\t%s\n", ip.Addr(), hostname(p))
		}
	}
	if network.HostIP.IsValid() {
		fmt.Fprintf(&b, "%s\thost.podrun.internal\n", network.HostIP)
	}
	if len(p.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range p.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.String()
}

// resolvConf is /etc/resolv.conf for the pod's dnsPolicy and dnsConfig
// (https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/).
// The gateway of the pod network answers for the host's resolvers, so that
// ClusterFirst and Default differ only in ndots.
func resolvConf(p *corev1.Pod, dns cni.DNS) string {
	servers, searches, options := dns.Servers, dns.Searches, dns.Options
	switch p.Spec.DNSPolicy {
	case corev1.DNSNone:
		servers, searches, options = nil, nil, nil
	case corev1.DNSDefault:
	default:
		options = append(options[:len(options):len(options)], "ndots:5")
	}
	if c := p.Spec.DNSConfig; c != nil {
		servers = appendNew(servers, c.Nameservers...)
		searches = appendNew(searches, c.Searches...)
		for _, o := range c.Options {
			option := o.Name
			if o.Value != nil {
				option += ":" + *o.Value
			}
			options = replaceOption(options, o.Name, option)
		}
	}
	var b strings.Builder
	if len(searches) > 0 {
		b.WriteString("search " + strings.Join(searches, " ") + "\n")
	}
	for _, s := range servers {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(options) > 0 {
		b.WriteString("options " + strings.Join(options, " ") + "\n")
	}
	return b.String()
}

func appendNew(list []string, more ...string) []string {
	out := list[:len(list):len(list)]
	for _, s := range more {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// replaceOption puts option in the place of one of the same name, or last.
func replaceOption(options []string, name, option string) []string {
	out := make([]string, 0, len(options)+1)
	for _, o := range options {
		if o != name && !strings.HasPrefix(o, name+":") {
			out = append(out, o)
		}
	}
	return append(out, option)
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
