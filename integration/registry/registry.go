// Package registry serves images from a real registry, distribution's, on this
// machine's loopback, and makes the images that tests, the demo and the
// benchmark pull from it. Nothing of it needs the network.
//
// It does not know podrun: a registries.conf is what leads to it.
package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/crypto/bcrypt"
)

// Registry is a registry that runs. What was pushed to it is in its memory.
type Registry struct {
	Address string // host:port on loopback
	// Conf is a registries.conf by which docker.io is this registry, short names
	// are docker.io's, and the other registries that well-known manifests name
	// are folders of this one.
	Conf string

	command        *exec.Cmd
	ended          chan struct{}
	user, password string
}

// Options of Start.
type Options struct {
	// User and Password, if set, are what the registry asks for.
	User, Password string
	// Address to listen on; "" for a free one.
	Address string
}

// binary is the program that was built for make's target build/registry.
func binary() (string, error) {
	if path := os.Getenv("PODRUN_REGISTRY"); path != "" {
		return path, nil
	}
	return built("registry")
}

// Start runs a registry and returns when it answers. Its files are put into
// dir. Stop ends it; so does the end of the thread that called Start.
func Start(dir string, o Options) (*Registry, error) {
	program, err := binary()
	if err != nil {
		return nil, err
	}
	r := &Registry{Address: o.Address, Conf: filepath.Join(dir, "registries.conf"), user: o.User, password: o.Password}
	// Between looking for a free port and listening on it somebody else may
	// take it.
	for attempt := 0; ; attempt++ {
		if o.Address == "" {
			if r.Address, err = freeAddress(); err != nil {
				return nil, err
			}
		}
		err = r.start(program, dir)
		if err == nil {
			return r, nil
		}
		if attempt == 2 {
			return nil, fmt.Errorf("start %s on %s: %w", program, r.Address, err)
		}
	}
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (r *Registry) start(program, dir string) error {
	settings := fmt.Sprintf(`version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage: {inmemory: {}, delete: {enabled: true}}
http: {addr: %q}
`, r.Address)
	if r.user != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(r.password), bcrypt.MinCost)
		if err != nil {
			return err
		}
		users := filepath.Join(dir, "htpasswd")
		if err := os.WriteFile(users, []byte(r.user+":"+string(hash)+"\n"), 0o600); err != nil {
			return err
		}
		settings += fmt.Sprintf("auth: {htpasswd: {realm: podrun, path: %q}}\n", users)
	}
	file := filepath.Join(dir, "registry.yml")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		return err
	}
	conf := "unqualified-search-registries = [\"docker.io\"]\n"
	for _, host := range []string{"docker.io", "registry.k8s.io", "k8s.gcr.io", "gcr.io", "quay.io", "ghcr.io"} {
		location := r.Address
		if host != "docker.io" {
			location += "/" + host
		}
		conf += fmt.Sprintf("\n[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n", host, location)
	}
	if err := os.WriteFile(r.Conf, []byte(conf), 0o644); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "registry.log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	r.command = exec.Command(program, "serve", file)
	r.command.Env = []string{"OTEL_TRACES_EXPORTER=none"}
	r.command.Stdout, r.command.Stderr = log, log
	r.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.command.Start(); err != nil {
		return err
	}
	r.ended = make(chan struct{})
	go func() {
		_ = r.command.Wait()
		close(r.ended)
	}()
	deadline := time.After(20 * time.Second)
	for {
		response, err := http.Get("http://" + r.Address + "/v2/")
		if err == nil {
			return response.Body.Close()
		}
		select {
		case <-r.ended:
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("it ended: %s", text)
		case <-deadline:
			r.Stop()
			return errors.New("it does not answer")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the registry; what was pushed is gone. It may be called again.
func (r *Registry) Stop() {
	_ = r.command.Process.Kill()
	<-r.ended
}

// Push stores an image under a repository and tag such as
// "library/busybox:latest".
func (r *Registry) Push(ctx context.Context, repository string, image v1.Image) error {
	tag, err := name.NewTag(r.Address+"/"+repository, name.Insecure)
	if err != nil {
		return err
	}
	return remote.Write(tag, image, r.options(ctx)...)
}

// PushIndex does so with an index.
func (r *Registry) PushIndex(ctx context.Context, repository string, index v1.ImageIndex) error {
	tag, err := name.NewTag(r.Address+"/"+repository, name.Insecure)
	if err != nil {
		return err
	}
	return remote.WriteIndex(tag, index, r.options(ctx)...)
}

func (r *Registry) options(ctx context.Context) []remote.Option {
	options := []remote.Option{remote.WithContext(ctx)}
	if r.user != "" {
		options = append(options, remote.WithAuth(&authn.Basic{Username: r.user, Password: r.password}))
	}
	return options
}
