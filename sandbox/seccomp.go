package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	profile "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultCapabilities are what containerd and Docker leave to a container.
var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE",
	"CAP_CHOWN",
	"CAP_DAC_OVERRIDE",
	"CAP_FOWNER",
	"CAP_FSETID",
	"CAP_KILL",
	"CAP_MKNOD",
	"CAP_NET_BIND_SERVICE",
	"CAP_NET_RAW",
	"CAP_SETFCAP",
	"CAP_SETGID",
	"CAP_SETPCAP",
	"CAP_SETUID",
	"CAP_SYS_CHROOT",
}

// DefaultCapabilities returns the capabilities of a container that asks for
// none in particular, sorted, as "CAP_CHOWN". The caller owns the slice.
func DefaultCapabilities() []string { return slices.Clone(defaultCapabilities) }

// seccompOf returns the filter of a container, nil for none.
func seccompOf(c *ContainerConfig) (*configs.Seccomp, error) {
	switch c.Seccomp {
	case "":
		return defaultSeccomp(c.Capabilities)
	case "unconfined":
		return nil, nil
	}
	return readSeccomp(c.Seccomp, c.Capabilities)
}

// readSeccomp reads a profile of the OCI's or, with includes and excludes by
// capability and architecture, of Docker's form.
func readSeccomp(path string, capabilities []string) (config *configs.Seccomp, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("load seccomp profile %q: %w", path, err)
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	const limit = 4 << 20
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, err
	}
	spec, err := profile.LoadProfile(string(b), specFor(capabilities))
	if err != nil {
		return nil, err
	}
	if spec == nil {
		return nil, errors.New("neither defaultAction nor syscalls in it")
	}
	return specconv.SetupSeccomp(spec)
}

// specFor is what profiles look at: some calls are open to who has a
// capability.
func specFor(capabilities []string) *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: capabilities}}}
}

// seccompCache holds one profile per set of capabilities, made once per
// process: some calls are open only to who has the capability anyway.
var seccompCache sync.Map // string -> func() (*configs.Seccomp, error)

// defaultSeccomp returns Docker's default profile for a set of capabilities.
// The result is shared: nobody may change it.
func defaultSeccomp(capabilities []string) (*configs.Seccomp, error) {
	sorted := slices.Sorted(slices.Values(capabilities))
	key := strings.Join(sorted, " ")
	made, _ := seccompCache.LoadOrStore(key, sync.OnceValues(func() (*configs.Seccomp, error) {
		return makeSeccomp(sorted)
	}))
	return made.(func() (*configs.Seccomp, error))()
}

func makeSeccomp(capabilities []string) (*configs.Seccomp, error) {
	spec, err := profile.GetDefaultProfile(specFor(capabilities))
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	// The init of every container and exec compiles the profile, once for
	// each architecture: 35-40 ms for amd64's three and 4-5 ms for the one
	// that the image is of. The first is the native one.
	if len(spec.Architectures) > 1 {
		spec.Architectures = spec.Architectures[:1]
	}
	config, err := specconv.SetupSeccomp(spec)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	return config, nil
}
