package image

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Platform is what an image is built for.
type Platform struct {
	OS, Architecture, Variant string
}

func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// wire is the way to registries: all HTTP of podrun's images is here.
type wire struct {
	platform Platform
	keychain authn.Keychain
	secure   http.RoundTripper
	insecure http.RoundTripper
}

func newWire(platform Platform, keychain authn.Keychain) *wire {
	if keychain == nil {
		keychain = authn.NewMultiKeychain(authn.DefaultKeychain, userKeychain{})
	}
	return &wire{platform: platform, keychain: keychain, secure: newTransport(false), insecure: newTransport(true)}
}

func newTransport(insecure bool) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   8,
		ForceAttemptHTTP2:     true,
		TLSClientConfig:       &tls.Config{InsecureSkipVerify: insecure, MinVersion: tls.VersionTLS12},
	}
}

// reference is what the library calls at, for a tag or digest of ref.
func (at endpoint) reference(ref Reference) (name.Reference, error) {
	host := at.registry
	if host == dockerHub {
		host = "index." + dockerHub
	}
	var options []name.Option
	if at.insecure {
		options = append(options, name.Insecure)
	}
	full := host + "/" + at.repository
	if d := ref.Digest(); d != "" {
		return name.NewDigest(full+"@"+string(d), options...)
	}
	return name.NewTag(full+":"+ref.Tag(), options...)
}

func (w *wire) options(ctx context.Context, at endpoint) []remote.Option {
	transport := w.secure
	if at.insecure {
		transport = w.insecure
	}
	var keychains []authn.Keychain
	for _, c := range at.credentials {
		keychains = append(keychains, c)
	}
	return []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.NewMultiKeychain(append(keychains, w.keychain)...)), remote.WithTransport(transport),
		remote.WithUserAgent("podrun"),
		remote.WithPlatform(v1.Platform{OS: w.platform.OS, Architecture: w.platform.Architecture, Variant: w.platform.Variant}),
	}
}

// head asks what a reference stands for now.
func (w *wire) head(ctx context.Context, at endpoint, ref Reference) (Digest, error) {
	r, err := at.reference(ref)
	if err != nil {
		return "", err
	}
	d, err := remote.Head(r, w.options(ctx, at)...)
	if err != nil {
		return "", explain(err, at)
	}
	return Digest(d.Digest.String()), nil
}

// found is an image in a registry, of which nothing but the manifest was read.
type found struct {
	at    endpoint
	top   Digest // of what the reference named, an index or a manifest
	named []byte // the bytes of that
	image v1.Image
}

// find reads the manifest that ref stands for, the platform's own out of an
// index.
func (w *wire) find(ctx context.Context, at endpoint, ref Reference) (*found, error) {
	r, err := at.reference(ref)
	if err != nil {
		return nil, err
	}
	d, err := remote.Get(r, w.options(ctx, at)...)
	if err != nil {
		return nil, explain(err, at)
	}
	if d.MediaType.IsIndex() {
		if err := w.offers(d); err != nil {
			return nil, err
		}
	} else if !d.MediaType.IsImage() {
		return nil, fmt.Errorf("what registry %s has under that name is no image but %q", at.registry, d.MediaType)
	}
	img, err := d.Image()
	if err != nil {
		return nil, explain(err, at)
	}
	return &found{at: at, top: Digest(d.Digest.String()), named: d.Manifest, image: img}, nil
}

// offers tells whether an index has an image for our platform, and if not,
// which it has.
func (w *wire) offers(d *remote.Descriptor) error {
	index, err := d.ImageIndex()
	if err != nil {
		return err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return err
	}
	want := v1.Platform{OS: w.platform.OS, Architecture: w.platform.Architecture, Variant: w.platform.Variant}
	var have []string
	for _, e := range m.Manifests {
		if e.Platform == nil || e.Platform.Satisfies(want) {
			return nil
		}
		if e.Platform.OS != "unknown" { // attestations
			have = append(have, e.Platform.String())
		}
	}
	return fmt.Errorf("the image is not made for %s, only for %v", w.platform, have)
}

// userKeychain reads ~/.config/containers/auth.json, which podman falls back
// to; the library reads the other places.
type userKeychain struct{}

// Resolve returns the stored credentials for a registry, or Anonymous.
func (userKeychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return authn.Anonymous, nil
	}
	return resolveFile(filepath.Join(dir, "containers", "auth.json"), target)
}
