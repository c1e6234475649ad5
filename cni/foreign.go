package cni

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netns"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/hint"
)

// delAttempts is how often a process tries to take a pod off a network whose
// plugins fail, before it lets the pod go. The next process tries again.
const delAttempts = 3

// addForeign joins a pod to a network whose plugins are programs.
func (n *Network) addForeign(ctx context.Context, p Pod, a *attachment) (*Result, error) {
	if a != nil {
		list, err := a.list()
		if err != nil {
			return nil, err
		}
		if cached, err := n.foreign.GetNetworkListCachedResult(list, a.runtimeConf()); err == nil && cached != nil && !a.Leaving {
			return n.result(list.Name, cached, false)
		}
		// An ADD or a DEL that was killed, or a DEL that failed. The same network
		// has a new try in any case; another one when this has had enough of them.
		if err := n.delForeign(ctx, a); err != nil && a.Network != p.Network && !n.giveUp(a) {
			return nil, err
		}
	}
	found, err := n.find(p.Network)
	if err != nil {
		return nil, err
	}
	list, err := n.prepare(found.list)
	if err != nil {
		return nil, fmt.Errorf("network %q: %w", p.Network, err)
	}
	if err := unknownCapabilities(list, p.Capabilities); err != nil {
		return nil, err
	}
	if err := n.findPlugins(list); err != nil {
		return nil, err
	}
	inode, err := inodeOf(p.NetNS)
	if err != nil {
		return nil, err
	}
	withPortMappings(list, &p)
	a = &attachment{
		Pod: p.ID, Network: list.Name, Own: found.own, List: list.Bytes, NetNS: p.NetNS, Inode: inode,
		Args: n.runtimeConf(Pod{ID: p.ID, Namespace: p.Namespace, Name: p.Name}).Args, Capabilities: p.Capabilities,
	}
	if found.own {
		n.collect(ctx, list)
	}
	if err := n.foreign.GetStatusNetworkList(ctx, list); err != nil {
		return nil, fmt.Errorf("network %q is not ready: %w", list.Name, n.tooOld(ctx, list, err))
	}
	if err := fault.Point("network.record"); err != nil {
		return nil, err
	}
	if err := n.record(a); err != nil {
		return nil, err
	}
	if err := fault.Point("network.recorded"); err != nil {
		return nil, err
	}
	answer, err := n.foreign.AddNetworkList(ctx, list, a.runtimeConf())
	var r *Result
	if err == nil {
		r, err = n.result(list.Name, answer, false)
	}
	if err == nil {
		err = n.verify(a, list, r)
	}
	if err == nil {
		err = fault.Point("network.joined")
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), pluginTimeout)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("add to network %q: %w", list.Name, n.tooOld(undo, list, err)), n.delForeign(undo, a))
	}
	r.Omitted = omitted(list, p.Capabilities)
	return r, nil
}

// findPlugins is an error when a program of the list is missing, which is told
// before any of the others runs.
func (n *Network) findPlugins(list *libcni.NetworkConfigList) error {
	for _, p := range list.Plugins {
		for _, name := range []string{p.Network.Type, p.Network.IPAM.Type} {
			if name == "" {
				continue
			}
			if _, err := new(foreign).FindInPath(name, n.o.PluginDirs); err != nil {
				return hint.Wrap(fmt.Errorf("network %q: %w", list.Name, err), "install it, or set CNI_PATH before the node starts")
			}
		}
	}
	return nil
}

// versionTimeout bounds how long plugins may take to say what they know: one
// that hangs leaves time for its work to be undone.
const versionTimeout = 2 * time.Second

// tooOld returns err, unless a plugin does not know the list's version of CNI:
// then its complaint is of what it does not understand.
func (n *Network) tooOld(ctx context.Context, list *libcni.NetworkConfigList, err error) error {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	for _, p := range list.Plugins {
		known, verr := n.foreign.GetVersionInfo(ctx, p.Network.Type)
		if verr != nil || slices.Contains(known.SupportedVersions(), list.CNIVersion) {
			continue
		}
		return hint.Wrap(fmt.Errorf("plugin %q does not know CNI %s, but %s (%w)", p.Network.Type, list.CNIVersion, strings.Join(known.SupportedVersions(), ", "), err),
			"lower the list's cniVersion, or install a newer plugin")
	}
	return err
}

