package image

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// resolveFile looks a registry up in a credential file of docker's format.
func resolveFile(path string, target authn.Resource) (authn.Authenticator, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return authn.Anonymous, nil
	}
	if err != nil {
		return nil, err
	}
	var file struct {
		Auths map[string]struct {
			Auth string `json:"auth"`
		} `json:"auths"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("credential file %s: %w", path, err)
	}
	// The most specific entry wins: a repository before its registry.
	for key := target.String(); key != ""; key = parent(key) {
		if e, ok := file.Auths[key]; ok {
			text, err := base64.StdEncoding.DecodeString(e.Auth)
			user, password, colon := strings.Cut(string(text), ":")
			if err != nil || !colon {
				return nil, fmt.Errorf("credential file %s: the entry for %s cannot be read", path, key)
			}
			return authn.FromConfig(authn.AuthConfig{Username: user, Password: password}), nil
		}
	}
	return authn.Anonymous, nil
}

// parent drops the last part of a path.
func parent(key string) string { return key[:max(strings.LastIndexByte(key, '/'), 0)] }
