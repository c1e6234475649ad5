package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// helperTimeout bounds a credential helper, which may ask a person.
const helperTimeout = time.Minute

// hubServer is what docker calls Docker Hub in its files.
const hubServer = "https://index.docker.io/v1/"

// CredentialFiles are where a user's credentials may lie, in the order in which
// they are looked at: podman's first, as containers-auth.json(5) has it, then
// docker's.
func CredentialFiles() []string {
	var files []string
	add := func(dir string, err error, name ...string) {
		if err == nil && dir != "" {
			files = append(files, filepath.Join(append([]string{dir}, name...)...))
		}
	}
	add(os.Getenv("REGISTRY_AUTH_FILE"), nil)
	add(os.Getenv("XDG_RUNTIME_DIR"), nil, "containers", "auth.json")
	if os.Getenv("XDG_RUNTIME_DIR") == "" && os.Getuid() == 0 {
		if mapped, err := inUserNamespace(); err == nil && !mapped {
			add("/run/containers/0", nil, "auth.json")
		}
	}
	dir, err := os.UserConfigDir()
	add(dir, err, "containers", "auth.json")
	files = append(files, DockerConfigFile())
	home, err := os.UserHomeDir()
	add(home, err, ".dockercfg")
	return files
}

// DockerConfigFile is docker's config.json: docker reads its credentials there,
// and podman when it has none of its own.
func DockerConfigFile() string {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, _ := os.UserHomeDir()
		dir = filepath.Join(home, ".docker")
	}
	return filepath.Join(dir, "config.json")
}

// credentialFile is what we read of a config.json or an auth.json.
type credentialFile struct {
	path    string
	Auths   Credentials       `json:"auths"`
	Store   string            `json:"credsStore"`
	Helpers map[string]string `json:"credHelpers"` // by registry
}

// readCredentialFile reads a file; nil when there is none.
func readCredentialFile(path string) (*credentialFile, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("credential file: %w", err)
	}
	f := &credentialFile{path: path}
	switch {
	case len(bytes.TrimSpace(data)) == 0:
	case filepath.Base(path) == ".dockercfg":
		f.Auths, err = ParseDockercfg(data)
	default:
		err = json.Unmarshal(data, f)
	}
	if err != nil {
		return nil, fmt.Errorf("credential file %s: %w", path, err)
	}
	return f, nil
}

// helper is the program that keeps the credentials of a registry, "" when the
// file itself does.
func (f *credentialFile) helper(registry string) string {
	for key, name := range f.Helpers {
		if canonical(key) == canonical(registry) {
			return name
		}
	}
	return f.Store
}

// find looks a registry or repository up; Anonymous when there is nothing.
func (f *credentialFile) find(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	registry := target.RegistryStr()
	if name := f.helper(registry); name != "" {
		user, secret, err := helperGet(ctx, name, serverOf(registry))
		switch {
		case err != nil:
			return nil, fmt.Errorf("credential file %s: %w", f.path, err)
		case user == "<token>":
			return authn.FromConfig(authn.AuthConfig{IdentityToken: secret}), nil
		case user != "" || secret != "":
			return authn.FromConfig(authn.AuthConfig{Username: user, Password: secret}), nil
		}
	}
	// Where a helper keeps the secrets docker leaves empty entries.
	auths := Credentials{}
	for key, e := range f.Auths {
		if e != (entry{}) {
			auths[key] = e
		}
	}
	found, err := auths.Resolve(target)
	if err != nil {
		return nil, fmt.Errorf("credential file %s: %w", f.path, err)
	}
	return found, nil
}

// userKeychain has the credentials that docker and podman keep for the user.
type userKeychain struct{}

// Resolve returns the stored credentials for a registry or repository, or
// Anonymous.
func (k userKeychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), target)
}

// ResolveContext is Resolve; the end of ctx ends a credential helper.
func (userKeychain) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	for _, path := range CredentialFiles() {
		f, err := readCredentialFile(path)
		if err != nil {
			return nil, err
		}
		if f == nil {
			continue
		}
		found, err := f.find(ctx, target)
		if err != nil || found != authn.Anonymous {
			return found, err
		}
	}
	return authn.Anonymous, nil
}

// serverOf is what helpers know a registry by.
func serverOf(registry string) string {
	if canonical(registry) == "index."+dockerHub {
		return hubServer
	}
	return registry
}

// helperGet asks a credential helper; nothing when it has nothing
// (https://github.com/docker/docker-credential-helpers#development).
func helperGet(ctx context.Context, name, server string) (user, secret string, err error) {
	out, err := runHelper(ctx, name, "get", []byte(server))
	if err != nil {
		if strings.Contains(string(out), "credentials not found") {
			return "", "", nil
		}
		return "", "", err
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal(out, &answer); err != nil {
		return "", "", fmt.Errorf("credential helper docker-credential-%s: its answer: %w", name, err)
	}
	return answer.Username, answer.Secret, nil
}

func helperStore(ctx context.Context, name, server, user, secret string) error {
	in, err := json.Marshal(struct{ ServerURL, Username, Secret string }{server, user, secret})
	if err == nil {
		_, err = runHelper(ctx, name, "store", in)
	}
	return err
}

// helperErase tells whether there was anything to erase.
func helperErase(ctx context.Context, name, server string) (bool, error) {
	user, secret, err := helperGet(ctx, name, server)
	if err != nil || user == "" && secret == "" {
		return false, err
	}
	_, err = runHelper(ctx, name, "erase", []byte(server))
	return err == nil, err
}

// runHelper runs a helper. What it says when it fails is on its standard
// output, which is returned too.
func runHelper(ctx context.Context, name, verb string, in []byte) ([]byte, error) {
	program := "docker-credential-" + name
	if strings.ContainsAny(name, "/\x00") {
		return nil, fmt.Errorf("credential helper %q: its name has a slash", name)
	}
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, program, verb)
	command.Stdin = bytes.NewReader(in)
	command.WaitDelay = time.Second
	out, err := command.Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		said := strings.Join(strings.Fields(string(out)+" "+string(exit.Stderr)), " ")
		if said == "" {
			said = exit.Error()
		}
		return out, fmt.Errorf("credential helper %s: %s", program, said)
	case err != nil:
		return out, fmt.Errorf("credential helper %s: %w", program, err)
	}
	return out, nil
}
