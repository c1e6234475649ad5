package cni_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/internal/hint"
)

// folders are those of networks and their plugins, for one test.
type folders struct {
	t                     *testing.T
	user, system, plugins string
	log                   string // what the plugins that keep one were called with
}

func newFolders(t *testing.T) *folders {
	f := &folders{t: t, user: t.TempDir(), system: t.TempDir(), plugins: t.TempDir()}
	f.log = filepath.Join(f.plugins, "log")
	return f
}

func (f *folders) options(o *cni.Options) {
	o.Uplink = false
	o.ConfDirs, o.PluginDirs = []string{f.user, f.system}, []string{f.plugins}
}

// plugin writes a plugin. Before script runs, the configuration is in $conf and
// "up ADDRESS" makes the pod's interface.
func (f *folders) plugin(name, script string) {
	f.t.Helper()
	const prelude = `#!/bin/sh
conf=$(cat)
up() { nsenter --net="$CNI_NETNS" sh -c "ip link add $CNI_IFNAME type veth peer name peer0 && ip addr add $1 dev $CNI_IFNAME && ip link set $CNI_IFNAME up" >&2; }
`
	if err := os.WriteFile(filepath.Join(f.plugins, name), []byte(prelude+script), 0o755); err != nil {
		f.t.Fatal(err)
	}
}

// network writes a list of one plugin into the user's folder. more is added to
// the plugin's configuration.
func (f *folders) network(name, version, plugin, more string) {
	f.t.Helper()
	f.write(f.user, name+".conflist", fmt.Sprintf(`{"cniVersion":%q,"name":%q,"plugins":[{"type":%q%s}]}`, version, name, plugin, more))
}

