package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/containernetworking/plugins/pkg/ns"
)

// executor is libcni's way to plugins: built-in types are called, others are
// executed in the pod network, where their bridges and veths belong.
type executor struct {
	n *Network
	version.PluginDecoder
}

// builtinPath marks a plugin that is not a file.
const builtinPath = "built-in:"

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

// FindInPath says where a plugin is. Built-in types go before files.
func (e *executor) FindInPath(plugin string, paths []string) (string, error) {
	if _, ok := builtins[plugin]; ok && e.n.o.Conflist == nil {
		return builtinPath + plugin, nil
	}
	return invoke.FindInPath(plugin, paths)
}

// ExecPlugin runs a plugin and returns what it answers.
func (e *executor) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	name, builtin := strings.CutPrefix(path, builtinPath)
	if !builtin {
		var out []byte
		err := e.n.pods.Do(func(ns.NetNS) (err error) {
			out, err = (&invoke.RawExec{}).ExecPlugin(ctx, path, stdin, environ)
			return err
		})
		return out, err
	}
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