// delForeign takes a pod off its network. What cannot be undone now is kept on
// record for the next time.
func (n *Network) delForeign(ctx context.Context, a *attachment) error {
	list, err := a.list()
	if err != nil {
		return err
	}
	if !a.Leaving {
		a.Leaving = true
		if err := n.save(a); err != nil {
			return err
		}
	}
	if err := fault.Point("network.leaving"); err != nil {
		return err
	}
	if err := n.foreign.DelNetworkList(ctx, list, a.runtimeConf()); err != nil {
		return fmt.Errorf("delete from network %q: %w", a.Network, err)
	}
	if err := fault.Point("network.left"); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.failed, a.Pod)
	cached := filepath.Join(n.dir, "foreign", "results", fmt.Sprintf("%s-%s-%s", a.Network, a.Pod, interfaceName))
	if err := os.Remove(cached); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Remove(n.attachmentFile(a.Pod)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return n.tidy()
}

// record writes a new attachment down, not while tidy looks for any.
func (n *Network) record(a *attachment) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.save(a)
}

// giveUp counts failures to take a pod off its network, and tells when there
// were enough of them.
func (n *Network) giveUp(a *attachment) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failed[a.Pod]++
	return n.failed[a.Pod] >= delAttempts
}

// tidy removes what the plugins of networks without pods left in the pod
// network and among our files. n.mu is held: no attachment appears meanwhile
// that it could take for gone, for one is on record before its plugins run.
func (n *Network) tidy() error {
	if left, err := n.attachments(); err != nil || len(left) > 0 {
		return err
	}
	errs := []error{n.sweepLinks()}
	for _, dir := range []string{"plugins", "foreign", "attachments"} {
		errs = append(errs, os.RemoveAll(filepath.Join(n.dir, dir)))
	}
	return errors.Join(errs...)
}

// collect has the plugins of a network drop what belongs to no pod, once in the
// life of this process (GC, since CNI 1.1). Only those of the user's own folder:
// the system's networks may have pods of other runtimes too, which would be
// garbage to us.
func (n *Network) collect(ctx context.Context, list *libcni.NetworkConfigList) {
	n.mu.Lock()
	done := n.collected[list.Name]
	n.collected[list.Name] = true
	n.mu.Unlock()
	if new, err := version.GreaterThanOrEqualTo(list.CNIVersion, "1.1.0"); done || err != nil || !new {
		return
	}
	attachments, err := n.attachments()
	valid := []types.GCAttachment{}
	for _, a := range attachments {
		if a.Network == list.Name {
			valid = append(valid, types.GCAttachment{ContainerID: a.Pod, IfName: interfaceName})
		}
	}
	if err == nil {
		err = n.foreign.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: valid})
	}
	if err != nil {
		n.log.Debug("collect what no pod has", "network", list.Name, "err", err)
	}
}

// withPortMappings tells plugins that want to know of the host ports. It is for
// them to make something of it: the node forwards the ports in any case.
func withPortMappings(list *libcni.NetworkConfigList, p *Pod) {
	const name = "portMappings"
	if len(p.HostPorts) == 0 || p.Capabilities[name] != nil || !capable(list, name) {
		return
	}
	var mappings []map[string]any
	for _, hp := range p.HostPorts {
		m := map[string]any{"hostPort": hp.Port, "containerPort": hp.PodPort, "protocol": hp.Protocol}
		if hp.HostIP.IsValid() {
			m["hostIP"] = hp.HostIP.String()
		}
		mappings = append(mappings, m)
	}
	capabilities := maps.Clone(p.Capabilities)
	if capabilities == nil {
		capabilities = map[string]any{}
	}
	capabilities[name] = mappings
	p.Capabilities = capabilities
}

// unknownCapabilities is an error when an address was asked of a network that
// none of its plugins can give: libcni would drop it without a word. The other
// wishes have no plugin in most networks, and pods run without.
func unknownCapabilities(list *libcni.NetworkConfigList, asked map[string]any) error {
	for _, name := range []string{"ips", "mac"} {
		if asked[name] != nil && !capable(list, name) {
			mend := fmt.Sprintf(`add "capabilities": {"%s": true} to a plugin of its list that can do it, or take the annotation away`, name)
			if list.Name == networkName { // which has no file to add it to
				mend = "name a network that has one by podrun.dev/network, or take the annotation away"
			}
			return hint.Wrap(fmt.Errorf("network %q has no plugin with the capability %s", list.Name, name), mend)
		}
	}
	return nil
}

