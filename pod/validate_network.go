package pod

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const maxHostname = 64 // as sethostname has it

// network checks the names of the pod, and what it asks of its network.
func (v *validator) network(at *field.Path) {
	s := v.spec
	if s.Hostname != "" {
		v.label(at.Child("hostname"), s.Hostname)
	}
	if s.Subdomain != "" {
		v.label(at.Child("subdomain"), s.Subdomain)
	}
	if name := s.HostnameOverride; name != nil {
		at := at.Child("hostnameOverride")
		if deref(s.SetHostnameAsFQDN) {
			v.forbidden(at, "may not be specified when setHostnameAsFQDN is true")
		}
		if s.HostNetwork {
			v.forbidden(at, "may not be specified when hostNetwork is true")
		}
		if len(*name) > maxHostname {
			v.add(field.TooLong(at, "", maxHostname))
		}
		v.invalid(at, *name, validation.IsDNS1123Subdomain(*name)...)
	}
	for i, a := range s.HostAliases {
		at := at.Child("hostAliases").Index(i)
		v.ip(at.Child("ip"), a.IP)
		for j, name := range a.Hostnames {
			v.invalid(at.Child("hostnames").Index(j), name, validation.IsDNS1123Subdomain(name)...)
		}
	}
	if s.HostNetwork {
		for i, c := range s.Containers {
			for j, p := range c.Ports {
				if p.HostPort != p.ContainerPort {
					v.invalid(at.Child("containers").Index(i).Child("ports").Index(j).Child("hostPort"), p.HostPort,
						"must match `containerPort` when `hostNetwork` is true")
				}
			}
		}
	}
	v.dns(at)
}

func (v *validator) ip(at *field.Path, value string) {
	v.all(validation.IsValidIPForLegacyField(at, value, true, nil))
}

// The limits of what a resolver reads from resolv.conf.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

func (v *validator) dns(at *field.Path) {
	policy, c := v.spec.DNSPolicy, v.spec.DNSConfig
	if policy == "" {
		v.required(at.Child("dnsPolicy"), "")
	} else {
		oneOf(v, at.Child("dnsPolicy"), policy, corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	}
	at = at.Child("dnsConfig")
	if policy == corev1.DNSNone && c == nil {
		v.required(at, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", policy))
	}
	if c == nil {
		return
	}
	servers, searches := at.Child("nameservers"), at.Child("searches")
	if policy == corev1.DNSNone && len(c.Nameservers) == 0 {
		v.required(servers, fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", policy))
		return
	}
	if len(c.Nameservers) > maxNameservers {
		v.invalid(servers, c.Nameservers, fmt.Sprintf("must not have more than %d nameservers", maxNameservers))
	}
	for i, server := range c.Nameservers {
		v.ip(servers.Index(i), server)
	}
	if len(c.Searches) > maxSearches {
		v.invalid(searches, c.Searches, fmt.Sprintf("must not have more than %d search paths", maxSearches))
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchChars {
		v.invalid(searches, c.Searches, fmt.Sprintf("must not have more than %d characters (including spaces) in the search list", maxSearchChars))
	}
	for i, search := range c.Searches {
		if search != "." {
			search = strings.TrimSuffix(search, ".")
			v.invalid(searches.Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(search)...)
		}
	}
	for i, o := range c.Options {
		if o.Name == "" {
			v.required(at.Child("options").Index(i), "must not be empty")
		}
	}
}
