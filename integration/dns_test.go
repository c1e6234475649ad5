package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
)

// lookUp looks names up in pod "asker" as programs do, and returns a line for
// each.
func (e *env) lookUp(names ...string) string {
	e.t.Helper()
	return e.ok(append([]string{"exec", "asker", "-c", "app", "--", "app", "lookup"}, names...)...)
}

// asker is a pod to ask from, with a web server on port 8080.
const asker = `{apiVersion: v1, kind: Pod, metadata: {name: asker}, spec: {terminationGracePeriodSeconds: 0, containers: [
  {name: app, image: app, command: [app, http]},
  {name: busybox, image: busybox, command: [sleep, "3600"]}]}}
---
`

// networkSettings writes the user's network.toml.
func (e *env) networkSettings(text string) {
	e.t.Helper()
	dir := filepath.Join(e.home, ".config", "podrun")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "network.toml"), []byte(text), 0o600); err != nil {
		e.t.Fatal(err)
	}
}

// TestNamesOfPods: pods find each other by name, through kill -9 of the node,
// and a name goes with its pod.
func TestNamesOfPods(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	member := func(name, hostname, namespace string) string {
		return fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: %s}, spec: {subdomain: group, %s terminationGracePeriodSeconds: 0, "+
			"containers: [{name: c, image: busybox, command: [sh, -c, 'mkdir /www; echo %s >/www/index.html; exec httpd -f -p 8080 -h /www']}]}}\n---\n", name, namespace, hostname, name)
	}
	e.apply("{apiVersion: v1, kind: Namespace, metadata: {name: team}}\n---\n" + asker +
		member("one", "", "default") + member("two", "hostname: second,", "default") + member("far", "", "team") +
		"{apiVersion: v1, kind: Pod, metadata: {name: unready}, spec: {terminationGracePeriodSeconds: 0, containers: [" +
		"{name: c, image: busybox, command: [sleep, '3600'], readinessProbe: {exec: {command: ['false']}}}]}}\n")
	self, one, two := e.ready("asker").Status, e.ready("one").Status, e.ready("two").Status
	far := strings.TrimSpace(e.ok("get", "pod", "far", "-n", "team", "-o", "jsonpath={.status.podIP}"))
	for far == "" {
		time.Sleep(50 * time.Millisecond)
		far = strings.TrimSpace(e.ok("get", "pod", "far", "-n", "team", "-o", "jsonpath={.status.podIP}"))
	}
	unready := e.when("unready", "has an address", func(p *corev1.Pod) bool { return p.Status.PodIP != "" }).Status
	sorted := func(a, b string) string {
		if a > b {
			a, b = b, a
		}
		return a + " " + b
	}
	all := func(when string) {
		t.Helper()
		for _, c := range []struct{ names, want string }{
			{"asker.default one one.default one.default.svc one.default.svc.cluster.local", self.PodIP + "\n" + strings.Repeat(one.PodIP+"\n", 4)},
			{"one.group second.group.default.svc.cluster.local SECOND.Group", one.PodIP + "\n" + two.PodIP + "\n" + two.PodIP + "\n"},
			{"group", sorted(one.PodIP, two.PodIP) + "\n"},
			{"far.team far.group.team.svc group.team", strings.Repeat(far+"\n", 3)},
			{strings.ReplaceAll(one.PodIP, ".", "-") + ".default.pod", one.PodIP + "\n"},
			{"-network=ip4 one.default.pod two.default.pod.cluster.local", one.PodIP + "\n" + two.PodIP + "\n"},
			{"unready", unready.PodIP + "\n"},
			{"far nosuch second one.team two.group default.svc.cluster.local", strings.Repeat("none\n", 6)},
			{"-type=ptr " + unready.PodIP + " " + two.PodIP, "unready.default.pod.cluster.local.\nsecond.group.default.svc.cluster.local.\n"},
			{"-type=txt one.default.svc.cluster.local", "none\n"},
		} {
			if got := e.lookUp(strings.Fields(c.names)...); got != c.want {
				t.Errorf("%s: %s: got %q, want %q", when, c.names, got, c.want)
			}
		}
		// C programs, with what they do with the search path.
		for _, name := range []string{"one", "one.default", "far.team"} {
			if got := e.ok("exec", "asker", "-c", "busybox", "--", "wget", "-q", "-O", "-", "http://"+name+":8080/"); got != strings.SplitN(name, ".", 2)[0]+"\n" {
				t.Errorf("%s: wget %s: %q", when, name, got)
			}
		}
	}
	all("at first")
	if len(self.PodIPs) == 2 { // IPv6 is there
		same(t, e.lookUp("-network=ip6", "asker.default.pod", "one.default.pod.cluster.local"), self.PodIPs[1].IP+"\n"+one.PodIPs[1].IP+"\n")
	}

	e.killNode()
	e.eventually("names after kill -9 of the node", func() string {
		if got := e.lookUp("one"); got != one.PodIP+"\n" {
			return got
		}
		return ""
	})
	all("after kill -9 of the node")

	e.ok("delete", "pod", "one", "--now")
	same(t, e.lookUp("one", "one.group", "group"), "none\nnone\n"+two.PodIP+"\n")
	if out := e.run("exec", "asker", "-c", "busybox", "--", "nslookup", one.PodIP).out; !strings.Contains(out, "NXDOMAIN") {
		t.Errorf("the address of a pod that is gone: %s", out)
	}
	e.apply(member("one", "", "default"))
	one = e.ready("one").Status
	same(t, e.lookUp("one", "group"), one.PodIP+"\n"+sorted(one.PodIP, two.PodIP)+"\n")
}

