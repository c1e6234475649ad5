package supervisor

import (
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/sandbox"
)

func ptr[T any](v T) *T { return &v }

// apply gives what the security contexts of a pod make of a container whose
// image says it runs as user.
func apply(t *testing.T, user string, ps *corev1.PodSecurityContext, cs *corev1.SecurityContext) (sandbox.ContainerConfig, error) {
	t.Helper()
	p := onePod()
	p.Spec.SecurityContext = ps
	spec := &corev1.Container{Name: "c", SecurityContext: cs}
	cfg := sandbox.ContainerConfig{User: user}
	return cfg, applySecurity(&cfg, p, spec, "/profiles")
}

func TestUserOfContainer(t *testing.T) {
	for _, c := range []struct {
		name, image string
		pod         *corev1.PodSecurityContext
		container   *corev1.SecurityContext
		want        string
	}{
		{"the image's", "www:www", nil, nil, "www:www"},
		{"the pod's user", "www", &corev1.PodSecurityContext{RunAsUser: ptr(int64(7))}, nil, "7"},
		{"the container's before the pod's", "", &corev1.PodSecurityContext{RunAsUser: ptr(int64(7)), RunAsGroup: ptr(int64(8))}, &corev1.SecurityContext{RunAsUser: ptr(int64(9))}, "9:8"},
		{"a group alone", "www:www", nil, &corev1.SecurityContext{RunAsGroup: ptr(int64(8))}, "www:8"},
		{"a group and no user", "", nil, &corev1.SecurityContext{RunAsGroup: ptr(int64(8))}, "0:8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := apply(t, c.image, c.pod, c.container)
			if err != nil || cfg.User != c.want {
				t.Errorf("got %q, %v, want %q", cfg.User, err, c.want)
			}
		})
	}
}

func TestGroupsOfContainer(t *testing.T) {
	cfg, err := apply(t, "", &corev1.PodSecurityContext{
		FSGroup: ptr(int64(5)), SupplementalGroups: []int64{6, 7}, SupplementalGroupsPolicy: ptr(corev1.SupplementalGroupsPolicyStrict),
	}, nil)
	if err != nil || !slices.Equal(cfg.SupplementalGroups, []int{5, 6, 7}) || !cfg.StrictGroups {
		t.Errorf("got %v, strict %v, %v", cfg.SupplementalGroups, cfg.StrictGroups, err)
	}
}

func TestNonRoot(t *testing.T) {
	for _, c := range []struct {
		user string
		own  *int64
		want string
	}{
		{"", ptr(int64(1000)), ""},
		{"1000:0", nil, ""},
		{"1000", ptr(int64(0)), `container's runAsUser breaks non-root policy (pod: "web_default(u)", container: c)`},
		{"", nil, "container has runAsNonRoot and image will run as root (pod: "},
		{"0:5", nil, "container has runAsNonRoot and image will run as root (pod: "},
		{"www", nil, "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root (pod: "},
	} {
		_, err := apply(t, c.user, nil, &corev1.SecurityContext{RunAsNonRoot: ptr(true), RunAsUser: c.own})
		if (c.want == "") != (err == nil) || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("user %q: got %v, want %q", c.user, err, c.want)
		}
	}
}

func TestCapabilities(t *testing.T) {
	type list = []corev1.Capability
	known := append(sandbox.DefaultCapabilities(), "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_TIME")
	all := len(known)
	usual := len(sandbox.DefaultCapabilities())
	for _, c := range []struct {
		name      string
		add, drop list
		size      int
		with      []string
		without   []string
	}{
		{"no change", nil, nil, usual, nil, nil},
		{"drop all, add two", list{"NET_ADMIN", "cap_chown"}, list{"ALL"}, 2, []string{"CAP_CHOWN", "CAP_NET_ADMIN"}, nil},
		{"drop one", nil, list{"CHOWN"}, usual - 1, nil, []string{"CAP_CHOWN"}},
		{"add all, drop one", list{"ALL"}, list{"SYS_ADMIN"}, all - 1, nil, []string{"CAP_SYS_ADMIN"}},
		{"dropped wins over added", list{"SYS_TIME"}, list{"SYS_TIME"}, usual, nil, []string{"CAP_SYS_TIME"}},
		{"drop all wins over add all", list{"ALL"}, list{"all"}, 0, nil, nil},
		{"added twice", list{"CHOWN", "CAP_CHOWN"}, nil, usual, []string{"CAP_CHOWN"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := capabilities(&corev1.Capabilities{Add: c.add, Drop: c.drop}, known)
			if err != nil || len(got) != c.size || got == nil {
				t.Errorf("got %v, %v, want %d", got, err, c.size)
			}
			for _, name := range c.with {
				if !slices.Contains(got, name) {
					t.Errorf("got %v, want %s in it", got, name)
				}
			}
			for _, name := range c.without {
				if slices.Contains(got, name) {
					t.Errorf("got %v, want no %s in it", got, name)
				}
			}
		})
	}
	if _, err := capabilities(&corev1.Capabilities{Add: list{"FLY"}}, known); err == nil || err.Error() != `capability "FLY" is not one that podrun has to give` {
		t.Errorf("unknown capability: %v", err)
	}
}

