package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// Digest names exact bytes: "sha256:" and 64 hex digits.
type Digest string

// Hex is the digest without its algorithm.
func (d Digest) Hex() string {
	_, hex, _ := strings.Cut(string(d), ":")
	return hex
}

// repositoryPattern is that of the OCI distribution specification, "Pulling
// manifests".
var repositoryPattern = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)

// dockerHub is what users call the registry index.docker.io.
const dockerHub = "docker.io"

// Reference names an image: registry, repository, and a tag or a digest.
type Reference struct {
	registry, repository string
	tag                  string // "" when there is only a digest
	digest               Digest // "" when there is none
	short                string // the name as it was given, if that was without a registry
}

// ParseReference reads an image name as docker does: "busybox" is
// docker.io/library/busybox:latest, unless registries.conf says otherwise where
// it is used. A tag beside a digest is kept for show.
func ParseReference(s string) (Reference, error) {
	if s == "" {
		return Reference{}, errors.New("image name is empty")
	}
	base, digest, hasDigest := strings.Cut(s, "@")
	ref, err := name.NewTag(base, name.WithDefaultRegistry("index."+dockerHub))
	if err != nil {
		return Reference{}, fmt.Errorf("%q is not an image name: %w", s, plain(err))
	}
	r := Reference{registry: ref.Context().RegistryStr(), repository: ref.Context().RepositoryStr()}
	if r.registry == "index."+dockerHub || r.registry == "registry-1."+dockerHub {
		r.registry = dockerHub
		if !strings.Contains(r.repository, "/") {
			r.repository = "library/" + r.repository
		}
	}
	if !repositoryPattern.MatchString(r.repository) || r.registry == "" {
		return Reference{}, fmt.Errorf("%q is not an image name: a repository is lower-case words joined by '/', '.', '_' or '-'", s)
	}
	if first, _, _ := strings.Cut(base, "/"); first == base || first != "localhost" && !strings.ContainsAny(first, ".:") {
		r.short = strings.TrimPrefix(r.repository, "library/")
		if strings.HasPrefix(base, "library/") {
			r.short = r.repository
		}
	}
	tagged := strings.Contains(base[strings.LastIndexByte(base, '/')+1:], ":")
	if !hasDigest || tagged {
		r.tag = ref.Identifier()
	}
	if hasDigest {
		if _, err := name.NewDigest(ref.Context().Name() + "@" + digest); err != nil {
			return Reference{}, fmt.Errorf("%q is not an image name: %w", s, plain(err))
		}
		r.digest = Digest(digest)
	}
	return r, nil
}

// plain drops the library's own quoting of the name from its message.
func plain(err error) error {
	var bad *name.ErrBadName
	if errors.As(err, &bad) {
		return errors.New(strings.TrimPrefix(bad.Error(), "could not parse reference: "))
	}
	return err
}

// Registry is the host, with its port, that has the image.
func (r Reference) Registry() string { return r.registry }

// Repository is the path within the registry.
func (r Reference) Repository() string { return r.repository }

// Tag is the tag, "" when the reference has a digest only.
func (r Reference) Tag() string { return r.tag }

// Digest is the digest, "" when the reference has none.
func (r Reference) Digest() Digest { return r.digest }

// identifier is what a registry is asked for: the digest if there is one.
func (r Reference) identifier() string {
	if r.digest != "" {
		return string(r.digest)
	}
	return r.tag
}

// String is the whole reference: docker.io/library/busybox:latest.
func (r Reference) String() string {
	s := r.registry + "/" + r.repository
	if r.tag != "" {
		s += ":" + r.tag
	}
	if r.digest != "" {
		s += "@" + string(r.digest)
	}
	return s
}

// Familiar is the reference as docker shows it: busybox:latest.
func (r Reference) Familiar() string {
	s := strings.TrimPrefix(r.String(), dockerHub+"/")
	return strings.TrimPrefix(s, "library/")
}

// MarshalJSON writes the whole reference.
func (r Reference) MarshalJSON() ([]byte, error) { return json.Marshal(r.String()) }
