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

// resolvConf is /etc/resolv.conf for the pod's dnsPolicy and dnsConfig
// (https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/).
// The gateway of the pod network answers for the host's resolvers, so that
// ClusterFirst and Default differ only in ndots; in the host's network, where
// there is no gateway, dns has the host's resolvers. omitted tells, in the
// kubelet's words, what had to be left out.
func resolvConf(p *corev1.Pod, dns cni.DNS) (content string, omitted []string) {
	servers, searches, options := dns.Servers, dns.Searches, dns.Options
	switch policy := p.Spec.DNSPolicy; {
	case policy == corev1.DNSNone:
		servers, searches, options = nil, nil, nil
	case policy == corev1.DNSDefault, policy == corev1.DNSClusterFirst && p.Spec.HostNetwork:
	default:
		options = []string{"ndots:5"}
	}
	if c := p.Spec.DNSConfig; c != nil {
		servers = appendNew(servers, c.Nameservers...)
		searches = appendNew(searches, c.Searches...)
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
		omitted = append(omitted, "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "+strings.Join(servers, " "))
	}
	if fit := fitSearches(searches); len(fit) < len(searches) {
		searches = fit
		omitted = append(omitted, "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "+strings.Join(searches, " "))
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
	return b.String(), omitted
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