func (f *folders) write(dir, name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// calls are the lines of the log, which it empties.
func (f *folders) calls() string {
	f.t.Helper()
	data, err := os.ReadFile(f.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		f.t.Fatal(err)
	}
	_ = os.Remove(f.log)
	return strings.Join(strings.Fields(string(data)), " ")
}

const goodPlugin = `case $CNI_COMMAND in ADD) up 192.0.2.5/24
echo '{"cniVersion":"1.0.0","ips":[{"address":"192.0.2.5/24","gateway":"192.0.2.1"}]}' ;; esac`

// links are the interfaces in the pod network below dir.
func links(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	if err := in(t, filepath.Join(dir, "netns"), func() error {
		all, err := net.Interfaces()
		for _, l := range all {
			names = append(names, l.Name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return names
}

// Whatever a plugin does, it is one pod's trouble: it is told, nothing is left,
// and another pod has its network.
func TestBadPlugins(t *testing.T) {
	f := newFolders(t)
	dir := stateDir(t)
	n := openNetwork(t, dir, f.options)
	neighbour := cni.Pod{ID: "neighbour", NetNS: podNetNS(t)}
	reached := add(t, n, neighbour)
	serve(t, neighbour.NetNS, "0.0.0.0:80", "from the neighbour")
	before := links(t, dir)

	answer := func(address string) string {
		return fmt.Sprintf(`echo '{"cniVersion":"1.0.0","ips":[{"address":"%s/24"}]}'`, address)
	}
	for name, c := range map[string]struct{ script, err string }{
		"good":       {goodPlugin, ""},
		"rubbish":    {`echo 'not json'`, "invalid character 'o'"},
		"nothing":    {``, "unexpected end of JSON input"},
		"null":       {`echo null`, "no address"},
		"says why":   {`[ $CNI_COMMAND = DEL ] || { echo '{"cniVersion":"1.0.0","code":11,"msg":"no","details":"not today"}'; exit 1; }`, "says why: no; not today"},
		"silent":     {`[ $CNI_COMMAND = DEL ] || exit 3`, "silent: exit status 3"},
		"complains":  {`[ $CNI_COMMAND = DEL ] || { echo oh dear >&2; exit 3; }`, `complains: exit status 3: "oh dear"`},
		"crashes":    {`[ $CNI_COMMAND = DEL ] || kill -SEGV $$`, "crashes: signal: segmentation fault"},
		"hangs":      {`[ $CNI_COMMAND = DEL ] || exec sleep 60`, "hangs did not end in time and was killed"},
		"huge":       {`[ $CNI_COMMAND = DEL ] || exec yes`, "huge printed more than 1048576 bytes"},
		"future":     {`echo '{"cniVersion":"9.9.9","ips":[{"address":"192.0.2.5/24"}]}'`, "9.9.9"},
		"none":       {`echo '{"cniVersion":"1.0.0"}'`, "no address"},
		"not an IP":  {`echo '{"cniVersion":"1.0.0","ips":[{"address":"192.0.2.500/24"}]}'`, "192.0.2.500"},
		"loopback":   {answer("127.0.0.1"), "127.0.0.1, which is no pod's"},
		"boasts":     {`up 192.0.2.5/24; ` + answer("192.0.2.6"), "192.0.2.6, which no interface of the pod has"},
		"the gate":   {`up 10.88.0.1/16; ` + answer("10.88.0.1"), "10.88.0.1, which is the pod network's own"},
		"squats":     {`[ $CNI_COMMAND = DEL ] || { ip link add squat0 type bridge; ip addr add 10.88.9.1/16 dev squat0; ip link set squat0 up; } >&2; up 10.88.9.9/16; ` + answer("10.88.9.9"), "squat0 has 10.88.9.1/16, and the built-in network has 10.88.0.0/16"},
		"a thief":    {`up ` + reached.String() + `/16; ` + answer(reached.String()), reached.String() + ", which another pod has"},
		"litters":    {`[ $CNI_COMMAND = DEL ] || { ip link add lost0 type veth peer name lost1; ip link add lost2 type bridge; exit 1; }`, "litters: exit status 1"},
		"leaves one": {`sleep 60 & ` + goodPlugin, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f.plugin(name, c.script)
			network := strings.ReplaceAll(name, " ", "-")
			f.network(network, "1.0.0", name, "")
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			p := cni.Pod{ID: "a", Namespace: "default", Name: "a", NetNS: podNetNS(t), Network: network}
			r, err := n.Add(ctx, p)
			switch {
			case c.err == "" && err != nil:
				t.Fatal(err)
			case c.err == "" && r.IPs[0].String() != "192.0.2.5/24":
				t.Errorf("address %s", r.IPs[0])
			case c.err != "" && err == nil:
				t.Error("Add succeeded")
			case c.err != "" && !strings.Contains(err.Error(), c.err):
				t.Errorf("error %q does not say %q", err, c.err)
			}
			if got, err := ask(t, neighbour.NetNS, "127.0.0.1:80"); err != nil || got != "from the neighbour" {
				t.Errorf("the neighbour: %q, %v", got, err)
			}
			if c, err := n.Dial(t.Context(), "tcp", reached.String()+":80"); err != nil {
				t.Errorf("the node to the neighbour: %v", err)
			} else {
				_ = c.Close()
			}
			if err := n.Del(t.Context(), p); err != nil {
				t.Error(err)
			}
			if after := links(t, dir); !slices.Equal(before, after) {
				t.Errorf("links %v, were %v", after, before)
			}
			if left := addressFiles(t, dir); len(left) != 1 {
				t.Errorf("addresses %v, want the neighbour's alone", left)
			}
		})
	}
	if running := f.running(); len(running) > 0 {
		t.Errorf("plugins still run: %v", running)
	}
}

// running are the programs that plugins of f have left running.
func (f *folders) running() (left []string) {
	f.t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		f.t.Fatal(err)
	}
	for _, file := range list {
		environ, err := os.ReadFile(file)
		if err != nil || !strings.Contains("\x00"+string(environ), "\x00CNI_PATH="+f.plugins+"\x00") {
			continue
		}
		line, _ := os.ReadFile(strings.TrimSuffix(file, "environ") + "cmdline")
		left = append(left, fmt.Sprintf("%s: %q", filepath.Dir(file), line))
	}
	return left
}

// TestPluginThatFailsToDelete: the pod goes in the end; what is left is on
// record, and the next process tries again.
func TestPluginThatFailsToDelete(t *testing.T) {
	f := newFolders(t)
	dir := stateDir(t)
	f.plugin("sticky", goodPlugin+`
case $CNI_COMMAND in DEL) [ -e "$CNI_PATH/fixed" ] || exit 1 ;; esac`)
	f.network("sticky", "1.0.0", "sticky", "")
	n := openNetwork(t, dir, f.options)
	p := cni.Pod{ID: "a", NetNS: podNetNS(t), Network: "sticky"}
	add(t, n, p)
	var got []bool
	for range 3 {
		got = append(got, n.Del(t.Context(), p) == nil)
	}
	if !slices.Equal(got, []bool{false, false, true}) {
		t.Errorf("Del succeeds: %v, want the third time", got)
	}
	// The network's file goes: DEL has the list that ADD had.
	if err := errors.Join(os.Remove(filepath.Join(f.user, "sticky.conflist")), n.Close()); err != nil {
		t.Fatal(err)
	}
	f.write(f.plugins, "fixed", "")
	n = openNetwork(t, dir, f.options)
	if err := n.Sweep(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		if _, err := os.Stat(filepath.Join(dir, "cni", "attachments")); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the sweep has left the attachment")
}

// recorder writes down what it is called with.
const recorder = `echo "$CNI_COMMAND" >> "$CNI_PATH/log"; echo "$conf" > "$CNI_PATH/conf.$CNI_COMMAND"; echo "$CNI_ARGS" > "$CNI_PATH/args.$CNI_COMMAND"
`

func TestCommandsOfAVersion(t *testing.T) {
	for _, c := range []struct{ version, add, check, del string }{
		{"0.3.1", "ADD", "", "DEL"},
		{"0.4.0", "ADD", "CHECK", "DEL"},
		{"1.0.0", "ADD", "CHECK", "DEL"},
		{"1.1.0", "GC STATUS ADD", "CHECK", "DEL"},
	} {
		t.Run(c.version, func(t *testing.T) {
			f := newFolders(t)
			f.plugin("recorder", recorder+`case $CNI_COMMAND in ADD) up 192.0.2.5/24
echo '{"cniVersion":"`+c.version+`","ips":[{"version":"4","address":"192.0.2.5/24"}],"dns":{"nameservers":["192.0.2.53"],"search":["example.org"]}}' ;; esac`)
			f.network("n", c.version, "recorder", `,"capabilities":{"portMappings":true,"mac":false}`)
			dir := stateDir(t)
			n := openNetwork(t, dir, f.options)
			p := cni.Pod{
				ID: "a", Namespace: "default", Name: "web", NetNS: podNetNS(t), Network: "n",
				HostPorts: []cni.HostPort{{Protocol: "tcp", Port: 8080, PodPort: 80}},
			}
			r, err := n.Add(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			if got := f.calls(); got != c.add {
				t.Errorf("Add called %q, want %q", got, c.add)
			}
			if len(r.DNS.Servers) != 1 || r.DNS.Servers[0] != "192.0.2.53" || r.DNS.Searches[0] != "example.org" {
				t.Errorf("DNS %+v", r.DNS)
			}
			if conf := read(t, f.plugins, "conf.ADD"); !strings.Contains(conf, `"runtimeConfig":{"portMappings":[{"containerPort":80,"hostPort":8080,"protocol":"tcp"}]}`) {
				t.Errorf("the configuration is %s", conf)
			}
			if args := read(t, f.plugins, "args.ADD"); args != "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=a\n" {
				t.Errorf("the arguments are %s", args)
			}
			// A second Add, as after a kill of the process, is answered from the cache.
			if again, err := n.Add(t.Context(), p); err != nil || again.IPs[0] != r.IPs[0] || f.calls() != "" {
				t.Errorf("a second Add: %v, %v", again, err)
			}
			err = n.Check(t.Context(), p)
			if got := f.calls(); got != c.check || (err == nil) != (c.check != "") {
				t.Errorf("Check called %q: %v", got, err)
			}
			if c.check != "" {
				if conf := read(t, f.plugins, "conf.CHECK"); !strings.Contains(conf, `"prevResult":`) || !strings.Contains(conf, "192.0.2.5/24") {
					t.Errorf("without the answer of ADD: %s", conf)
				}
			} else if !strings.Contains(err.Error(), "does not support the CHECK command") {
				t.Errorf("CHECK of 0.3.1: %v", err)
			}
			// Another name by now: the pod leaves the network that it is in.
			p.Network = "other"
			if err := n.Del(t.Context(), p); err != nil || f.calls() != c.del {
				t.Errorf("Del: %v", err)
			}
			if err := n.Del(t.Context(), p); err != nil || f.calls() != "" {
				t.Errorf("a second Del: %v", err)
			}
		})
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestStatusIsAskedFirst(t *testing.T) {
	f := newFolders(t)
	f.plugin("closed", recorder+`[ "$CNI_COMMAND" != STATUS ] || { echo '{"cniVersion":"1.1.0","code":50,"msg":"the switch is off"}'; exit 1; }`)
	f.network("n", "1.1.0", "closed", "")
	n := openNetwork(t, stateDir(t), f.options)
	_, err := n.Add(t.Context(), cni.Pod{ID: "a", NetNS: podNetNS(t), Network: "n"})
	if err == nil || !strings.Contains(err.Error(), `network "n" is not ready: closed: the switch is off`) {
		t.Errorf("%v", err)
	}
	if got := f.calls(); got != "GC STATUS" {
		t.Errorf("called %q", got)
	}
}

// Garbage is what no pod has: the plugins of the user's folder are told whose
// attachments are valid. Those of the system may serve others too.
func TestGarbageCollection(t *testing.T) {
	f := newFolders(t)
	f.plugin("recorder", recorder+`case $CNI_COMMAND in ADD) up $(echo "$CNI_CONTAINERID" | tr -dc 0-9.)/24
echo "{\"cniVersion\":\"1.1.0\",\"ips\":[{\"address\":\"$(echo "$CNI_CONTAINERID" | tr -dc 0-9.)/24\"}]}" ;; esac`)
	f.network("own", "1.1.0", "recorder", "")
	f.write(f.system, "shared.conflist", `{"cniVersion":"1.1.0","name":"shared","plugins":[{"type":"recorder"}]}`)
	dir := stateDir(t)
	n := openNetwork(t, dir, f.options)
	add(t, n, cni.Pod{ID: "a192.0.2.5", NetNS: podNetNS(t), Network: "own"})
	add(t, n, cni.Pod{ID: "b192.0.2.6", NetNS: podNetNS(t), Network: "own"})
	add(t, n, cni.Pod{ID: "c192.0.2.5", NetNS: podNetNS(t), Network: "shared"})
	if got := f.calls(); got != "GC STATUS ADD STATUS ADD STATUS ADD" {
		t.Errorf("called %q", got)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = openNetwork(t, dir, f.options)
	add(t, n, cni.Pod{ID: "d192.0.2.7", NetNS: podNetNS(t), Network: "own"})
	var conf struct {
		Valid []struct{ ContainerID, IfName string } `json:"cni.dev/valid-attachments"`
	}
	if err := json.Unmarshal([]byte(read(t, f.plugins, "conf.GC")), &conf); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(conf.Valid); got != "[{a192.0.2.5 eth0} {b192.0.2.6 eth0}]" {
		t.Errorf("valid attachments %s", got)
	}
}

func TestTwoPodsOneAddress(t *testing.T) {
	f := newFolders(t)
	f.plugin("same", goodPlugin)
	f.network("n", "1.0.0", "same", "")
	f.network("m", "1.0.0", "same", "")
	n := openNetwork(t, stateDir(t), f.options)
	add(t, n, cni.Pod{ID: "a", Namespace: "default", Name: "first", NetNS: podNetNS(t), Network: "n"})
	_, err := n.Add(t.Context(), cni.Pod{ID: "b", NetNS: podNetNS(t), Network: "n"})
	if err == nil || !strings.Contains(err.Error(), "192.0.2.5, which pod default/first has") {
		t.Errorf("%v", err)
	}
	// In a network of its own an address may come again.
	add(t, n, cni.Pod{ID: "c", NetNS: podNetNS(t), Network: "m"})
}

func TestFindNetwork(t *testing.T) {
	f := newFolders(t)
	f.plugin("good", goodPlugin)
	n := openNetwork(t, stateDir(t), f.options)
	try := func(network, want string) {
		t.Helper()
		r, err := n.Add(t.Context(), cni.Pod{ID: "a", NetNS: podNetNS(t), Network: network})
		if want == "" {
			if err != nil || r.IPs[0].String() != "192.0.2.5/24" {
				t.Errorf("network %s: %v, %v", network, r, err)
			}
			if err := n.Del(t.Context(), cni.Pod{ID: "a"}); err != nil {
				t.Error(err)
			}
			return
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("network %s: %v, want %q", network, err, want)
		}
		if hint.Of(err) == "" {
			t.Errorf("network %s: no mend with %v", network, err)
		}
	}
	try("late", `network "late" not found`)
	f.write(f.user, "late.conflist", `{"cniVersion":"1.0.0","name":"late","plugins":[{"type":"good"`)
	try("late", `network "late" cannot be used: `+f.user+"/late.conflist: CNI network list: unexpected end of JSON input")
	f.network("late", "1.0.0", "good", "")
	try("late", "")
	f.write(f.system, "10-old.conf", `{"cniVersion":"0.3.1","name":"old","type":"good"}`)
	try("old", "")
	// The plugins of a list may be in files of their own.
	f.write(f.user, "parts.conflist", `{"cniVersion":"1.0.0","name":"parts"}`)
	if err := os.Mkdir(filepath.Join(f.user, "parts"), 0o700); err != nil {
		t.Fatal(err)
	}
	f.write(filepath.Join(f.user, "parts"), "1.conf", `{"type":"good"}`)
	try("parts", "")
	// The user's folder goes before the system's.
	f.write(f.system, "late.conflist", `{"cniVersion":"1.0.0","name":"late","plugins":[{"type":"missing"}]}`)
	try("late", "")
	f.network("gone", "1.0.0", "gone", "")
	try("gone", `plugin "gone" is not in `+f.plugins)
	for _, version := range []string{"0.2.0", "0.3.0", "1.2.0", ""} {
		f.network("version", version, "good", "")
		try("version", fmt.Sprintf("cniVersion %q: 0.3.1 to 1.1.0 are supported", version))
	}
	f.network("lease", "1.0.0", "good", `,"ipam":{"type":"dhcp"}`)
	try("lease", "ipam dhcp is not supported")
	f.network("podrun", "1.0.0", "good", "")
	if r, err := n.Add(t.Context(), cni.Pod{ID: "b", NetNS: podNetNS(t), Network: "podrun"}); err != nil || !r.IPs[0].Addr().Is4() || r.IPs[0].Addr() == netip.MustParseAddr("192.0.2.5") {
		t.Errorf("the built-in network by its name: %v, %v", r, err)
	}
	f.network("plain", "1.0.0", "good", "")
	_, err := n.Add(t.Context(), cni.Pod{ID: "c", NetNS: podNetNS(t), Network: "plain", Capabilities: map[string]any{"mac": "02:00:00:00:00:01"}})
	if err == nil || !strings.Contains(err.Error(), `network "plain" has no plugin with the capability mac`) {
		t.Errorf("%v", err)
	}
}

// A plugin from before the list's version of CNI complains of something else.
func TestPluginThatIsTooOld(t *testing.T) {
	f := newFolders(t)
	f.plugin("old", `[ "$CNI_COMMAND" != VERSION ] || { echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'; exit; }
echo '{"code":3,"msg":"missing containerID"}'; exit 1`)
	f.network("n", "1.1.0", "old", "")
	n := openNetwork(t, stateDir(t), f.options)
	_, err := n.Add(t.Context(), cni.Pod{ID: "a", NetNS: podNetNS(t), Network: "n"})
	if err == nil || !strings.Contains(err.Error(), `plugin "old" does not know CNI 1.1.0, but 0.4.0, 1.0.0 (old: missing containerID)`) || hint.Of(err) == "" {
		t.Errorf("%v", err)
	}
}

// A network that names no resolvers has this node where that is the pods'
// gateway, and else the host's.
func TestResolversOfForeignNetworks(t *testing.T) {
	f := newFolders(t)
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 192.0.2.99\nsearch host.example\noptions rotate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := openNetwork(t, stateDir(t), func(o *cni.Options) {
		f.options(o)
		o.Settings = cni.Settings{Subnet: netip.MustParsePrefix("10.88.0.0/24"), ResolvConf: conf}
	})
	for _, c := range []struct{ name, gateway, dns, want string }{
		{"ours", "10.88.0.254", "", "{[10.88.0.254] [host.example] [rotate] cluster.local}"},
		{"theirs", "10.88.0.77", "", "{[192.0.2.99] [host.example] [rotate] }"},
		{"named", "10.88.0.254", `,"dns":{"nameservers":["192.0.2.53"],"search":["plugin.example"]}`, "{[192.0.2.53] [plugin.example] [] }"},
		{"named-ours", "10.88.0.77", `,"dns":{"nameservers":["10.88.0.254"]}`, "{[10.88.0.254] [] [] cluster.local}"},
	} {
		f.plugin("give-"+c.name, fmt.Sprintf(`[ "$CNI_COMMAND" = ADD ] || exit 0
up 10.88.0.200/24
echo '{"cniVersion":"1.0.0","ips":[{"address":"10.88.0.200/24","gateway":%q}]%s}'`, c.gateway, c.dns))
		f.network(c.name, "1.0.0", "give-"+c.name, "")
		p := cni.Pod{ID: c.name, Network: c.name, NetNS: podNetNS(t)}
		r, err := n.Add(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(r.DNS); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
		if err := n.Del(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
}
