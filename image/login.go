package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"get.podrun.dev/podrun/internal/atomicfile"
	"get.podrun.dev/podrun/internal/hint"
)

// Login tells whether a registry takes a user and a password.
func (s *Store) Login(ctx context.Context, registry, user, password string) error {
	ref, err := ParseReference(registry + "/x")
	if err != nil {
		return err
	}
	at, err := s.pushEndpoint(ref)
	if err != nil {
		return err
	}
	repository, err := at.name()
	if err != nil {
		return err
	}
	inner, err := s.wire.transport(at)
	if err != nil {
		return err
	}
	asked := newPings(inner)
	as := authn.FromConfig(authn.AuthConfig{Username: user, Password: password})
	authorized, err := transport.NewWithContext(ctx, repository.Registry, as, transport.NewUserAgent(asked, "podrun"), nil)
	if err == nil {
		err = ping(ctx, authorized, repository.Registry)
	}
	err = explain(asked.why(err), at)
	if errors.Is(err, ErrUnauthorized) {
		return hint.Wrap(fmt.Errorf("registry %s does not take this user name and password", ref.Registry()), "check both")
	}
	return err
}

func ping(ctx context.Context, way http.RoundTripper, registry name.Registry) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, registry.Scheme()+"://"+registry.RegistryStr()+"/v2/", nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: way, CheckRedirect: checkRedirect}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	return errors.Join(transport.CheckError(answer, http.StatusOK), answer.Body.Close())
}

// resource is a registry or a path in one, as credentials are looked up by.
type resource string

func (r resource) String() string { return canonical(string(r)) }

// RegistryStr is the registry alone.
func (r resource) RegistryStr() string {
	for i, c := range r.String() {
		if c == '/' {
			return r.String()[:i]
		}
	}
	return r.String()
}

// StoredLogin returns the credentials that are stored for a registry, "" when
// none are. A file, if it is not "", is the only one that is looked at.
func StoredLogin(ctx context.Context, file, registry string) (user, password string, err error) {
	for _, path := range filesOr(file) {
		f, err := readCredentialFile(path)
		if f == nil || err != nil {
			if err != nil {
				return "", "", err
			}
			continue
		}
		found, err := f.find(ctx, resource(registry))
		if err != nil {
			return "", "", err
		}
		if found == authn.Anonymous {
			continue
		}
		c, err := found.Authorization()
		if err != nil {
			return "", "", err
		}
		return c.Username, c.Password, nil
	}
	return "", "", nil
}

func filesOr(file string) []string {
	if file != "" {
		return []string{file}
	}
	return CredentialFiles()
}

// SaveLogin stores credentials and returns where: in file; or, if that is "", in
// the first file that has some for the registry, so that none hides the new
// ones; or in $REGISTRY_AUTH_FILE; or in docker's, which podman reads too. A
// credential helper that the file names keeps them; helper is its name then.
func SaveLogin(ctx context.Context, file, registry, user, password string) (where, helper string, err error) {
	if file == "" {
		if file, err = fileFor(ctx, registry); err != nil {
			return "", "", err
		}
	}
	e, err := openEditor(file)
	if err != nil {
		return "", "", err
	}
	key := serverOf(registry)
	helper = e.known.helper(resource(registry).RegistryStr())
	if helper != "" {
		if err := helperStore(ctx, helper, key, user, password); err != nil {
			return "", "", err
		}
		return file, helper, e.set(key, entry{}) // as docker does, so that it knows of it
	}
	return file, "", e.set(key, entry{Auth: base64.StdEncoding.EncodeToString([]byte(user + ":" + password))})
}

// fileFor is the file that a login without one is stored in.
func fileFor(ctx context.Context, registry string) (string, error) {
	for _, path := range CredentialFiles() {
		f, err := readCredentialFile(path)
		if err != nil {
			return "", err
		}
		if f == nil || filepath.Base(path) == ".dockercfg" {
			continue
		}
		found, err := f.find(ctx, resource(registry))
		if err != nil {
			return "", err
		}
		if found != authn.Anonymous {
			return path, nil
		}
	}
	if path := os.Getenv("REGISTRY_AUTH_FILE"); path != "" {
		return path, nil
	}
	return DockerConfigFile(), nil
}

// RemoveLogin removes what is stored for a registry, of all registries if it is
// "", from file, or from all files if that is "". It tells whether there was
// anything.
func RemoveLogin(ctx context.Context, file, registry string) (removed bool, err error) {
	for _, path := range filesOr(file) {
		if f, err := readCredentialFile(path); f == nil || err != nil {
			if err != nil {
				return removed, err
			}
			continue
		}
		if filepath.Base(path) == ".dockercfg" {
			continue
		}
		e, err := openEditor(path)
		if err != nil {
			return removed, err
		}
		done, err := e.remove(ctx, registry)
		removed = removed || done
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// editor changes a credential file and leaves what it does not know as it is.
type editor struct {
	path  string
	known *credentialFile
	all   map[string]json.RawMessage
	auths map[string]json.RawMessage
}

func openEditor(path string) (*editor, error) {
	// The file that a link leads to is changed, not the link.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	known, err := readCredentialFile(path)
	if err != nil {
		return nil, err
	}
	e := &editor{path: path, known: known, all: map[string]json.RawMessage{}, auths: map[string]json.RawMessage{}}
	if known == nil {
		e.known = &credentialFile{path: path}
		return e, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(data) > 0 {
		if err := json.Unmarshal(data, &e.all); err != nil {
			return nil, fmt.Errorf("credential file %s: %w", path, err)
		}
	}
	if raw, ok := e.all["auths"]; ok {
		if err := json.Unmarshal(raw, &e.auths); err != nil {
			return nil, fmt.Errorf("credential file %s: %w", path, err)
		}
	}
	return e, nil
}

// set stores an entry, in place of those of the same registry by other names.
func (e *editor) set(key string, what entry) error {
	for k := range e.auths {
		if canonical(k) == canonical(key) {
			delete(e.auths, k)
		}
	}
	raw := json.RawMessage("{}")
	if what != (entry{}) {
		var err error
		if raw, err = json.Marshal(map[string]string{"auth": what.Auth}); err != nil {
			return err
		}
	}
	e.auths[key] = raw
	return e.save()
}

func (e *editor) remove(ctx context.Context, registry string) (removed bool, err error) {
	var servers []string
	for key := range e.auths {
		if registry == "" || canonical(key) == canonical(registry) {
			servers = append(servers, key)
			delete(e.auths, key)
			removed = true
		}
	}
	if registry != "" && !slices.Contains(servers, serverOf(registry)) {
		servers = append(servers, serverOf(registry))
	}
	for _, server := range servers {
		helper := e.known.helper(resource(server).RegistryStr())
		if helper == "" {
			continue
		}
		erased, err := helperErase(ctx, helper, server)
		if err != nil {
			return removed, err
		}
		removed = removed || erased
	}
	if !removed {
		return false, nil
	}
	return true, e.save()
}

func (e *editor) save() error {
	raw, err := json.Marshal(e.auths)
	if err != nil {
		return err
	}
	e.all["auths"] = raw
	data, err := json.MarshalIndent(e.all, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(e.path), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return atomicfile.Write(e.path, append(data, '\n'), 0o600)
}

// ReadCredentials reads a file of credentials that a person names.
func ReadCredentials(path string) (Credentials, error) {
	f, err := readCredentialFile(path)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, fmt.Errorf("credential file: %w", &os.PathError{Op: "open", Path: path, Err: fs.ErrNotExist})
	}
	return f.Auths, nil
}
