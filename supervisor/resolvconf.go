package supervisor

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/cni"
)

// What the kubelet lets into a resolv.conf (pkg/kubelet/network/dns of
// Kubernetes); glibc aborts on a search path over 255 characters.
const (
	maxNameservers    = 3
	maxSearches       = 32
	maxSearch         = 253
	maxSearchesLength = 2048
)

// resolvConf is /etc/resolv.conf for the pod's dnsPolicy and dnsConfig as the
// kubelet makes it
// (https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/).
// The node answers on the pod network, for the host's resolvers too: Default
// differs from ClusterFirst in the search path and the options only. In the
// host's network and in one that has resolvers of its own dns has these, and
// pods' names are not known: ClusterFirst is then Default, as it is for a
// kubelet without a cluster DNS. warnings tells, by an event's reason and in
// the kubelet's words, what was left out.
func resolvConf(p *corev1.Pod, dns cni.DNS) (content string, warnings []note) {
	warn := func(reason, message string) {
		warnings = append(warnings, note{kind: corev1.EventTypeWarning, reason: reason, message: message})
	}
	servers, searches, options := dns.Servers, dns.Searches, dns.Options
	switch policy := dnsPolicy(p); {
	case policy == corev1.DNSNone:
		servers, searches, options = nil, nil, nil
	case policy == corev1.DNSDefault:
	case dns.ClusterDomain == "":
		warn("MissingClusterDNS", fmt.Sprintf("The node's DNS is not reachable from this pod's network and cannot be used with %q policy. Falling back to %q policy.", p.Spec.DNSPolicy, corev1.DNSDefault))
	default:
		domain := dns.ClusterDomain
		searches = unique([]string{p.Namespace + ".svc." + domain, "svc." + domain, domain}, searches)
		options = []string{"ndots:5"}
	}
	if c := p.Spec.DNSConfig; c != nil {
		servers = unique(servers, c.Nameservers)
		searches = unique(searches, c.Searches)
		for _, o := range c.Options {
			option := o.Name
			if o.Value != nil && *o.Value != "" {
				option += ":" + *o.Value
			}
			options = replaceOption(options, o.Name, option)
		}
	}
	if len(servers) > maxNameservers {
		servers = servers[:maxNameservers]
		warn("DNSConfigForming", "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "+strings.Join(servers, " "))
	}
	if fit := fitSearches(searches); len(fit) < len(searches) {
		searches = fit
		warn("DNSConfigForming", "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "+strings.Join(searches, " "))
	}
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(searches, " "))
	}
	if len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	return b.String(), warnings
}

// dnsPolicy is the policy that counts for the pod's network.
func dnsPolicy(p *corev1.Pod) corev1.DNSPolicy {
	if p.Spec.DNSPolicy == corev1.DNSClusterFirst && p.Spec.HostNetwork {
		return corev1.DNSDefault
	}
	return p.Spec.DNSPolicy
}

// fitSearches leaves out what is too long by itself, and the last ones when
// they are too many or too long together.
func fitSearches(searches []string) []string {
	fit := searches[:min(len(searches), maxSearches):min(len(searches), maxSearches)]
	fit = slices.DeleteFunc(slices.Clone(fit), func(s string) bool { return len(s) > maxSearch })
	for len(strings.Join(fit, " ")) > maxSearchesLength {
		fit = fit[:len(fit)-1]
	}
	return fit
}

// unique joins lists; of what is in them twice the first stays.
func unique(lists ...[]string) []string {
	var out []string
	for _, s := range slices.Concat(lists...) {
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