// TestHostResolvers: other names are asked of the host's resolvers, as its
// resolv.conf says at that moment.
func TestHostResolvers(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	conf := filepath.Join(e.home, "resolv.conf")
	write := func(text string) {
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing listens there.
	write("nameserver 127.0.53.9\nsearch lab.example home.example\noptions timeout:1 attempts:1\n")
	e.networkSettings("cluster-domain = \"podrun.test\"\nresolv-conf = \"" + conf + "\"\n")
	e.start(asker, "asker")
	same(t, e.ok("exec", "asker", "-c", "busybox", "--", "tail", "-n", "+2", "/etc/resolv.conf"),
		"search default.svc.podrun.test svc.podrun.test podrun.test lab.example home.example\noptions ndots:5\n")
	ip := e.pod("asker").Status.PodIP
	same(t, e.lookUp("asker.default", "asker.default.svc.podrun.test", "nosuch.default.svc.podrun.test.", "www.example."), ip+"\n"+ip+"\nnone\nfailed\n")
	e.policies()

	if os.Geteuid() != 0 {
		return // port 53 is root's; package cni has the rest of it in namespaces of its own
	}
	var mu sync.Mutex
	asked := map[string]int{}
	for _, at := range []string{"127.0.53.1", "127.0.53.2"} {
		answer := func(w dns.ResponseWriter, q *dns.Msg) {
			name := q.Question[0].Name
			mu.Lock()
			asked[name]++
			mu.Unlock()
			m := new(dns.Msg).SetReply(q)
			m.Rcode = dns.RcodeNameError
			if name == "www.example." || name == "www.lab.example." {
				m.Rcode = dns.RcodeSuccess
				if q.Question[0].Qtype == dns.TypeA {
					m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(at)}}
				}
			}
			_ = w.WriteMsg(m)
		}
		packets, err := net.ListenPacket("udp", at+":53")
		if err != nil {
			t.Fatal(err)
		}
		server := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(answer)}
		var wait sync.WaitGroup
		t.Cleanup(wait.Wait)
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		wait.Go(func() { _ = server.ActivateAndServe() })
		<-started
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	write("nameserver 127.0.53.1\n")
	same(t, e.lookUp("www.example.", "www", "nosuch.example."), "127.0.53.1\n127.0.53.1\nnone\n")
	write("nameserver 127.0.53.2\n")
	same(t, e.lookUp("www.example."), "127.0.53.2\n")
	// The first is not there: the second answers, and at once.
	write("nameserver 127.0.53.9\nnameserver 127.0.53.1\n")
	began := time.Now()
	same(t, e.lookUp("www.example.", "www"), "127.0.53.1\n127.0.53.1\n")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	same(t, e.lookUp("-network=ip4", "asker.default.pod", "nosuch", "nosuch.default.pod", "host.docker.internal.nosuch.svc"), ip+"\nnone\nnone\nnone\n")
	mu.Lock()
	defer mu.Unlock()
	for name := range asked {
		if strings.HasSuffix(name, ".podrun.test.") || strings.HasSuffix(name, ".pod.") || strings.HasSuffix(name, ".svc.") {
			t.Errorf("the host's resolvers were asked for %s", name)
		}
	}
	if asked["www.example."] == 0 || asked["www.lab.example."] == 0 {
		t.Errorf("they were asked %v", asked)
	}
}

// policies looks at the resolv.conf of pods with each dnsPolicy.
func (e *env) policies() {
	e.t.Helper()
	e.apply(podYAML("default", "dnsPolicy: Default", "c=exec sleep 3600") + "---\n" +
		podYAML("none", "dnsPolicy: None\ndnsConfig: {nameservers: [192.0.2.1], searches: [a.example], options: [{name: ndots, value: '2'}, {name: edns0}]}", "c=exec sleep 3600") + "---\n" +
		podYAML("merged", "dnsConfig: {nameservers: [192.0.2.1, 192.0.2.2, 192.0.2.3], searches: [a.example, lab.example], options: [{name: ndots, value: '1'}]}", "c=exec sleep 3600"))
	node := strings.SplitN(e.ok("exec", "asker", "-c", "busybox", "--", "cat", "/etc/resolv.conf"), "\n", 2)[0]
	for name, want := range map[string]string{
		"default": node + "\nsearch lab.example home.example\noptions timeout:1 attempts:1\n",
		"none":    "nameserver 192.0.2.1\nsearch a.example\noptions ndots:2 edns0\n",
		"merged":  node + "\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch default.svc.podrun.test svc.podrun.test podrun.test lab.example home.example a.example\noptions ndots:1\n",
	} {
		e.ready(name)
		same(e.t, e.ok("exec", name, "--", "cat", "/etc/resolv.conf"), want)
	}
	mustContain(e.t, e.ok("describe", "pod", "merged"), "DNSConfigForming", "Nameserver limits were exceeded")
	e.ok("delete", "pod", "default", "none", "merged", "--now")
}