func TestPrivileged(t *testing.T) {
	cfg, err := apply(t, "", &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		&corev1.SecurityContext{Privileged: ptr(true), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}})
	if err != nil || !cfg.Privileged || cfg.Seccomp != seccompUnconfined || len(cfg.Capabilities) != len(sandbox.AllCapabilities()) {
		t.Errorf("got %+v, %v", cfg, err)
	}
}

func TestSeccompProfile(t *testing.T) {
	local := func(name string) *corev1.SeccompProfile {
		return &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: &name}
	}
	for _, c := range []struct {
		profile   *corev1.SeccompProfile
		want, err string
	}{
		{nil, "", ""},
		{&corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}, "", ""},
		{&corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}, "unconfined", ""},
		{local("profiles/audit.json"), "/dir/profiles/audit.json", ""},
		{local("../store.db"), "", `localhostProfile "../store.db" is not a path below /dir`},
		{local("/etc/passwd"), "", `localhostProfile "/etc/passwd" is not a path below /dir`},
	} {
		got, err := seccompProfile(c.profile, "/dir")
		if got != c.want || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("%v: got %q, %v, want %q, %q", c.profile, got, err, c.want, c.err)
		}
	}
}

func TestWhatTheMachineRefuses(t *testing.T) {
	localhost := &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: ptr("k8s-deny-write")}
	usual := &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	labels := &corev1.SELinuxOptions{Level: "s0:c1,c2"}
	off := ptr(false)
	for _, c := range []struct {
		name             string
		m                machine
		pod              *corev1.PodSecurityContext
		container        *corev1.SecurityContext
		hostUsers        *bool
		refused, ignored string
	}{
		{name: "nothing asked for", m: machine{}},
		{name: "a profile where there is no AppArmor", container: &corev1.SecurityContext{AppArmorProfile: localhost},
			refused: "spec.containers[0].securityContext.appArmorProfile: Forbidden: Cannot enforce AppArmor: AppArmor is not enabled on the host"},
		{name: "a profile", m: machine{appArmor: true}, pod: &corev1.PodSecurityContext{AppArmorProfile: localhost}},
		{name: "the default profile", m: machine{appArmor: true}, pod: &corev1.PodSecurityContext{AppArmorProfile: usual},
			ignored: "spec.securityContext.appArmorProfile: podrun loads no AppArmor profile"},
		{name: "labels", pod: &corev1.PodSecurityContext{SELinuxOptions: labels}, ignored: "spec.securityContext.seLinuxOptions: SELinux is not enabled on the host"},
		{name: "labels where there is SELinux", m: machine{seLinux: true}, container: &corev1.SecurityContext{SELinuxOptions: labels},
			refused: "spec.containers[0].securityContext.seLinuxOptions: Forbidden: podrun sets no SELinux labels"},
		{name: "hostUsers as a user", m: machine{rootless: true}, hostUsers: off},
		{name: "hostUsers as root", m: machine{noUsers: func() error { return nil }}, hostUsers: off},
		{name: "hostUsers as root without IDs", m: machine{noUsers: func() error { return hint.Wrap(errors.New("no IDs"), "give it some") }}, hostUsers: off,
			refused: "spec.hostUsers: Forbidden: podrun as root cannot give the pod users of its own: no IDs; give it some"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := onePod()
			p.Spec.SecurityContext, p.Spec.Containers[0].SecurityContext, p.Spec.HostUsers = c.pod, c.container, c.hostUsers
			refused, ignored := c.m.check(p)
			var got, gotIgnored []string
			for _, e := range refused {
				got = append(got, e.Error())
			}
			for _, i := range ignored {
				gotIgnored = append(gotIgnored, i.Field+": "+i.Reason)
			}
			if s := strings.Join(got, "\n"); s != c.refused {
				t.Errorf("refused %q, want %q", s, c.refused)
			}
			if s := strings.Join(gotIgnored, "\n"); s != c.ignored {
				t.Errorf("ignored %q, want %q", s, c.ignored)
			}
		})
	}
}