// omitted are the wishes that have no effect. Host ports are not among them:
// the node opens them whatever the network is.
func omitted(list *libcni.NetworkConfigList, asked map[string]any) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		if name != "portMappings" && !capable(list, name) {
			names = append(names, name)
		}
	}
	return names
}

func capable(list *libcni.NetworkConfigList, capability string) bool {
	return slices.ContainsFunc(list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Capabilities[capability] })
}

// verify holds a plugin's answer to the pod it is about, and to what other pods
// have.
func (n *Network) verify(a *attachment, list *libcni.NetworkConfigList, r *Result) error {
	there, err := interfaceAddresses(a.NetNS)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	others, err := n.attachments()
	if err != nil {
		return err
	}
	for _, ip := range r.IPs {
		addr := ip.Addr()
		if !addr.IsGlobalUnicast() {
			return fmt.Errorf("the answer has the address %s, which is no pod's", addr)
		}
		if !there[addr] {
			return fmt.Errorf("the answer has the address %s, which no interface of the pod has", addr)
		}
		if slices.Contains([]netip.Addr{n.plan.gateway, n.plan.host, n.plan.bridge, n.plan.gateway6, n.plan.host6, n.plan.bridge6}, addr) {
			return fmt.Errorf("the answer has the address %s, which is the pod network's own", addr)
		}
		for _, other := range others {
			if other.Pod != a.Pod && other.Network == a.Network && n.hasAddress(other, list, addr) {
				return fmt.Errorf("the answer has the address %s, which pod %s has", addr, other.name())
			}
		}
		if err := n.overlap(ip); err != nil {
			return err
		}
		if n.plan.subnet.Contains(addr) {
			// Of the built-in network's subnet, as with a macvlan on its bridge:
			// reserved there too.
			if err := n.reserve(a.Pod, addr); err != nil {
				return err
			}
		}
	}
	return nil
}

// overlap is an error when a network that has ip brought an interface into the
// pod network with a subnet of the built-in network's addresses: what is for
// the pods of one would go to the other. A macvlan on the bridge brings none.
func (n *Network) overlap(ip netip.Prefix) error {
	own := n.plan.subnet
	if ip.Addr().Is6() {
		own = n.plan.subnet6
	}
	if !own.IsValid() || !own.Overlaps(ip) {
		return nil
	}
	return inNamespace(n.pods.Fd(), func() error {
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, link := range links {
			if link.Name == bridgeName {
				continue
			}
			addresses, err := link.Addrs()
			if err != nil {
				return err
			}
			for _, a := range addresses {
				if theirs, err := netip.ParsePrefix(a.String()); err == nil && own.Overlaps(theirs.Masked()) {
					return hint.Wrap(fmt.Errorf("its interface %s has %s, and the built-in network has %s", link.Name, theirs, own),
						"give one of them another subnet: in its list, or in network.toml")
				}
			}
		}
		return nil
	})
}

// hasAddress tells whether a pod was given addr.
func (n *Network) hasAddress(a *attachment, list *libcni.NetworkConfigList, addr netip.Addr) bool {
	cached, err := n.foreign.GetNetworkListCachedResult(list, a.runtimeConf())
	if err != nil || cached == nil {
		return false
	}
	r, err := types100.NewResultFromResult(cached)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(r.IPs, func(ip *types100.IPConfig) bool { return ip.Address.IP.Equal(net.IP(addr.AsSlice())) })
}

// name is the pod's, as people know it.
func (a *attachment) name() string {
	var namespace, name string
	for _, arg := range a.Args {
		switch arg[0] {
		case "K8S_POD_NAMESPACE":
			namespace = arg[1]
		case "K8S_POD_NAME":
			name = arg[1]
		}
	}
	return namespace + "/" + name
}

// interfaceAddresses are the addresses that a pod's interfaces have.
func interfaceAddresses(path string) (map[netip.Addr]bool, error) {
	pod, err := netns.GetFromPath(path)
	if err != nil {
		return nil, &os.PathError{Op: "open network namespace", Path: path, Err: err}
	}
	defer func() { _ = pod.Close() }()
	there := map[netip.Addr]bool{}
	err = inNamespace(uintptr(pod), func() error {
		all, err := net.InterfaceAddrs()
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				there[p.Addr().Unmap()] = true
			}
		}
		return err
	})
	return there, err
}
