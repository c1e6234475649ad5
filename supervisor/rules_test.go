package supervisor

import (
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/cni"
)

func onePod() *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "u"}}
	p.Spec.Containers = []corev1.Container{{Name: "a"}, {Name: "b"}}
	return p
}

func TestHostsFile(t *testing.T) {
	network := cni.Result{IPs: []netip.Prefix{netip.MustParsePrefix("10.88.0.2/16")}, HostIP: netip.MustParseAddr("10.88.255.253")}
	p := onePod()
	p.Spec.HostAliases = []corev1.HostAlias{{IP: "10.1.2.3", Hostnames: []string{"foo.remote", "bar.remote"}}}
	got := hostsFile(p, network, cni.DefaultClusterDomain)
	for _, want := range []string{
		"127.0.0.1\tlocalhost\n", "10.88.0.2\tweb\n", "10.88.255.253\thost.podrun.internal host.docker.internal host.containers.internal\n", "# Entries added by HostAliases.\n10.1.2.3\tfoo.remote\tbar.remote\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	p.Spec.Hostname, p.Spec.Subdomain = "front", "web-net"
	if got, want := hostsFile(p, network, cni.DefaultClusterDomain), "10.88.0.2\tfront.web-net.default.svc.cluster.local\tfront\n"; !strings.Contains(got, want) {
		t.Errorf("no %q in\n%s", want, got)
	}
}

func TestHostname(t *testing.T) {
	p := onePod()
	p.Name = strings.Repeat("a", 62) + "-b"
	if got := hostname(p); got != strings.Repeat("a", 62) {
		t.Errorf("hostname %q: 63 characters at most, and no dash at the end", got)
	}
}

func TestResolvConf(t *testing.T) {
	option := func(name, value string) corev1.PodDNSConfigOption {
		o := corev1.PodDNSConfigOption{Name: name}
		if value != "" {
			o.Value = &value
		}
		return o
	}
	node := cni.DNS{Servers: []string{"10.88.0.1"}, Searches: []string{"example.org", "cluster.local"}, Options: []string{"timeout:2", "rotate"}, ClusterDomain: "cluster.local"}
	foreign := cni.DNS{Servers: []string{"192.0.2.9"}, Searches: []string{"plugin.example"}}
	const cluster = "search default.svc.cluster.local svc.cluster.local cluster.local example.org"
	for _, c := range []struct {
		name   string
		policy corev1.DNSPolicy
		config *corev1.PodDNSConfig
		dns    cni.DNS
		host   bool
		want   string
		reason string
	}{
		{name: "cluster first", policy: corev1.DNSClusterFirst, dns: node, want: "nameserver 10.88.0.1\n" + cluster + "\noptions ndots:5\n"},
		{name: "cluster first with host net, in the pod network", policy: corev1.DNSClusterFirstWithHostNet, dns: node, want: "nameserver 10.88.0.1\n" + cluster + "\noptions ndots:5\n"},
		{name: "default", policy: corev1.DNSDefault, dns: node, want: "nameserver 10.88.0.1\nsearch example.org cluster.local\noptions timeout:2 rotate\n"},
		{name: "none", policy: corev1.DNSNone, dns: node,
			config: &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1", "192.0.2.1"}, Searches: []string{"my.dns.search"}, Options: []corev1.PodDNSConfigOption{option("ndots", "2"), option("edns0", "")}},
			want:   "nameserver 192.0.2.1\nsearch my.dns.search\noptions ndots:2 edns0\n"},
		{name: "merged", policy: corev1.DNSClusterFirst, dns: node,
			config: &corev1.PodDNSConfig{Nameservers: []string{"10.88.0.1", "192.0.2.1"}, Searches: []string{"more.example", "example.org"}, Options: []corev1.PodDNSConfigOption{option("ndots", "2"), option("ndots", "1"), option("edns0", "")}},
			want:   "nameserver 10.88.0.1\nnameserver 192.0.2.1\n" + cluster + " more.example\noptions ndots:1 edns0\n"},
		{name: "default, merged", policy: corev1.DNSDefault, dns: node,
			config: &corev1.PodDNSConfig{Options: []corev1.PodDNSConfigOption{option("timeout", "9")}},
			want:   "nameserver 10.88.0.1\nsearch example.org cluster.local\noptions rotate timeout:9\n"},
		{name: "a network with resolvers of its own", policy: corev1.DNSClusterFirst, dns: foreign,
			want: "nameserver 192.0.2.9\nsearch plugin.example\n", reason: "MissingClusterDNS"},
		{name: "host network", policy: corev1.DNSClusterFirst, dns: foreign, host: true, want: "nameserver 192.0.2.9\nsearch plugin.example\n"},
		{name: "cluster first with host net, there", policy: corev1.DNSClusterFirstWithHostNet, dns: foreign, host: true,
			want: "nameserver 192.0.2.9\nsearch plugin.example\n", reason: "MissingClusterDNS"},
		{name: "none, host network", policy: corev1.DNSNone, dns: foreign, host: true, config: &corev1.PodDNSConfig{Nameservers: []string{"2001:db8::1"}}, want: "nameserver 2001:db8::1\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := onePod()
			p.Spec.DNSPolicy, p.Spec.DNSConfig, p.Spec.HostNetwork = c.policy, c.config, c.host
			got, warnings := resolvConf(p, c.dns)
			if got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if (c.reason == "") != (len(warnings) == 0) || c.reason != "" && warnings[0].reason != c.reason {
				t.Errorf("warnings %+v, want %q", warnings, c.reason)
			}
		})
	}
}

