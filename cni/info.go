package cni

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/containernetworking/cni/libcni"

	"get.podrun.dev/podrun/internal/hint"
)

// Info is a network that pods may be joined to, as people are shown it.
type Info struct {
	Name         string          `json:"name"`
	File         string          `json:"file,omitempty"` // "" is the built-in network
	CNIVersion   string          `json:"cniVersion,omitempty"`
	Plugins      []string        `json:"plugins,omitempty"`
	Capabilities []string        `json:"capabilities,omitempty"`
	Pods         []string        `json:"pods"` // NAMESPACE/NAME of those that are joined
	Problem      string          `json:"problem,omitempty"`
	Mend         string          `json:"mend,omitempty"`
	Config       json.RawMessage `json:"config,omitempty"`
}

// Networks lists the built-in network and those of the folders, with what is
// wrong with files that are none.
func (n *Network) Networks() ([]Info, error) {
	pods := map[string][]string{}
	joined, err := n.lib.GetCachedAttachments("")
	if err != nil {
		return nil, err
	}
	for _, a := range joined {
		pods[networkName] = append(pods[networkName], (&attachment{Args: a.CniArgs}).name())
	}
	attachments, err := n.attachments()
	if err != nil {
		return nil, err
	}
	for _, a := range attachments {
		pods[a.Network] = append(pods[a.Network], a.name())
	}
	for _, names := range pods {
		slices.Sort(names)
	}
	list := []Info{infoOf(n.list, "", pods)}
	at := map[string]string{}
	for _, f := range n.files() {
		if f.err != nil {
			list = append(list, Info{Name: stem(f.path), File: f.path, Pods: []string{}, Problem: f.err.Error(), Mend: hint.Of(f.err)})
			continue
		}
		info := infoOf(f.list, f.path, pods)
		if other, taken := at[f.list.Name]; taken {
			info.Pods, info.Problem, info.Mend = []string{}, fmt.Sprintf("%s has a network of this name", other), "give one of them another name"
		} else if err := n.findPlugins(f.list); err != nil {
			info.Problem, info.Mend = err.Error(), hint.Of(err)
		}
		at[f.list.Name] = f.path
		list = append(list, info)
	}
	return list, nil
}

func infoOf(list *libcni.NetworkConfigList, path string, pods map[string][]string) Info {
	info := Info{Name: list.Name, File: path, CNIVersion: list.CNIVersion, Pods: pods[list.Name], Config: list.Bytes}
	if info.Pods == nil {
		info.Pods = []string{}
	}
	capabilities := map[string]bool{}
	for _, p := range list.Plugins {
		info.Plugins = append(info.Plugins, p.Network.Type)
		maps.Copy(capabilities, p.Network.Capabilities)
	}
	maps.DeleteFunc(capabilities, func(_ string, has bool) bool { return !has })
	info.Capabilities = slices.Sorted(maps.Keys(capabilities))
	return info
}
