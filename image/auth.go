package image

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Credentials are users and passwords by registry or repository, as docker's
// config.json and .dockercfg have them.
type Credentials map[string]entry

type entry struct {
	Auth          string `json:"auth,omitempty"` // USER:PASSWORD in base64
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// ParseDockerConfig reads a config.json.
func ParseDockerConfig(data []byte) (Credentials, error) {
	var file struct {
		Auths Credentials `json:"auths"`
	}
	err := json.Unmarshal(data, &file)
	return file.Auths, err
}

// ParseDockercfg reads a .dockercfg, what docker had before config.json.
func ParseDockercfg(data []byte) (Credentials, error) {
	var c Credentials
	err := json.Unmarshal(data, &c)
	return c, err
}

// Resolve returns what c has for a registry or repository, or Anonymous. The
// most specific entry wins: a repository before its registry, and that before a
// pattern such as *.example.com.
func (c Credentials) Resolve(target authn.Resource) (authn.Authenticator, error) {
	found, err := c.all(target)
	if err != nil || len(found) == 0 {
		return authn.Anonymous, err
	}
	return found[0], nil
}

// all returns everything that c has for a registry or repository, the most
// specific first: all are tried
// (https://kubernetes.io/docs/concepts/containers/images/#config-json).
func (c Credentials) all(target authn.Resource) ([]authn.Authenticator, error) {
	type match struct {
		key  string
		rank int
	}
	var matches []match
	for k := range c {
		name := canonical(k)
		rank := len(name)
		switch {
		case name == target.String(), strings.HasPrefix(target.String(), name+"/"):
			rank += 1 << 16
		case !matchHost(name, target.String()):
			continue
		}
		matches = append(matches, match{k, rank})
	}
	slices.SortFunc(matches, func(a, b match) int { return cmp.Or(b.rank-a.rank, strings.Compare(a.key, b.key)) })
	var list []authn.Authenticator
	for _, m := range matches {
		e := c[m.key]
		config := authn.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
		if e.Auth != "" {
			text, err := base64.StdEncoding.DecodeString(e.Auth)
			user, password, colon := strings.Cut(string(text), ":")
			if err != nil || !colon {
				return nil, fmt.Errorf("the entry for %s cannot be read", m.key)
			}
			config.Username, config.Password = user, strings.TrimRight(password, "\x00") // as docker does
		}
		list = append(list, authn.FromConfig(config))
	}
	return list, nil
}

// canonical is the registry or repository that a key is for: keys may be URLs,
// and Docker Hub has several names.
func canonical(key string) string {
	if _, rest, ok := strings.Cut(key, "://"); ok {
		key = rest
	}
	key = strings.TrimSuffix(key, "/")
	key = strings.TrimSuffix(strings.TrimSuffix(key, "/v1"), "/v2")
	host, rest, nested := strings.Cut(key, "/")
	if host == dockerHub || host == "registry-1."+dockerHub {
		host = "index." + dockerHub
	}
	if nested {
		return host + "/" + rest
	}
	return host
}

// matchHost tells whether the host of name, in which a * stands for a part
// between dots, is that of target, and the rest of name leads to it.
func matchHost(name, target string) bool {
	pattern, below, _ := strings.Cut(name, "/")
	host, rest, _ := strings.Cut(target, "/")
	if !strings.Contains(pattern, "*") || strings.Count(pattern, ".") != strings.Count(host, ".") {
		return false
	}
	ok, err := path.Match(strings.ReplaceAll(pattern, ".", "/"), strings.ReplaceAll(host, ".", "/"))
	return err == nil && ok && (below == "" || rest == below || strings.HasPrefix(rest, below+"/"))
}