func TestSysctlForbidden(t *testing.T) {
	for _, c := range []struct {
		sysctl  string
		net     bool
		ipc     bool
		message string
	}{
		{"net.core.somaxconn", false, true, ""},
		{"kernel.shm_rmid_forced", true, false, ""},
		{"kernel/shm_rmid_forced", true, false, ""},
		{"fs.mqueue.msg_max", false, false, ""},
		{"net.core.somaxconn", true, false, `forbidden sysctl: "net.core.somaxconn" not allowed with host net enabled`},
		{"kernel.sem", false, true, `forbidden sysctl: "kernel.sem" not allowed with host ipc enabled`},
		{"kernel.hostname", false, false, `forbidden sysctl: "kernel.hostname" not allowlisted`},
		{"vm/swappiness", false, false, `forbidden sysctl: "vm.swappiness" not allowlisted`},
		{"net..x", false, false, `forbidden sysctl: "net..x" not allowlisted`},
	} {
		p := onePod()
		p.Spec.HostNetwork, p.Spec.HostIPC = c.net, c.ipc
		p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: c.sysctl, Value: "1"}}}
		reason, message := rejection(p)
		if message != c.message || (reason == "SysctlForbidden") != (c.message != "") {
			t.Errorf("%s: got %q, %q, want %q", c.sysctl, reason, message, c.message)
		}
	}
}

func TestNodename(t *testing.T) {
	s := &Supervisor{node: "machine"}
	long := strings.Repeat("a", 40)
	for _, c := range []struct {
		name       string
		change     func(*corev1.PodSpec)
		want, fail string
	}{
		{"the pod's name", func(*corev1.PodSpec) {}, "web", ""},
		{"its hostname", func(s *corev1.PodSpec) { s.Hostname = "h" }, "h", ""},
		{"a subdomain changes nothing", func(s *corev1.PodSpec) { s.Hostname, s.Subdomain = "h", "sub" }, "h", ""},
		{"unless it is to be seen", func(s *corev1.PodSpec) { s.Subdomain, s.SetHostnameAsFQDN = "sub", ptr(true) }, "web.sub.default.svc.cluster.local", ""},
		{"no subdomain, nothing to see", func(s *corev1.PodSpec) { s.SetHostnameAsFQDN = ptr(true) }, "web", ""},
		{"an override", func(s *corev1.PodSpec) {
			s.Hostname, s.Subdomain, s.HostnameOverride = "h", "sub", ptr("web.example.org")
		}, "web.example.org", ""},
		{"the host's network", func(s *corev1.PodSpec) { s.Hostname, s.HostNetwork = "h", true }, "machine", ""},
		{"too long", func(s *corev1.PodSpec) { s.Hostname, s.Subdomain, s.SetHostnameAsFQDN = long, "sub", ptr(true) }, "",
			"failed to construct FQDN from pod hostname and cluster domain, FQDN " + long + ".sub.default.svc.cluster.local is too long (64 characters is the max, 70 characters requested)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := onePod()
			c.change(&p.Spec)
			got, err := s.nodename(p)
			if got != c.want || (err == nil) != (c.fail == "") || err != nil && err.Error() != c.fail {
				t.Errorf("got %q, %v, want %q, %q", got, err, c.want, c.fail)
			}
		})
	}
}

func TestResolvConfOfHostNetwork(t *testing.T) {
	host := cni.DNS{Servers: []string{"127.0.0.53"}, Options: []string{"edns0", "trust-ad"}}
	for policy, want := range map[corev1.DNSPolicy]string{
		corev1.DNSClusterFirst: "nameserver 127.0.0.53\noptions edns0 trust-ad\n",
		corev1.DNSDefault:      "nameserver 127.0.0.53\noptions edns0 trust-ad\n",
	} {
		p := onePod()
		p.Spec.HostNetwork, p.Spec.DNSPolicy = true, policy
		if got, omitted := resolvConf(p, host); got != want || omitted != nil {
			t.Errorf("%s: got %q, %v, want %q", policy, got, omitted, want)
		}
	}
}

func TestLimitsOfResolvConf(t *testing.T) {
	p := onePod()
	p.Spec.DNSPolicy = corev1.DNSDefault
	p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "10.0.0.1", "8.8.8.8", "9.9.9.9"}, Searches: []string{"a", strings.Repeat("b", 254)}}
	for range 40 {
		p.Spec.DNSConfig.Searches = append(p.Spec.DNSConfig.Searches, "s"+strings.Repeat("x", len(p.Spec.DNSConfig.Searches)))
	}
	got, omitted := resolvConf(p, cni.DNS{Servers: []string{"10.0.0.1"}})
	lines := strings.Split(got, "\n")
	if n := len(strings.Fields(lines[3])) - 1; n != 31 { // 32, less the long one
		t.Errorf("%d searches", n)
	}
	if lines[0] != "nameserver 10.0.0.1" || lines[1] != "nameserver 1.1.1.1" || lines[2] != "nameserver 8.8.8.8" || len(lines) != 5 {
		t.Errorf("got %q", got)
	}
	if len(omitted) != 2 || omitted[0].message != "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 10.0.0.1 1.1.1.1 8.8.8.8" ||
		!strings.HasPrefix(omitted[1].message, "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: a ") {
		t.Errorf("omitted %+v", omitted)
	}
	long := make([]string, 32)
	for i := range long {
		long[i] = strings.Repeat("d", 100+i)
	}
	if got := len(strings.Join(fitSearches(long), " ")); got > 2048 {
		t.Errorf("search line of %d", got)
	}
}
