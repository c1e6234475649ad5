package image

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"get.podrun.dev/podrun/internal/hint"
)

// Registries is what registries.conf and its drop-in files say: where images are
// looked for (containers-registries.conf(5), version 2).
type Registries struct {
	// Search are the registries of names without one, in order; nil when nothing
	// is said, which is docker.io.
	Search []string `toml:"unqualified-search-registries"`
	// ShortNameMode is enforcing, permissive or disabled; "" is permissive.
	ShortNameMode string `toml:"short-name-mode"`
	// Aliases are the whole names of short ones.
	Aliases    map[string]string `toml:"aliases"`
	Registries []registry        `toml:"registry"`

	Version1 map[string]any `toml:"registries"`
}

type registry struct {
	Prefix             string   `toml:"prefix"`
	Location           string   `toml:"location"`
	Insecure           bool     `toml:"insecure"`
	Blocked            bool     `toml:"blocked"`
	Mirrors            []mirror `toml:"mirror"`
	MirrorByDigestOnly bool     `toml:"mirror-by-digest-only"`
}

type mirror struct {
	Location string `toml:"location"`
	Insecure bool   `toml:"insecure"`
	// For is what it is used for: all, digest-only or tag-only; "" is all.
	For string `toml:"pull-from-mirror"`
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
	if err := r.check(); err != nil {
		return nil, hint.Wrap(fmt.Errorf("%s: %w", path, err), hint.Of(err))
	}
	return r, nil
}

func (r *Registries) check() error {
	if r.Version1 != nil {
		return hint.Wrap(errors.New("[registries.search], [registries.insecure] and [registries.block] are of version 1 of the format, which is out of use"),
			"write unqualified-search-registries and [[registry]] tables, as containers-registries.conf(5) has them")
	}
	if !slices.Contains([]string{"", "enforcing", "permissive", "disabled"}, r.ShortNameMode) {
		return fmt.Errorf("short-name-mode is %q, not enforcing, permissive or disabled", r.ShortNameMode)
	}
	for i, s := range r.Search {
		s, err := checkLocation(s)
		if err != nil {
			return fmt.Errorf("unqualified-search-registries: %w", err)
		}
		if strings.Contains(s, "/") {
			return fmt.Errorf("unqualified-search-registries: %q is more than host[:port]", s)
		}
		r.Search[i] = s
	}
	for short, full := range r.Aliases {
		from, err := ParseReference(short)
		if err != nil || from.short == "" || strings.ContainsAny(short, ":@") {
			return fmt.Errorf("alias %q is not a name without registry, tag and digest", short)
		}
		if full == "" {
			continue // erases it
		}
		to, err := ParseReference(full)
		if err != nil || to.short != "" || to.digest != "" || strings.Contains(full[strings.LastIndexByte(full, '/')+1:], ":") {
			return fmt.Errorf("alias %q is for %q, which is not a name with a registry and without tag and digest", short, full)
		}
	}
	prefixes := map[string]bool{}
	for i := range r.Registries {
		if err := r.Registries[i].check(); err != nil {
			return err
		}
		prefix := r.Registries[i].Prefix
		if prefixes[prefix] {
			return fmt.Errorf("there are two [[registry]] tables for %q", prefix)
		}
		prefixes[prefix] = true
	}
	return nil
}

// check looks for mistakes and fills in what stands for itself.
func (e *registry) check() (err error) {
	if e.Prefix == "" {
		e.Prefix = e.Location
	}
	if e.Prefix == "" {
		return errors.New("a [[registry]] has neither prefix nor location")
	}
	if domain, ok := strings.CutPrefix(e.Prefix, "*."); ok {
		if domain == "" || strings.ContainsAny(domain, "*/:@") {
			return fmt.Errorf("prefix %q: a wildcard stands before a domain, as in *.example.com", e.Prefix)
		}
	} else if e.Prefix, err = checkLocation(e.Prefix); err != nil {
		return fmt.Errorf("prefix: %w", err)
	} else if e.Location == "" {
		e.Location = e.Prefix
	}
	if e.Location != "" {
		if e.Location, err = checkLocation(e.Location); err != nil {
			return fmt.Errorf("registry %q: location: %w", e.Prefix, err)
		}
	}
	for i := range e.Mirrors {
		m := &e.Mirrors[i]
		if m.Location == "" {
			return fmt.Errorf("registry %q: a mirror has no location", e.Prefix)
		}
		if m.Location, err = checkLocation(m.Location); err != nil {
			return fmt.Errorf("registry %q: mirror: %w", e.Prefix, err)
		}
		if !slices.Contains([]string{"", "all", "digest-only", "tag-only"}, m.For) {
			return fmt.Errorf("mirror %q: pull-from-mirror is %q, not all, digest-only or tag-only", m.Location, m.For)
		}
		if m.For != "" && e.MirrorByDigestOnly {
			return fmt.Errorf("registry %q: mirror-by-digest-only, and pull-from-mirror of mirror %q, cannot both be", e.Prefix, m.Location)
		}
	}
	return nil
}

