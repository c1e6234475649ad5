package image

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Registries is what registries.conf says: where images are looked for
// (containers-registries.conf(5), version 2).
type Registries struct {
	Search     []string   `toml:"unqualified-search-registries"`
	Registries []registry `toml:"registry"`
}

type registry struct {
	Prefix   string   `toml:"prefix"`
	Location string   `toml:"location"`
	Insecure bool     `toml:"insecure"`
	Blocked  bool     `toml:"blocked"`
	Mirrors  []mirror `toml:"mirror"`
}

type mirror struct {
	Location string `toml:"location"`
	Insecure bool   `toml:"insecure"`
}

// LoadRegistries reads the first registries.conf of $PODRUN_REGISTRIES_CONF,
// ~/.config/containers and /etc/containers. None is no error, unless the
// variable names it.
func LoadRegistries() (*Registries, error) {
	var paths []string
	named := os.Getenv("PODRUN_REGISTRIES_CONF")
	if named != "" {
		paths = []string{named}
	} else {
		if dir, err := os.UserConfigDir(); err == nil {
			paths = append(paths, filepath.Join(dir, "containers", "registries.conf"))
		}
		paths = append(paths, "/etc/containers/registries.conf")
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && named == "" {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("registries.conf: %w", err)
		}
		return ParseRegistries(path, data)
	}
	return &Registries{}, nil
}

// ParseRegistries reads a registries.conf; path is for messages.
func ParseRegistries(path string, data []byte) (*Registries, error) {
	r := &Registries{}
	if err := toml.Unmarshal(data, r); err != nil {
		var bad *toml.DecodeError
		if errors.As(err, &bad) {
			line, column := bad.Position()
			return nil, fmt.Errorf("%s:%d:%d: %w", path, line, column, bad)
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i := range r.Registries {
		e := &r.Registries[i]
		if e.Prefix == "" {
			e.Prefix = e.Location
		}
		if e.Prefix == "" {
			return nil, fmt.Errorf("%s: a [[registry]] has neither prefix nor location", path)
		}
	}
	return r, nil
}

// endpoint is one place to ask for an image.
type endpoint struct {
	registry, repository string
	insecure             bool // plain HTTP, or a certificate that cannot be verified
	credentials          []Credentials
}

// same tells whether two are one place.
func (at endpoint) same(other endpoint) bool {
	return at.registry == other.registry && at.repository == other.repository
}

// errBlocked is the cause of a pull from a blocked registry.
var errBlocked = errors.New("registries.conf blocks this registry")

// endpoints returns where to look for ref: the mirrors in order, then the
// registry itself.
func (r *Registries) endpoints(ref Reference) ([]endpoint, error) {
	full := ref.Registry() + "/" + ref.Repository()
	var best *registry
	for i := range r.Registries {
		e := &r.Registries[i]
		if matchPrefix(e.Prefix, full) && (best == nil || len(e.Prefix) > len(best.Prefix)) {
			best = e
		}
	}
	own := endpoint{registry: ref.Registry(), repository: ref.Repository(), insecure: isLoopback(ref.Registry())}
	if best == nil {
		return []endpoint{own}, nil
	}
	if best.Blocked {
		return nil, fmt.Errorf("%w (%s)", errBlocked, best.Prefix)
	}
	rest := full
	if !strings.HasPrefix(best.Prefix, "*.") {
		rest = strings.TrimPrefix(full, best.Prefix)
	}
	var list []endpoint
	for _, m := range best.Mirrors {
		list = append(list, split(m.Location+rest, m.Insecure))
	}
	if best.Location != "" && !strings.HasPrefix(best.Prefix, "*.") {
		return append(list, split(best.Location+rest, best.Insecure)), nil
	}
	own.insecure = own.insecure || best.Insecure
	return append(list, own), nil
}

// matchPrefix tells whether a prefix of registries.conf is for an image: a
// host, a path below one, or "*." and a domain.
func matchPrefix(prefix, full string) bool {
	if domain, ok := strings.CutPrefix(prefix, "*"); ok {
		host, _, _ := strings.Cut(full, "/")
		host, _, _ = strings.Cut(host, ":")
		return strings.HasSuffix(host, domain)
	}
	rest, ok := strings.CutPrefix(full, prefix)
	return ok && (rest == "" || rest[0] == '/')
}

func split(location string, insecure bool) endpoint {
	host, repository, _ := strings.Cut(location, "/")
	return endpoint{registry: host, repository: repository, insecure: insecure || isLoopback(host)}
}

// isLoopback tells whether a registry is on this machine: docker and podman
// talk plain HTTP to it too.
func isLoopback(registry string) bool {
	host, _, err := net.SplitHostPort(registry)
	if err != nil {
		host = registry
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