func TestContainerIDs(t *testing.T) {
	seen := map[string]bool{}
	for _, id := range []string{containerID("u", "a", 0), containerID("u", "a", 1), containerID("u", "b", 0), containerID("v", "a", 0), containerID("u", "a\x001", 0)} {
		if len(id) != 64 || seen[id] {
			t.Errorf("id %q is not 64 digits of its own", id)
		}
		seen[id] = true
	}
	if first, again := containerID("u", "a", 1), containerID("u", "a", 1); first != again {
		t.Error("one incarnation has two ids")
	}
}

// RESTARTS, the sum over the containers, grows by one for one restart, however
// often a crash makes the node go through the same step.
func TestRestartIsCountedOnce(t *testing.T) {
	p := onePod()
	r := newRun(p)
	r.Restarting = "b"
	r.count(p)
	r.count(p)
	if a, b := statusOf(p, "a").RestartCount, statusOf(p, "b").RestartCount; a != 0 || b != 1 {
		t.Errorf("restart counts %d and %d, want 0 and 1", a, b)
	}
}

func TestPhase(t *testing.T) {
	now := time.Now()
	condition := func(p *corev1.Pod, c corev1.PodConditionType) corev1.ConditionStatus {
		for _, have := range p.Status.Conditions {
			if have.Type == c {
				return have.Status
			}
		}
		return ""
	}
	p := onePod()
	r := newRun(p)
	initStatus(p, "192.0.2.1", now)
	refresh(p, r, now)
	if p.Status.Phase != corev1.PodPending || condition(p, corev1.PodReady) != corev1.ConditionFalse {
		t.Errorf("a new pod is %s, ready %s", p.Status.Phase, condition(p, corev1.PodReady))
	}
	r.State = Running
	for _, name := range []string{"a", "b"} {
		c := &container{name: name, id: r.id(name), spec: specIn(p, name), started: now, role: Main, up: make(chan struct{})}
		close(c.up)
		c.ready.Store(true)
		setRunning(statusOf(p, name), c)
	}
	refresh(p, r, now)
	if p.Status.Phase != corev1.PodRunning || condition(p, corev1.PodReady) != corev1.ConditionTrue {
		t.Errorf("a running pod is %s, ready %s", p.Status.Phase, condition(p, corev1.PodReady))
	}
	setTerminated(statusOf(p, "a"), r.id("a"), end{code: 3, reason: reasonError, at: now})
	refresh(p, r, now)
	if p.Status.Phase != corev1.PodRunning || condition(p, corev1.PodReady) != corev1.ConditionFalse {
		t.Errorf("with one container ended it is %s, ready %s", p.Status.Phase, condition(p, corev1.PodReady))
	}
	r.Ended = &ended{Phase: corev1.PodFailed}
	if refresh(p, r, now); p.Status.Phase != corev1.PodRunning {
		t.Errorf("while the rest is being stopped it is %s", p.Status.Phase)
	}
	r.State = Finished
	if refresh(p, r, now); p.Status.Phase != corev1.PodFailed {
		t.Errorf("at its end it is %s", p.Status.Phase)
	}
	setWaiting(statusOf(p, "a"), reasonCrashLoop, "")
	if s := statusOf(p, "a"); s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 3 {
		t.Errorf("what ran before is lost: %+v", s)
	}
}

func TestQOSClass(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		l := corev1.ResourceList{}
		if cpu != "" {
			l[corev1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			l[corev1.ResourceMemory] = resource.MustParse(memory)
		}
		return l
	}
	p := onePod()
	if got := qosClass(p); got != corev1.PodQOSBestEffort {
		t.Errorf("without resources: %s", got)
	}
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list("1", ""), Limits: list("1", "1Gi")}
	if got := qosClass(p); got != corev1.PodQOSBurstable {
		t.Errorf("with some: %s", got)
	}
	for i := range p.Spec.Containers {
		p.Spec.Containers[i].Resources = corev1.ResourceRequirements{Requests: list("1", "1Gi"), Limits: list("1", "1Gi")}
	}
	if got := qosClass(p); got != corev1.PodQOSGuaranteed {
		t.Errorf("with all: %s", got)
	}
}

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]syscall.Signal{"": syscall.SIGTERM, "SIGQUIT": syscall.SIGQUIT, "quit": syscall.SIGQUIT, "9": syscall.SIGKILL, "nonsense": syscall.SIGTERM, "SIGRTMIN+3": 37, "SIGRTMAX": 64, "RTMAX-14": 50, "0": syscall.SIGTERM} {
		if got := parseSignal(in); got != want {
			t.Errorf("parseSignal(%q) = %v, want %v", in, got, want)
		}
	}
}

func TestEndsInWords(t *testing.T) {
	for want, e := range map[string]end{
		"exited with code 3": {code: 3}, "was killed by signal 9 (killed), exit code 137": {code: 137, signal: 9},
		"ran out of memory and was killed": {code: 137, signal: 9, reason: reasonOOM}, "could not be started: no such file": {code: 128, reason: reasonStart, message: "no such file"},
	} {
		if got := e.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