// checkLocation reads host[:port][/path] and drops a slash at its end.
func checkLocation(s string) (string, error) {
	trimmed := strings.TrimRight(s, "/")
	switch {
	case trimmed == "":
		return "", fmt.Errorf("%q is empty", s)
	case strings.Contains(s, "://"):
		return "", fmt.Errorf("%q is an address, not host[:port][/path]; insecure = true is for http", s)
	case strings.ContainsAny(s, "* \t"):
		return "", fmt.Errorf("%q is not host[:port][/path]", s)
	}
	return trimmed, nil
}

// merge lays what a later file says over r.
func (r *Registries) merge(over *Registries) {
	if over.Search != nil {
		r.Search = over.Search
	}
	if over.ShortNameMode != "" {
		r.ShortNameMode = over.ShortNameMode
	}
	for _, e := range over.Registries {
		i := slices.IndexFunc(r.Registries, func(old registry) bool { return old.Prefix == e.Prefix })
		if i < 0 {
			r.Registries = append(r.Registries, e)
		} else {
			r.Registries[i] = e
		}
	}
	if r.Aliases == nil {
		r.Aliases = map[string]string{}
	}
	maps.Copy(r.Aliases, over.Aliases)
	maps.DeleteFunc(r.Aliases, func(_, full string) bool { return full == "" })
}

// endpoint is one place to ask for an image.
type endpoint struct {
	registry, repository string
	identifier           string // the tag or digest it has there
	insecure             bool   // plain HTTP, or a certificate that cannot be verified
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
	full := ref.String()
	var best *registry
	length := 0 // of what best's prefix matches
	for i := range r.Registries {
		e := &r.Registries[i]
		if n := matchPrefix(e.Prefix, full); n > 0 && (best == nil || len(e.Prefix) > len(best.Prefix)) {
			best, length = e, n
		}
	}
	own := endpoint{registry: ref.Registry(), repository: ref.Repository(), identifier: ref.identifier(), insecure: isLoopback(ref.Registry())}
	if best == nil {
		return []endpoint{own}, nil
	}
	if best.Blocked {
		return nil, fmt.Errorf("%w (%s)", errBlocked, best.Prefix)
	}
	var list []endpoint
	rest := full[length:]
	for _, m := range best.Mirrors {
		byDigest := ref.Digest() != ""
		if !byDigest && (best.MirrorByDigestOnly || m.For == "digest-only") || byDigest && m.For == "tag-only" {
			continue
		}
		at, err := locate(m.Location+rest, m.Insecure, own)
		if err != nil {
			return nil, err
		}
		list = append(list, at)
	}
	if best.Location == "" {
		own.insecure = own.insecure || best.Insecure
		return append(list, own), nil
	}
	at, err := locate(best.Location+rest, best.Insecure, own)
	return append(list, at), err
}

// matchPrefix returns how much of the name of an image a prefix of
// registries.conf is for, 0 if it is for another: a host, a path below one, a
// whole name, or "*." and a domain.
func matchPrefix(prefix, full string) int {
	n := len(prefix)
	if domain, ok := strings.CutPrefix(prefix, "*"); ok {
		host, _, _ := strings.Cut(full, "/")
		host, _, _ = strings.Cut(host, ":")
		if !strings.HasSuffix(host, domain) {
			return 0
		}
		return len(host)
	}
	if strings.HasPrefix(full, prefix) && (n == len(full) || strings.IndexByte("/:@", full[n]) >= 0) {
		return n
	}
	return 0
}

// locate reads the place that a location, and what follows the prefix, make.
func locate(where string, insecure bool, own endpoint) (endpoint, error) {
	host, path, _ := strings.Cut(where, "/")
	path, _, _ = strings.Cut(path, "@")
	repository, tag, tagged := strings.Cut(path, ":")
	if repository == "" || strings.Contains(tag, "/") {
		return endpoint{}, fmt.Errorf("registries.conf leads to %q, which names no repository", where)
	}
	at := endpoint{registry: host, repository: repository, identifier: own.identifier, insecure: insecure || isLoopback(host)}
	if tagged && !strings.Contains(own.identifier, ":") {
		at.identifier = tag
	}
	return at, nil
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
