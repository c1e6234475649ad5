package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// cniPlugins is where "make build/cni" put the plugins: beside the registry.
func cniPlugins(t *testing.T) string {
	t.Helper()
	dir := "../build/cni"
	if registry := os.Getenv("PODRUN_REGISTRY"); registry != "" {
		dir = filepath.Join(filepath.Dir(registry), "cni")
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "ptp"))
	}
	if err != nil {
		t.Fatalf("%v; make build/cni makes them", err)
	}
	return dir
}

// network writes a CNI network list into the user's folder.
func (e *env) network(name, version string, plugins ...string) {
	e.t.Helper()
	dir := filepath.Join(e.home, ".config/podrun/cni/net.d")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		e.t.Fatal(err)
	}
	list := fmt.Sprintf(`{"cniVersion":%q,"name":%q,"plugins":[%s]}`, version, name, strings.Join(plugins, ","))
	if err := os.WriteFile(filepath.Join(dir, name+".conflist"), []byte(list), 0o600); err != nil {
		e.t.Fatal(err)
	}
}

// webPod is a pod in a network that serves a page with its name, and 2 MB.
func webPod(name, annotations string) string {
	pod := podYAML(name, "", "c=mkdir /www; echo I am $(hostname) >/www/index.html; dd if=/dev/zero of=/www/big bs=64k count=32 2>/dev/null; exec httpd -f -p 80 -h /www")
	return strings.Replace(pod, "  labels:", "  annotations: {"+annotations+"}\n  labels:", 1) + "---\n"
}

// page asks a pod for another one's page.
func (e *env) page(from string, to *corev1.Pod) {
	e.t.Helper()
	same(e.t, e.ok("exec", from, "--", "wget", "-q", "-O", "-", "http://"+to.Status.PodIP+"/"), "I am "+to.Name+"\n")
}

