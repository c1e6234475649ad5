package cni

import (
	"encoding/json"

	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// networkName is the name of the built-in network.
const networkName = "podrun"

// bridgeConf is the built-in network's bridge plugin, in the words of
// https://www.cni.dev/plugins/current/main/bridge/.
type bridgeConf struct {
	Type   string   `json:"type"`
	Bridge string   `json:"bridge"`
	MTU    int      `json:"mtu"`
	IPAM   ipamConf `json:"ipam"`
}

// ipamConf is https://www.cni.dev/plugins/current/ipam/host-local/.
type ipamConf struct {
	Type    string        `json:"type"`
	DataDir string        `json:"dataDir"`
	Ranges  [][]ipamRange `json:"ranges"`
	Routes  []ipamRoute   `json:"routes"`
}

type ipamRange struct {
	Subnet     string `json:"subnet"`
	RangeStart string `json:"rangeStart"`
	RangeEnd   string `json:"rangeEnd"`
	Gateway    string `json:"gateway"`
}

type ipamRoute struct {
	Dst string `json:"dst"`
}

// builtinConflist is the network that podrun has without any configuration.
func (n *Network) builtinConflist() []byte {
	ranges := [][]ipamRange{{{
		Subnet: n.plan.subnet.String(), RangeStart: n.plan.first.String(), RangeEnd: n.plan.last.String(), Gateway: n.plan.gateway.String(),
	}}}
	routes := []ipamRoute{{Dst: "0.0.0.0/0"}}
	if n.plan.subnet6.IsValid() {
		// Which one of these a pod has follows from the address of the first.
		ranges = append(ranges, []ipamRange{{
			Subnet: n.plan.subnet6.String(), RangeStart: n.plan.sixth(n.plan.first).String(), RangeEnd: n.plan.sixth(n.plan.last).String(),
			Gateway: n.plan.gateway6.String(),
		}})
		routes = append(routes, ipamRoute{Dst: "::/0"})
	}
	list := map[string]any{
		"cniVersion": types100.ImplementedSpecVersion,
		"name":       networkName,
		"plugins": []any{
			bridgeConf{Type: "bridge", Bridge: bridgeName, MTU: mtu, IPAM: ipamConf{
				Type: "host-local", DataDir: n.ipamDir(), Ranges: ranges, Routes: routes,
			}},
			map[string]string{"type": "loopback"},
		},
	}
	data, err := json.Marshal(list)
	if err != nil {
		panic("internal error: " + err.Error()) // strings and numbers always encode
	}
	return data
}
