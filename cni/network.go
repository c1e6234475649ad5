package cni

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ns"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/hint"
)

// interfaceName is the interface of the network inside a pod.
const interfaceName = "eth0"

// pluginTimeout bounds one ADD or DEL, foreign plugins included.
const pluginTimeout = 30 * time.Second

// Options of a Network.
type Options struct {
	StateDir   string       // gone after a reboot
	DataDir    string       // survives it; "" is StateDir
	Settings   Settings     // of the built-in network
	Uplink     bool         // let pods reach what the host reaches
	ConfDirs   []string     // where networks are found: the user's folder, then the system's
	PluginDirs []string     // where their plugins are found
	Logger     *slog.Logger // nil discards

	// Keep, Kept and Drop hold the sockets of host ports beyond this process's
	// life. Keep does not take f over. All nil: they end with the process.
	Keep func(key string, f *os.File) error
	Kept func(key string) (*os.File, bool)
	Drop func(key string)
}

// Pod is one end of the network.
type Pod struct {
	ID              string     // unique; the CNI container id
	Namespace, Name string     // for plugins that ask
	NetNS           string     // path of its network namespace; Del does without
	RequestIP       netip.Addr // the address to give if it is free; zero for any; the built-in network's only
	Network         string     // the name of the one to join; "" is the built-in one
	HostPorts       []HostPort // for plugins that have a part in them
	// Capabilities are CNI's, by name, for plugins that have them
	// (https://www.cni.dev/docs/conventions/#dynamic-plugin-specific-fields-capabilities--runtime-configuration).
	Capabilities map[string]any
}

// DNS is what a pod's resolver is told.
type DNS struct {
	Servers, Searches, Options []string
	ClusterDomain              string // of pods' names, when Servers know them; else ""
}

// Result is what a pod was given.
type Result struct {
	IPs       []netip.Prefix
	Gateway   netip.Addr
	Gateway6  netip.Addr // zero without IPv6
	HostIP    netip.Addr // the host's loopback as seen from pods; zero without uplink
	HostIP6   netip.Addr // the same over IPv6; zero without either
	DNS       DNS
	Interface string
	Omitted   []string // capabilities asked for that no plugin of the network has
}

// Problem is something that the network has to do without.
type Problem struct{ Summary, Mend string }

// String is the problem and, if there is one, its mend.
func (p Problem) String() string {
	if p.Mend == "" {
		return p.Summary
	}
	return p.Summary + "; " + p.Mend
}

// Network is the network of all pods of one node. Its methods are safe for
// concurrent use.
type Network struct {
	o      Options
	log    *slog.Logger
	dir    string
	plan   plan
	pods   ns.NetNS                  // the pod network
	list   *libcni.NetworkConfigList // the built-in network
	lib    *libcni.CNIConfig
	bridge int    // its index, in the pod network
	noIPv6 string // why the host or the kernel has no IPv6 for it
	names  *records
	dns    *resolver // nil: its port was taken
	door   *doorway

	ports portThreads // TCP of host ports

	foreign    *libcni.CNIConfig // for all other networks
	background sync.WaitGroup    // sweeps of those
	stop       context.CancelFunc

	given addresses

	mu        sync.Mutex
	uplink    *uplink
	problems  []Problem
	collected map[string]bool // networks whose garbage was collected
	failed    map[string]int  // attempts to take a pod off its network, by its id
}