// TestNetworksOfPlugins: pods in networks of the plugins that all use, each of
// another version of CNI, beside pods of the built-in network.
func TestNetworksOfPlugins(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "CNI_PATH="+cniPlugins(t))
	e.network("wires", "1.1.0",
		`{"type":"ptp","ipam":{"type":"host-local","ranges":[[{"subnet":"10.77.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}`,
		`{"type":"tuning","sysctl":{"net.ipv4.conf.eth0.accept_redirects":"0"},"mtu":1400}`,
		`{"type":"bandwidth","capabilities":{"bandwidth":true}}`)
	e.network("lan", "1.0.0",
		`{"type":"macvlan","master":"podrun0","mode":"bridge","capabilities":{"ips":true,"mac":true},"ipam":{"type":"static","routes":[{"dst":"0.0.0.0/0","gw":"10.88.0.1"}]}}`)
	e.network("switch", "0.4.0",
		`{"type":"bridge","bridge":"cni0","isGateway":true,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.66.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}`)
	e.network("old", "0.3.1",
		`{"type":"ptp","ipam":{"type":"host-local","ranges":[[{"subnet":"10.55.0.0/24"}]]}}`,
		// 8 Mbit/s, of which 80 kbit at once.
		`{"type":"bandwidth","ingressRate":8000000,"ingressBurst":80000,"egressRate":8000000,"egressBurst":80000}`)
	e.network("lease", "1.0.0", `{"type":"macvlan","master":"podrun0","ipam":{"type":"dhcp"}}`)

	const on = "podrun.dev/network: "
	e.start(webPod("wire-a", on+"wires, kubernetes.io/ingress-bandwidth: 100M")+webPod("wire-b", on+"wires")+
		webPod("lan-a", on+"lan, podrun.dev/ips: 10.88.200.7/16, podrun.dev/mac: '02:00:00:00:00:07'")+
		webPod("lan-b", on+"lan, podrun.dev/ips: 10.88.200.8/16")+
		webPod("switch-a", on+"switch")+webPod("switch-b", on+"switch")+
		webPod("old-a", on+"old")+webPod("old-b", on+"old")+webPod("plain", on+"podrun"),
		"wire-a", "wire-b", "lan-a", "lan-b", "switch-a", "switch-b", "old-a", "old-b", "plain")
	e.apply(webPod("late", on+"late") + webPod("lease", on+"lease"))
	all := map[string]*corev1.Pod{}
	for _, name := range []string{"wire-a", "wire-b", "lan-a", "lan-b", "switch-a", "switch-b", "old-a", "old-b", "plain"} {
		all[name] = e.pod(name)
	}

	// In each network pods reach each other, and no two have one address.
	for _, network := range []string{"wire", "lan", "switch", "old"} {
		e.page(network+"-a", all[network+"-b"])
		e.page(network+"-b", all[network+"-a"])
	}

	// macvlan on the built-in network's bridge is in that network.
	e.page("lan-a", all["plain"])
	e.page("plain", all["lan-a"])

	owner := map[string]string{}
	for name, p := range all {
		if other := owner[p.Status.PodIP]; other != "" {
			t.Errorf("%s and %s have %s", other, name, p.Status.PodIP)
		}
		owner[p.Status.PodIP] = name
	}
	same(t, all["lan-a"].Status.PodIP, "10.88.200.7")
	mustContain(t, e.ok("exec", "lan-a", "--", "ip", "link", "show", "eth0"), "02:00:00:00:00:07")
	// What the plugins behind the first did.
	mustContain(t, e.ok("exec", "wire-a", "--", "ip", "link", "show", "eth0"), "mtu 1400")
	same(t, e.ok("exec", "wire-a", "--", "cat", "/proc/sys/net/ipv4/conf/eth0/accept_redirects"), "0\n")
	began := time.Now()
	e.ok("exec", "old-a", "--", "wget", "-q", "-O", "/dev/null", "http://"+all["old-b"].Status.PodIP+"/big")
	if took := time.Since(began); took < 1500*time.Millisecond { // 2 MiB by 8 Mbit/s
		t.Errorf("the bandwidth plugin let 2 MiB through in %v", took)
	}

	// CHECK, where the version has it.
	for _, name := range []string{"wire-a", "lan-a", "switch-a", "plain"} {
		same(t, e.ok("network", "check", name), "pod/"+name+": its network is as it was made\n")
	}
	mustContain(t, e.fails(1, "network", "check", "old-a"), `cannot check the network of pod "old-a": network "old": configuration version "0.3.1" does not support the CHECK command; set the list's cniVersion to 0.4.0`)
	e.ok("exec", "plain", "--", "true")
	mustContain(t, e.fails(1, "network", "check", "none"), `cannot check the network of pod "none": no such pod in namespace "default"`)

	// What is shown of them.
	table := e.ok("network", "ls")
	dir := filepath.Join(e.home, ".config/podrun/cni/net.d")
	same(t, row(table, "podrun"), "podrun bridge,loopback 1.1.0 1 built-in ready")
	same(t, row(table, "wires"), "wires ptp,tuning,bandwidth 1.1.0 2 "+dir+"/wires.conflist ready")
	mustContain(t, row(table, "lease"), "lease <none> <none> 0 "+dir+"/lease.conflist not usable: ", "ipam dhcp is not supported")
	var shown []struct {
		Name         string
		Pods         []string
		Capabilities []string
		Config       struct{ Plugins []struct{ Type string } }
	}
	if err := json.Unmarshal([]byte(e.ok("network", "inspect", "lan")), &shown); err != nil || len(shown) != 1 ||
		fmt.Sprint(shown[0]) != "{lan [default/lan-a default/lan-b] [ips mac] {[{macvlan}]}}" {
		t.Errorf("inspect: %v, %v", shown, err)
	}
	mustContain(t, e.fails(1, "network", "inspect", "none"), `cannot inspect network "none": no such network; "podrun network ls" lists them`)

	// What is not there is waited for, by name.
	for name, why := range map[string]string{"late": `network "late" not found; put its conflist into ` + dir, "lease": "ipam dhcp is not supported"} {
		p := e.pod(name)
		if p.Status.Phase != corev1.PodPending {
			t.Errorf("%s is %s", name, p.Status.Phase)
		}
		mustContain(t, e.ok("describe", "pod", name), why)
	}
	e.network("late", "1.0.0", `{"type":"ptp","ipam":{"type":"host-local","ranges":[[{"subnet":"10.44.0.0/24"}]]}}`)
	late := time.Now()
	e.ready("late")
	if took := time.Since(late); took > 8*time.Second {
		t.Errorf("a network that appeared was seen after %v", took)
	}

	// The node is killed, a network's file goes: the pods stay as they are, and
	// leave the network that they are in.
	if err := os.Remove(filepath.Join(dir, "switch.conflist")); err != nil {
		t.Fatal(err)
	}
	e.killNode()
	for _, name := range []string{"wire-a", "switch-a", "plain"} {
		same(t, e.ready(name).Status.PodIP, all[name].Status.PodIP)
		e.ok("network", "check", name)
	}
	e.page("switch-a", all["switch-b"])
	// Others are let go, and what they had is given again only then.
	e.ok("delete", "pod", "lan-a", "--now")
	e.start(webPod("lan-c", on+"lan, podrun.dev/ips: 10.88.200.7/16"), "lan-c")
	e.page("lan-b", e.pod("lan-c"))
	e.apply(webPod("lan-d", on+"lan, podrun.dev/ips: 10.88.200.7/16"))
	e.eventually("a second pod with that address", func() string {
		if strings.Contains(e.ok("describe", "pod", "lan-d"), "the answer has the address 10.88.200.7, which pod default/lan-c has") {
			return ""
		}
		return "not refused"
	})
}
