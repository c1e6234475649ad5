package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// maxRedirects is how often a registry may send us elsewhere for one answer.
const maxRedirects = 10

// wire is the way to registries: all HTTP of podrun's images is here.
type wire struct {
	keychain authn.Keychain
	log      *slog.Logger
	patience

	mu         sync.Mutex
	transports map[transportKey]*retrier
}

// transportKey is what one transport may be shared by.
type transportKey struct {
	host     string
	insecure bool
	certs    string // what its certs.d holds
}

func newWire(keychain authn.Keychain, log *slog.Logger, p patience) *wire {
	if keychain == nil {
		keychain = userKeychain{}
	}
	return &wire{keychain: keychain, log: log, patience: p.orDefault(), transports: map[transportKey]*retrier{}}
}

// transport is the way to a registry, with its certificates as they are now.
func (w *wire) transport(at endpoint) (*retrier, error) {
	certs, err := loadCerts(at.registry)
	if err != nil {
		return nil, err
	}
	key := transportKey{at.registry, at.insecure, certs.sum}
	w.mu.Lock()
	defer w.mu.Unlock()
	if t, ok := w.transports[key]; ok {
		return t, nil
	}
	config, err := certs.config(at.insecure)
	if err != nil {
		return nil, err
	}
	t := &retrier{patience: w.patience, log: w.log, inner: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         impatient(newDial(at.registry), w.stall),
		TLSHandshakeTimeout: 15 * time.Second,
		IdleConnTimeout:     30 * time.Second,
		MaxIdleConnsPerHost: 8,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true, // digests are of the bytes as they are
		TLSClientConfig:     config,
	}}
	w.transports[key] = t
	return t, nil
}

// repository is what the library calls at.
func (at endpoint) name() (name.Repository, error) {
	host := at.registry
	if host == dockerHub {
		host = "index." + dockerHub
	}
	var options []name.Option
	if at.insecure {
		options = append(options, name.Insecure)
	}
	return name.NewRepository(host+"/"+at.repository, options...)
}

// options are those of the library's own calls to at, and what becomes of its
// pings. It need not try again: the transport does.
func (w *wire) options(ctx context.Context, at endpoint) ([]remote.Option, *pings, error) {
	t, err := w.transport(at)
	if err != nil {
		return nil, nil, err
	}
	asked := newPings(t)
	var keychains []authn.Keychain
	for _, c := range at.credentials {
		keychains = append(keychains, c)
	}
	return []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.NewMultiKeychain(append(keychains, w.keychain)...)), remote.WithTransport(asked),
		remote.WithUserAgent("podrun"), remote.WithRetryBackoff(remote.Backoff{Steps: 1}),
	}, asked, nil
}

// authenticators are the ways to show who we are at a registry, in the order in
// which they are tried: the credentials that came with the pull, then those of
// the user. Nobody is asked for anonymously when there are any.
func (w *wire) authenticators(ctx context.Context, at endpoint) ([]authn.Authenticator, error) {
	repository, err := at.name()
	if err != nil {
		return nil, err
	}
	var list []authn.Authenticator
	for _, c := range at.credentials {
		found, err := c.all(repository)
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	own, err := authn.Resolve(ctx, w.keychain, repository)
	if err != nil {
		return nil, err
	}
	if own != authn.Anonymous || len(list) == 0 {
		list = append(list, own)
	}
	return list, nil
}

// session is a repository that lets us in.
type session struct {
	wire   *wire
	at     endpoint
	base   string // the address of the repository
	client *http.Client
}

// open introduces us to a registry, by a token if it wants one.
func (w *wire) open(ctx context.Context, at endpoint, as authn.Authenticator) (*session, error) {
	repository, err := at.name()
	if err != nil {
		return nil, err
	}
	t, err := w.transport(at)
	if err != nil {
		return nil, err
	}
	asked := newPings(t)
	agent := transport.NewUserAgent(asked, "podrun")
	authorized, err := transport.NewWithContext(ctx, repository.Registry, as, agent, []string{repository.Scope(transport.PullScope)})
	if err != nil {
		return nil, explain(asked.why(err), at)
	}
	return &session{
		wire: w, at: at, base: repository.Scheme() + "://" + repository.RegistryStr() + "/v2/" + repository.RepositoryStr(),
		client: &http.Client{Transport: authorized, CheckRedirect: checkRedirect},
	}, nil
}

func (s *session) url(kind, identifier string) string { return s.base + "/" + kind + "/" + identifier }

// do sends a request; an answer with another status than those is an error. The
// caller closes the body.
func (s *session) do(request *http.Request, statuses ...int) (*http.Response, error) {
	answer, err := s.client.Do(request)
	if err != nil {
		return nil, explain(err, s.at)
	}
	if err := transport.CheckError(answer, statuses...); err != nil {
		return nil, explain(errors.Join(err, answer.Body.Close()), s.at)
	}
	return answer, nil
}

// checkRedirect lets a registry send us to other hosts, but not to this machine
// or its link, where a cloud's metadata service is.
func checkRedirect(request *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("registry redirects more than %d times", maxRedirects)
	}
	to, from := request.URL.Hostname(), via[0].URL.Hostname()
	ip, err := netip.ParseAddr(to)
	if to == from || isLoopback(from) {
		return nil
	}
	if isLoopback(to) || err == nil && ip.IsLinkLocalUnicast() {
		return fmt.Errorf("registry redirects to %s, which is not its to give", to)
	}
	return nil
}

// head asks what a reference stands for now.
func (s *session) head(ctx context.Context, identifier string) (Digest, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, s.url("manifests", identifier), nil)
	if err != nil {
		return "", err
	}
	request.Header["Accept"] = []string{acceptManifests}
	answer, err := s.do(request, http.StatusOK)
	if e := answerIn(err); e != nil && (e.Status == http.StatusMethodNotAllowed || e.Status == http.StatusNotImplemented) {
		return s.digest(ctx, identifier)
	}
	if err != nil {
		return "", err
	}
	if err := answer.Body.Close(); err != nil {
		return "", err
	}
	if digest, err := v1.NewHash(answer.Header.Get("Docker-Content-Digest")); err == nil && digest.Algorithm == "sha256" {
		return Digest(digest.String()), nil
	}
	return s.digest(ctx, identifier)
}

// digest fetches what a reference stands for to see which digest it has: not
// all registries take HEAD, or say the digest then.
func (s *session) digest(ctx context.Context, identifier string) (Digest, error) {
	d, err := s.document(ctx, identifier)
	if err != nil {
		return "", err
	}
	return d.digest, nil
}
