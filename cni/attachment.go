package cni

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"
)

// attachment is a pod's place in a network of plugins that are programs. It is
// written down before the first of them runs and removed after the last has
// undone its work, so that a kill anywhere between leaves what DEL needs: the
// list as it was, whatever has become of its file since.
//
// The built-in network does without: what it gives follows from the pod's id.
type attachment struct {
	Pod          string          `json:"pod"`
	Network      string          `json:"network"`
	Own          bool            `json:"own"` // the network is of the user's folder
	List         json.RawMessage `json:"list"`
	NetNS        string          `json:"netns"`
	Inode        uint64          `json:"inode"` // of the namespace: a path may come to name another
	Args         [][2]string     `json:"args"`
	Capabilities map[string]any  `json:"capabilities,omitempty"`
	Leaving      bool            `json:"leaving,omitempty"` // DEL has begun
}

func (n *Network) attachmentsDir() string { return filepath.Join(n.dir, "attachments") }

func (n *Network) attachmentFile(pod string) string {
	return filepath.Join(n.attachmentsDir(), pod+".json")
}

// attachment returns the pod's, nil for none.
func (n *Network) attachment(pod string) (*attachment, error) {
	data, err := os.ReadFile(n.attachmentFile(pod))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a := new(attachment)
	if err := json.Unmarshal(data, a); err != nil {
		// A crash of the machine, which took the pod network too.
		n.log.Warn("an attachment cannot be read and is dropped", "pod", pod, "err", err)
		return nil, os.Remove(n.attachmentFile(pod))
	}
	return a, nil
}

// attachments returns those of all pods.
func (n *Network) attachments() ([]*attachment, error) {
	entries, err := os.ReadDir(n.attachmentsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var list []*attachment
	var errs []error
	for _, e := range entries {
		pod, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue // being written
		}
		a, err := n.attachment(pod)
		if err != nil {
			errs = append(errs, err)
		}
		if a != nil {
			list = append(list, a)
		}
	}
	return list, errors.Join(errs...)
}

// save writes the attachment down. A reboot takes what it is about: nothing is
// flushed to the disk.
func (n *Network) save(a *attachment) error {
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(n.attachmentsDir(), 0o700); err != nil {
		return err
	}
	file := n.attachmentFile(a.Pod)
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// list is the network as it was when the pod was joined.
func (a *attachment) list() (*libcni.NetworkConfigList, error) {
	return libcni.NetworkConfFromBytes(a.List)
}

// runtimeConf is what libcni is told of the pod. The namespace is left out when
// it has gone.
func (a *attachment) runtimeConf() *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: a.Pod, IfName: interfaceName, Args: a.Args, CapabilityArgs: a.Capabilities,
	}
	if inode, err := inodeOf(a.NetNS); err == nil && inode == a.Inode {
		rt.NetNS = a.NetNS
	}
	return rt
}

func inodeOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// prepare returns the list of a file as its plugins get it: those that write
// where an ordinary user may not, and were told no other place, get one.
func (n *Network) prepare(list *libcni.NetworkConfigList) (*libcni.NetworkConfigList, error) {
	plugins := make([]*libcni.PluginConfig, len(list.Plugins))
	for i, p := range list.Plugins {
		plugins[i] = p
		change := map[string]any{}
		var conf struct {
			DataDir string         `json:"dataDir"`
			IPAM    map[string]any `json:"ipam"`
		}
		if err := json.Unmarshal(p.Bytes, &conf); err != nil {
			return nil, err
		}
		if conf.IPAM["type"] == "host-local" && conf.IPAM["dataDir"] == nil {
			conf.IPAM["dataDir"] = filepath.Join(n.dir, "plugins", "host-local")
			change["ipam"] = conf.IPAM
		}
		if p.Network.Type == "tuning" && conf.DataDir == "" {
			change["dataDir"] = filepath.Join(n.dir, "plugins", "tuning")
		}
		if len(change) > 0 {
			var err error
			if plugins[i], err = libcni.InjectConf(p, change); err != nil {
				return nil, err
			}
		}
	}
	return listOf(list.Name, list.CNIVersion, list.DisableCheck, list.DisableGC, plugins)
}
