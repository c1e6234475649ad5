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
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ns"

	"get.podrun.dev/podrun/internal/fault"
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
	Conflist   []byte       // a CNI network list; nil is the built-in one
	PluginDirs []string     // where plugins of other types are found
	ResolvConf string       // the host's, for the gateway's DNS; "" is /etc/resolv.conf
	Logger     *slog.Logger // nil discards
}

// Pod is one end of the network.
type Pod struct {
	ID              string     // unique; the CNI container id
	Namespace, Name string     // for plugins that ask
	NetNS           string     // path of its network namespace; Del does without
	RequestIP       netip.Addr // the address to give if it is free; zero for any
}

// DNS is what a pod's resolver is told.
type DNS struct {
	Servers, Searches, Options []string
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
}

// Problem is something that the network has to do without.
type Problem struct{ Summary, Mend string }

// Network is the network of all pods of one node. Its methods are safe for
// concurrent use.
type Network struct {
	o      Options
	log    *slog.Logger
	dir    string
	plan   plan
	pods   ns.NetNS // the pod network
	list   *libcni.NetworkConfigList
	lib    *libcni.CNIConfig
	bridge int       // its index, in the pod network
	noIPv6 string    // why the host or the kernel has no IPv6 for it
	dns    *resolver // nil: its port was taken

	mu       sync.Mutex
	uplink   *uplink
	problems []Problem
}

// Open joins the pod network that an earlier process left below StateDir, or
// makes it. Without what the uplink needs it goes on and says so in Problems.
func Open(ctx context.Context, o Options) (_ *Network, err error) {
	n := &Network{o: o, log: o.Logger, dir: filepath.Join(o.StateDir, "cni")}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	if n.o.ResolvConf == "" {
		n.o.ResolvConf = "/etc/resolv.conf"
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
	if err = n.openBridge(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make the pod network: %w", err), n.pods.Close())
	}
	conflist := o.Conflist
	if conflist == nil {
		conflist = n.builtinConflist()
	}
	if n.list, err = ParseConflist(conflist); err != nil {
		return nil, errors.Join(err, n.pods.Close())
	}
	n.lib = libcni.NewCNIConfigWithCacheDir(o.PluginDirs, filepath.Join(n.dir, "cache"), &executor{n: n})
	if n.dns, err = n.openDNS(); err != nil {
		n.problems = append(n.problems, Problem{Summary: "pods cannot look up names: DNS in the pod network: " + err.Error()})
		n.log.Warn("no DNS", "err", err)
	}
	if o.Uplink {
		if n.uplink, err = n.openUplink(); err != nil {
			n.problems = append(n.problems, uplinkProblem(err))
			n.log.Warn("no uplink", "err", err)
		}
	}
	return n, nil
}

// Close ends this process's part, the gateway. Pods keep their addresses and
// reach each other; the next Open gives them back the way out.
func (n *Network) Close() error {
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

// Problems lists what the network does without.
func (n *Network) Problems() []Problem {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]Problem(nil), n.problems...)
}

// Add joins a pod to the network. A pod that is joined already gets the same
// answer again. After an error nothing is left of the attempt.
func (n *Network) Add(ctx context.Context, p Pod) (*Result, error) {
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	rt := n.runtimeConf(p)
	if cached, err := n.lib.GetNetworkListCachedResult(n.list, rt); err == nil && cached != nil {
		return n.result(cached)
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
	return n.result(answer)
}

// Del takes a pod off the network and frees its addresses. It may be called
// again, and for a pod that was never added.
func (n *Network) Del(ctx context.Context, p Pod) error {
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	if err := fault.Point("network.del"); err != nil {
		return err
	}
	if err := n.lib.DelNetworkList(ctx, n.list, n.runtimeConf(p)); err != nil {
		return fmt.Errorf("delete from network %q: %w", n.list.Name, err)
	}
	return nil
}

// Sweep frees what pods that are not in keep still have.
func (n *Network) Sweep(ctx context.Context, keep map[string]bool) error {
	attachments, err := n.lib.GetCachedAttachments("")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list what pods were given: %w", err)
	}
	var errs []error
	for _, a := range attachments {
		if !keep[a.ContainerID] {
			errs = append(errs, n.Del(ctx, Pod{ID: a.ContainerID}))
		}
	}
	// A kill between an ADD's work and its being cached leaves these.
	errs = append(errs, n.sweepAddresses(keep), n.sweepVeths(keep))
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
	return n.o.Conflist == nil && (n.plan.subnet.Contains(addr) || n.plan.subnet6.Contains(addr))
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
	host := readResolvConf(n.o.ResolvConf)
	return &Result{
		IPs: []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())},
		DNS: DNS{Servers: host.servers, Searches: host.searches, Options: host.options},
	}
}

// result reads a plugin's answer.
func (n *Network) result(answer types.Result) (*Result, error) {
	r, err := types100.NewResultFromResult(answer)
	if err != nil {
		return nil, fmt.Errorf("answer of network %q: %w", n.list.Name, err)
	}
	out := &Result{Interface: interfaceName, DNS: DNS{Servers: r.DNS.Nameservers, Searches: r.DNS.Search, Options: r.DNS.Options}}
	for _, ip := range r.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, fmt.Errorf("answer of network %q: bad address %q", n.list.Name, ip.Address.String())
		}
		ones, _ := ip.Address.Mask.Size()
		out.IPs = append(out.IPs, netip.PrefixFrom(addr.Unmap(), ones))
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
		return nil, fmt.Errorf("answer of network %q: no address", n.list.Name)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.uplink != nil && n.o.Conflist == nil {
		out.HostIP, out.HostIP6 = n.plan.host, n.plan.host6
	}
	if n.dns != nil && n.o.Conflist == nil {
		out.DNS.Servers = append(out.DNS.Servers, n.plan.bridge.String())
		host := readResolvConf(n.o.ResolvConf)
		out.DNS.Searches = append(out.DNS.Searches, host.searches...)
	}
	return out, nil
}

// vethName is the name of the network's end of a pod's veth pair. It follows
// from the pod's id, so that it is found without a record of it.
func vethName(podID string) string {
	sum := sha256.Sum256([]byte(podID))
	return "veth" + hex.EncodeToString(sum[:5]) // IFNAMSIZ is 16
}
