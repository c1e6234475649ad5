package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"get.podrun.dev/podrun/internal/hint"
)

const (
	// maxConflist bounds the file of a network.
	maxConflist = 1 << 20
	// oldestVersion and newestVersion of CNI are what pods can be joined with:
	// before the first an answer did not name interfaces.
	oldestVersion, newestVersion = "0.3.1", "1.1.0"
)

// ParseConflist reads a CNI network list
// (https://www.cni.dev/docs/spec/#section-1-network-configuration-format), or a
// single plugin's configuration of older times, which becomes a list of one.
func ParseConflist(data []byte) (*libcni.NetworkConfigList, error) {
	return parseConflist(data, nil)
}

// parseConflist is ParseConflist for a list whose plugins may be in files of
// their own, which load reads.
func parseConflist(data []byte, load func(name string) ([]*libcni.PluginConfig, error)) (*libcni.NetworkConfigList, error) {
	var shape struct {
		Type    string          `json:"type"`
		Plugins json.RawMessage `json:"plugins"`
	}
	if err := json.Unmarshal(data, &shape); err != nil {
		return nil, fmt.Errorf("CNI network list: %w", err)
	}
	var list *libcni.NetworkConfigList
	var err error
	if shape.Plugins == nil && shape.Type != "" {
		var one *libcni.PluginConfig
		if one, err = libcni.NetworkPluginConfFromBytes(data); err == nil {
			list, err = listOf(one.Network.Name, one.Network.CNIVersion, false, false, []*libcni.PluginConfig{one})
		}
	} else {
		list, err = libcni.NetworkConfFromBytes(data)
		if err == nil && load != nil && !list.LoadOnlyInlinedPlugins && utils.ValidateNetworkName(list.Name) == nil {
			var more []*libcni.PluginConfig
			more, err = load(list.Name)
			list.Plugins = append(list.Plugins, more...)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("CNI network list: %w", err)
	}
	if err := utils.ValidateNetworkName(list.Name); err != nil {
		return nil, fmt.Errorf("CNI network list: name %q: %s", list.Name, err.Msg)
	}
	if len(list.Plugins) == 0 {
		return nil, fmt.Errorf("CNI network list %q: no plugins", list.Name)
	}
	for i, p := range list.Plugins {
		if p.Network == nil || p.Network.Type == "" {
			return nil, fmt.Errorf("CNI network list %q: plugin %d has no type", list.Name, i)
		}
		if p.Network.IPAM.Type == "dhcp" {
			return nil, hint.Wrap(fmt.Errorf("CNI network list %q: plugin %q: ipam dhcp is not supported: the pod network has no DHCP server, and no daemon of the plugin runs in it", list.Name, p.Network.Type),
				"use ipam host-local or static")
		}
	}
	old, err := version.GreaterThan(oldestVersion, list.CNIVersion)
	if err != nil {
		return nil, fmt.Errorf("CNI network list %q: cniVersion: %w", list.Name, err)
	}
	fresh, err := version.GreaterThan(list.CNIVersion, newestVersion)
	if err != nil {
		return nil, fmt.Errorf("CNI network list %q: cniVersion: %w", list.Name, err)
	}
	if old || fresh {
		return nil, fmt.Errorf("CNI network list %q: cniVersion %q: %s to %s are supported", list.Name, list.CNIVersion, oldestVersion, newestVersion)
	}
	return list, nil
}

// listOf is a list whose bytes have all of its plugins in them.
func listOf(name, cniVersion string, noCheck, noGC bool, plugins []*libcni.PluginConfig) (*libcni.NetworkConfigList, error) {
	whole := struct {
		Name       string            `json:"name"`
		CNIVersion string            `json:"cniVersion"`
		NoCheck    bool              `json:"disableCheck,omitempty"`
		NoGC       bool              `json:"disableGC,omitempty"`
		Inlined    bool              `json:"loadOnlyInlinedPlugins"`
		Plugins    []json.RawMessage `json:"plugins"`
	}{Name: name, CNIVersion: cniVersion, NoCheck: noCheck, NoGC: noGC, Inlined: true}
	for _, p := range plugins {
		whole.Plugins = append(whole.Plugins, p.Bytes)
	}
	data, err := json.Marshal(whole)
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(data)
}

// file is a file of a folder for networks, and what is in it.
type file struct {
	path string
	own  bool // of the user's folder, not the system's
	list *libcni.NetworkConfigList
	err  error // why it is no network
}

// files reads the folders for networks in their order, and the files of each in
// the order of their names.
func (n *Network) files() []file {
	var out []file
	for i, dir := range n.o.ConfDirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			out = append(out, file{path: dir, err: err})
		}
		for _, e := range entries {
			if !slices.Contains([]string{".conflist", ".conf", ".json"}, filepath.Ext(e.Name())) {
				continue
			}
			f := file{path: filepath.Join(dir, e.Name()), own: i == 0}
			var data []byte
			if data, f.err = readBounded(f.path); f.err == nil {
				f.list, f.err = parseConflist(data, func(name string) ([]*libcni.PluginConfig, error) {
					return libcni.NetworkPluginConfsFromFiles(dir, name)
				})
			}
			if f.err == nil && f.list.Name == networkName {
				f.err = hint.Wrap(fmt.Errorf("%q is the built-in network's name", networkName), "give the network another name")
			}
			out = append(out, f)
		}
	}
	return out
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is not a file", path), err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConflist+1))
	if err == nil && len(data) > maxConflist {
		err = fmt.Errorf("%s has more than %d bytes", path, maxConflist)
	}
	return data, err
}

// NotFoundError says that there is no network of a name, or none that can be
// used. That may change: people write files.
type NotFoundError struct {
	Name string
	Dirs []string
	Why  error // what is wrong with the file that is meant; nil without one
}

func (e *NotFoundError) Error() string {
	if e.Why != nil {
		return fmt.Sprintf("network %q cannot be used: %v", e.Name, e.Why)
	}
	return fmt.Sprintf("network %q not found", e.Name)
}

// mend tells where networks are looked for, or what to do to the file.
func (e *NotFoundError) mend() string {
	switch {
	case e.Why == nil:
		return "put its conflist into " + strings.Join(e.Dirs, " or ")
	case hint.Of(e.Why) != "":
		return hint.Of(e.Why)
	}
	return "mend the file"
}

// find returns the first network of a name.
func (n *Network) find(name string) (file, error) {
	missing := &NotFoundError{Name: name, Dirs: n.o.ConfDirs}
	for _, f := range n.files() {
		switch {
		case f.err == nil && f.list.Name == name:
			return f, nil
		case f.err != nil && (stem(f.path) == name || strings.Contains(f.err.Error(), fmt.Sprintf("list %q", name))):
			missing.Why = fmt.Errorf("%s: %w", f.path, f.err)
		}
	}
	return file{}, hint.Wrap(missing, missing.mend())
}

// waitPeriod is how often the folders are looked at while a pod waits for a
// network. They need not exist, which is why nothing is told of a change.
const waitPeriod = time.Second

// Await returns a channel that is closed when there is a network of a name. It
// is nil, which tells nothing, when there is one by now. The looking ends with
// ctx.
func (n *Network) Await(ctx context.Context, name string) <-chan struct{} {
	there := func() bool {
		_, err := n.find(name)
		return name == "" || name == networkName || err == nil
	}
	if there() {
		return nil
	}
	appeared := make(chan struct{})
	go func() {
		tick := time.NewTicker(waitPeriod)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if there() {
				close(appeared)
				return
			}
		}
	}()
	return appeared
}

// stem is a file's name without its ending, which by habit is the network's.
func stem(path string) string {
	return strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
}
