package cni

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"get.podrun.dev/podrun/internal/hint"
)

// Settings are what a person says of the built-in network, in network.toml:
//
//	subnet  = "10.1.0.0/16"      # of the pods; without it one that the host does not use
//	subnet6 = "fd12:3456::/64"   # without it a unique local one, made once; "none" for no IPv6
//	cluster-domain = "cluster.local"     # of pods' names
//	resolv-conf    = "/etc/resolv.conf"  # names the resolvers for all other names
//	host-loopback  = false               # host.podrun.internal is not there
//	user-mode-tcp  = true                # of gVisor in the node, in place of the kernel's
type Settings struct {
	Subnet        netip.Prefix
	Subnet6       netip.Prefix
	NoIPv6        bool
	NoHost        bool   // pods do not reach the host's loopback
	UserTCP       bool   // pods' TCP to the outside is not the kernel's even if it could be
	ClusterDomain string // "" is DefaultClusterDomain
	ResolvConf    string // "" is /etc/resolv.conf
	File          string // where they were read, "" for nowhere
}

// noIPv6 is the value of subnet6 that switches IPv6 off.
const noIPv6 = "none"

// source names the settings in messages.
func (s Settings) source() string {
	if s.File == "" {
		return "the settings"
	}
	return s.File
}

// ReadSettings reads the first of files that exists; without any the Settings
// are zero, which is the default. What it does not know is an error.
func ReadSettings(files ...string) (Settings, error) {
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Settings{}, err
		}
		s, err := parseSettings(data)
		s.File = file
		if err != nil {
			return s, hint.Wrap(fmt.Errorf("%s: %w", file, err), "mend the file")
		}
		return s, nil
	}
	return Settings{}, nil
}

func parseSettings(data []byte) (s Settings, err error) {
	var text struct {
		Subnet        string `toml:"subnet"`
		Subnet6       string `toml:"subnet6"`
		ClusterDomain string `toml:"cluster-domain"`
		ResolvConf    string `toml:"resolv-conf"`
		Host          *bool  `toml:"host-loopback"`
		UserTCP       bool   `toml:"user-mode-tcp"`
	}
	decoder := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := decoder.Decode(&text); err != nil {
		var unknown *toml.StrictMissingError
		if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
			row, _ := unknown.Errors[0].Position()
			return s, fmt.Errorf("line %d: there is no setting %q", row, strings.Join(unknown.Errors[0].Key(), "."))
		}
		var where *toml.DecodeError
		if errors.As(err, &where) {
			row, _ := where.Position()
			if key := where.Key(); len(key) > 0 && strings.Contains(err.Error(), "cannot decode") {
				// The library names our type, which is nothing to a person.
				return s, fmt.Errorf("line %d: %s has a value of another type than is needed", row, strings.Join(key, "."))
			}
			return s, fmt.Errorf("line %d: %w", row, err)
		}
		return s, err
	}
	if text.Subnet != "" {
		if s.Subnet, err = netip.ParsePrefix(text.Subnet); err != nil {
			return s, fmt.Errorf("subnet %q is not a subnet such as 10.1.0.0/16", text.Subnet)
		}
	}
	s.UserTCP = text.UserTCP
	s.NoHost = text.Host != nil && !*text.Host
	s.NoIPv6 = text.Subnet6 == noIPv6
	if text.Subnet6 != "" && !s.NoIPv6 {
		if s.Subnet6, err = netip.ParsePrefix(text.Subnet6); err != nil {
			return s, fmt.Errorf("subnet6 %q is not a subnet such as fd12:3456::/64, nor %q", text.Subnet6, noIPv6)
		}
	}
	if s.ClusterDomain = strings.TrimSuffix(text.ClusterDomain, "."); !isDomain(s.ClusterDomain) {
		return s, fmt.Errorf("cluster-domain %q is not a domain such as %s", text.ClusterDomain, DefaultClusterDomain)
	}
	if s.ResolvConf = text.ResolvConf; s.ResolvConf != "" && !filepath.IsAbs(s.ResolvConf) {
		return s, fmt.Errorf("resolv-conf %q is not an absolute path", s.ResolvConf)
	}
	// What the subnets must be is said at once, not when the first pod starts.
	check := s.Subnet
	if !check.IsValid() {
		check = netip.MustParsePrefix(defaultSubnets[0])
	}
	_, err = newPlan(check, s.Subnet6)
	return s, err
}