// Open joins the pod network that an earlier process left below StateDir, or
// makes it. Without what the uplink needs it goes on and says so in Problems.
func Open(ctx context.Context, o Options) (_ *Network, err error) {
	n := &Network{o: o, log: o.Logger, dir: filepath.Join(o.StateDir, "cni"), collected: map[string]bool{}, failed: map[string]int{}}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	if n.o.Keep == nil || n.o.Kept == nil || n.o.Drop == nil {
		n.o.Keep = func(string, *os.File) error { return nil }
		n.o.Kept = func(string) (*os.File, bool) { return nil, false }
		n.o.Drop = func(string) {}
	}
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return nil, err
	}
	n.noIPv6 = ipv6Off()
	if n.plan, n.problems, err = n.choosePlan(); err != nil {
		return nil, fmt.Errorf("cannot make the pod network: %w", err)
	}
	if n.pods, err = openNamespace(filepath.Join(o.StateDir, "netns")); err != nil {
		return nil, fmt.Errorf("cannot make the pod network: %w", err)
	}
	n.door = newDoorway(n.pods.Fd())
	n.ports.init(n.pods.Fd(), n.log)
	if err = n.openBridge(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make the pod network: %w", err), n.pods.Close())
	}
	if n.list, err = ParseConflist(n.builtinConflist()); err != nil {
		return nil, errors.Join(err, n.pods.Close())
	}
	n.lib = libcni.NewCNIConfigWithCacheDir(nil, filepath.Join(n.dir, "cache"), &executor{n: n})
	n.foreign = libcni.NewCNIConfigWithCacheDir(o.PluginDirs, filepath.Join(n.dir, "foreign"), &foreign{n: n})
	if o.Uplink {
		if n.uplink, err = n.openUplink(); err != nil {
			n.problems = append(n.problems, uplinkProblem(err))
			n.log.Warn("no uplink", "err", err)
		}
	}
	n.openNames()
	if n.dns, err = n.openDNS(); err != nil {
		n.problems = append(n.problems, Problem{Summary: "pods cannot look up names: DNS in the pod network: " + err.Error()})
		n.log.Warn("no DNS", "err", err)
	}
	return n, nil
}

