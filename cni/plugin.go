package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// executor is libcni's way to the built-in plugin types, which are called.
type executor struct {
	n *Network
	version.PluginDecoder
}

// call is one invocation of a plugin.
type call struct {
	command     string // ADD, DEL or CHECK
	containerID string
	netns       string
	ifName      string
	args        map[string]string
	conf        []byte
}

// builtins are the plugin types that run in this process.
var builtins = map[string]func(*Network, call) (*types100.Result, error){
	"bridge":   (*Network).bridgePlugin,
	"loopback": (*Network).loopbackPlugin,
}

// FindInPath knows the built-in types only.
func (e *executor) FindInPath(plugin string, _ []string) (string, error) {
	if _, ok := builtins[plugin]; !ok {
		return "", fmt.Errorf("internal error: plugin %q is not built in", plugin)
	}
	return plugin, nil
}

// ExecPlugin calls a plugin and returns what it answers.
func (e *executor) ExecPlugin(_ context.Context, name string, stdin []byte, environ []string) ([]byte, error) {
	c := call{conf: stdin, args: map[string]string{}}
	for _, kv := range environ {
		key, value, _ := strings.Cut(kv, "=")
		switch key {
		case "CNI_COMMAND":
			c.command = value
		case "CNI_CONTAINERID":
			c.containerID = value
		case "CNI_NETNS":
			c.netns = value
		case "CNI_IFNAME":
			c.ifName = value
		case "CNI_ARGS":
			for pair := range strings.SplitSeq(value, ";") {
				k, v, _ := strings.Cut(pair, "=")
				c.args[k] = v
			}
		}
	}
	result, err := builtins[name](e.n, c)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", name, c.command, err)
	}
	if result == nil {
		return nil, nil
	}
	var conf types.NetConf
	if err := json.Unmarshal(stdin, &conf); err != nil {
		return nil, err
	}
	versioned, err := result.GetAsVersion(conf.CNIVersion)
	if err != nil {
		return nil, err
	}
	return json.Marshal(versioned)
}

// previous returns what the plugins before this one in the list answered.
func (c call) previous() (*types100.Result, error) {
	var conf types.NetConf
	if err := json.Unmarshal(c.conf, &conf); err != nil {
		return nil, err
	}
	if err := version.ParsePrevResult(&conf); err != nil {
		return nil, err
	}
	if conf.PrevResult == nil {
		return &types100.Result{CNIVersion: conf.CNIVersion}, nil
	}
	return types100.NewResultFromResult(conf.PrevResult)
}