// Close ends this process's part, the gateway. Pods keep their addresses and
// reach each other; the next Open gives them back the way out.
func (n *Network) Close() error {
	n.door.close()
	if n.stop != nil {
		n.stop()
	}
	n.background.Wait()
	n.ports.close()
	if n.dns != nil {
		n.dns.close()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.uplink != nil {
		n.uplink.close()
		n.uplink = nil
	}
	return n.pods.Close()
}

// Problems lists what the network does without, as it is now.
func (n *Network) Problems() []Problem {
	n.mu.Lock()
	list := append([]Problem(nil), n.problems...)
	n.mu.Unlock()
	if p, ok := n.overlapProblem(); ok {
		list = append(list, p)
	}
	for _, f := range n.files() {
		if f.err != nil {
			list = append(list, Problem{Summary: f.path + ": " + f.err.Error(), Mend: hint.Of(f.err)})
		}
	}
	return list
}

// Add joins a pod to its network. A pod that is joined already gets the same
// answer again, whatever its Network says by now. After an error nothing is left
// of the attempt, or what is left is on record and goes with the next.
func (n *Network) Add(ctx context.Context, p Pod) (*Result, error) {
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	a, err := n.attachment(p.ID)
	if err != nil {
		return nil, err
	}
	if a != nil || p.Network != "" && p.Network != networkName {
		return n.addForeign(ctx, p, a)
	}
	rt := n.runtimeConf(p)
	if cached, err := n.lib.GetNetworkListCachedResult(n.list, rt); err == nil && cached != nil {
		// Links go with a namespace that was lost.
		err := n.lib.CheckNetworkList(ctx, n.list, rt)
		if err == nil {
			return n.result(n.list.Name, cached, true)
		}
		n.log.Warn("a pod is joined again", "pod", p.Namespace+"/"+p.Name, "err", err)
		if err := n.Del(ctx, p); err != nil {
			return nil, err
		}
	}
	if err := unknownCapabilities(n.list, p.Capabilities); err != nil {
		return nil, err
	}
	if err := fault.Point("network.add"); err != nil {
		return nil, err
	}
	answer, err := n.lib.AddNetworkList(ctx, n.list, rt)
	if err == nil {
		err = fault.Point("network.added")
	}
	if err != nil {
		// A plugin may have done half of its work, and the others all of it.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), pluginTimeout)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("add to network %q: %w", n.list.Name, err), n.Del(undo, p))
	}
	r, err := n.result(n.list.Name, answer, true)
	if err == nil {
		r.Omitted = omitted(n.list, p.Capabilities)
	}
	return r, err
}

// Del takes a pod off its network and frees its addresses. It may be called
// again, and for a pod that was never added. Plugins that fail again and again
// hold up no pod for ever: what they left is kept on record, and the next
// process tries again.
func (n *Network) Del(ctx context.Context, p Pod) error {
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	if err := fault.Point("network.del"); err != nil {
		return err
	}
	a, err := n.attachment(p.ID)
	if err != nil {
		return err
	}
	if a != nil {
		if err := n.delForeign(ctx, a); err != nil {
			if !n.giveUp(a) {
				return err
			}
			n.log.Warn("a pod goes whose network does not let it", "pod", a.name(), "err", err)
		}
	}
	if err := n.lib.DelNetworkList(ctx, n.list, n.runtimeConf(p)); err != nil {
		return fmt.Errorf("delete from network %q: %w", n.list.Name, err)
	}
	return nil
}

// ErrNoCheck says that a network's version of CNI has no CHECK.
var ErrNoCheck = libcni.ErrorCheckNotSupp

// Check asks the plugins whether what they made for a pod is as it was (CHECK).
func (n *Network) Check(ctx context.Context, p Pod) error {
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	a, err := n.attachment(p.ID)
	if err != nil {
		return err
	}
	list, lib, rt := n.list, n.lib, n.runtimeConf(p)
	if a != nil {
		if list, err = a.list(); err != nil {
			return err
		}
		lib, rt = n.foreign, a.runtimeConf()
	}
	if cached, err := lib.GetNetworkListCachedResult(list, rt); err != nil || cached == nil {
		return errors.Join(fmt.Errorf("the pod is not joined to network %q", list.Name), err)
	}
	if err := lib.CheckNetworkList(ctx, list, rt); err != nil {
		return fmt.Errorf("network %q: %w", list.Name, err)
	}
	return nil
}

// Sweep frees what pods that are not in keep still have. Plugins that are
// programs are called while the caller goes on: they may take their time.
func (n *Network) Sweep(ctx context.Context, keep map[string]bool) error {
	attachments, err := n.attachments()
	errs := []error{err}
	named := map[string]bool{}
	for id := range keep {
		named[id] = true
	}
	var gone []*attachment
	for _, a := range attachments {
		named[a.Pod] = true
		if !keep[a.Pod] {
			gone = append(gone, a)
		}
	}
	results, err := n.lib.GetCachedAttachments("")
	if err != nil {
		errs = append(errs, fmt.Errorf("list what pods were given: %w", err))
	}
	for _, r := range results {
		if !keep[r.ContainerID] {
			errs = append(errs, n.Del(ctx, Pod{ID: r.ContainerID}))
		}
	}
	// A kill between an ADD's work and its being cached leaves these.
	errs = append(errs, n.sweepResults(keep), n.sweepAddresses(named), n.sweepVeths(named))
	if len(attachments) == 0 {
		n.mu.Lock()
		errs = append(errs, n.tidy())
		n.mu.Unlock()
	}
	if len(gone) > 0 {
		sweep, stop := context.WithCancel(context.WithoutCancel(ctx))
		n.stop = stop
		n.background.Go(func() {
			for _, a := range gone {
				if sweep.Err() == nil {
					if err := n.Del(sweep, Pod{ID: a.Pod}); err != nil {
						n.log.Warn("take a pod that is gone off its network", "pod", a.name(), "network", a.Network, "err", err)
					}
				}
			}
		})
	}
	return errors.Join(errs...)
}

// sweepResults removes answers of the built-in network that cannot be read: a
// kill in the middle of writing leaves such.
func (n *Network) sweepResults(keep map[string]bool) error {
	dir := filepath.Join(n.dir, "cache", "results")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		id := strings.TrimSuffix(strings.TrimPrefix(e.Name(), networkName+"-"), "-"+interfaceName)
		if !keep[id] && !e.IsDir() {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// Addresses says which subnets pods have addresses of, and why not of IPv6.
func (n *Network) Addresses() string {
	switch {
	case n.plan.subnet6.IsValid():
		return fmt.Sprintf("pods have addresses of %s and %s", n.plan.subnet, n.plan.subnet6)
	case n.o.Settings.NoIPv6:
		return fmt.Sprintf("pods have addresses of %s; IPv6 is switched off in %s", n.plan.subnet, n.o.Settings.source())
	}
	return fmt.Sprintf("pods have addresses of %s; no IPv6: %s", n.plan.subnet, n.noIPv6)
}

// Contains tells whether addr is of the built-in pod network.
func (n *Network) Contains(addr netip.Addr) bool {
	return n.plan.subnet.Contains(addr) || n.plan.subnet6.Contains(addr)
}

// Dial connects to an address of the pod network from inside it. address is
// an IP and a port.
func (n *Network) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, err // a name would be looked up in the wrong namespace
	}
	var conn net.Conn
	err := n.pods.Do(func(ns.NetNS) (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

func (n *Network) runtimeConf(p Pod) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: p.ID, NetNS: p.NetNS, IfName: interfaceName,
		Args: [][2]string{
			{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", p.Namespace}, {"K8S_POD_NAME", p.Name}, {"K8S_POD_UID", p.ID},
		},
	}
	if p.RequestIP.IsValid() {
		rt.Args = append(rt.Args, [2]string{"IP", p.RequestIP.String()})
	}
	return rt
}

// Host is the answer for a pod in the host's own network: the host's address
// and resolvers. There is nothing to Add or Del.
func (n *Network) Host(addr netip.Addr) *Result {
	return &Result{
		IPs: []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())},
		DNS: n.hostResolver().dns(),
	}
}

// result reads the answer of a network's plugins.
func (n *Network) result(name string, answer types.Result, builtin bool) (*Result, error) {
	r, err := types100.NewResultFromResult(answer)
	if err != nil {
		return nil, fmt.Errorf("answer of network %q: %w", name, err)
	}
	out := &Result{Interface: interfaceName, DNS: DNS{Servers: r.DNS.Nameservers, Searches: r.DNS.Search, Options: r.DNS.Options}}
	for _, ip := range r.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, fmt.Errorf("answer of network %q: bad address %q", name, ip.Address.String())
		}
		ones, bits := ip.Address.Mask.Size()
		// An IPv4 address may come as an IPv6 one.
		prefix := netip.PrefixFrom(addr.Unmap(), ones-bits+addr.Unmap().BitLen())
		if !prefix.IsValid() {
			return nil, fmt.Errorf("answer of network %q: bad address %q", name, ip.Address.String())
		}
		out.IPs = append(out.IPs, prefix)
		if gw, ok := netip.AddrFromSlice(ip.Gateway); ok {
			switch gw = gw.Unmap(); {
			case gw.Is4() && !out.Gateway.IsValid():
				out.Gateway = gw
			case gw.Is6() && !out.Gateway6.IsValid():
				out.Gateway6 = gw
			}
		}
	}
	if len(out.IPs) == 0 {
		return nil, fmt.Errorf("answer of network %q: no address", name)
	}
	n.resultDNS(out, builtin)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.uplink != nil && builtin && !n.o.Settings.NoHost {
		out.HostIP, out.HostIP6 = n.plan.host, n.plan.host6
	}
	return out, nil
}

// vethName is the name of the network's end of a pod's veth pair. It follows
// from the pod's id, so that it is found without a record of it.
func vethName(podID string) string {
	sum := sha256.Sum256([]byte(podID))
	return "veth" + hex.EncodeToString(sum[:5]) // IFNAMSIZ is 16
}
