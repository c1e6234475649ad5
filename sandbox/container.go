package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	// The binary is also what libcontainer executes as a container's init.
	_ "get.podrun.dev/podrun/internal/containerinit"
	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/linux"
)

// ContainerConfig describes a container of a sandbox.
type ContainerConfig struct {
	ID   string // unique on this machine; 64 hexadecimal digits by custom
	Name string // for messages
	// Rootfs is mounted below the container's directory; its Target is set
	// by the sandbox. What it keeps its files in stays the caller's.
	Rootfs linux.Mount
	Args   []string // the program, found by PATH of Env in the container, and its arguments
	Env    []string // NAME=VALUE; PATH, HOME, HOSTNAME and, for a terminal, TERM are added if not there
	Cwd    string   // made if it is not there; "" is /
	User   string   // "", "uid", "uid:gid", "name" or "name:group" by the root filesystem's files
	// SupplementalGroups are added to those that list the user in the root
	// filesystem's /etc/group, or with StrictGroups are all.
	SupplementalGroups []int
	StrictGroups       bool
	Mounts             []Mount
	Hostname           string // for HOSTNAME; the sandbox has set the real one
	ReadonlyRootfs     bool
	Capabilities       []string // "CAP_CHOWN"; nil is DefaultCapabilities, empty is none
	NoNewPrivileges    bool
	// Privileged gives every capability and device that we have ourselves,
	// and hides nothing. Capabilities and Seccomp count all the same.
	Privileged   bool
	UnmaskedProc bool   // nothing of /proc and /sys is hidden
	Seccomp      string // "" for the default profile, "unconfined" for none, or the path of a profile in OCI's or Docker's form
	AppArmor     string // the name of a profile that the kernel has; "" leaves the node's
	TTY          bool   // a terminal, in place of Output's pipes
	Stdin        bool   // an input to write to; else /dev/null
	Resources    Resources
	OOMScoreAdj  *int // nil leaves the node's; a score that we may not set is raised to the lowest that we may
}

// Exit tells how a container or process ended.
type Exit struct {
	Code       int // 128+Signal when a signal ended it
	Signal     int // 0 when it exited by itself
	OOMKilled  bool
	Unknown    bool // it is gone and nobody saw how: Code is 137
	FinishedAt time.Time
}

func exitOf(status unix.WaitStatus, at time.Time) Exit {
	if status.Signaled() {
		sig := int(status.Signal())
		return Exit{Code: 128 + sig, Signal: sig, FinishedAt: at}
	}
	return Exit{Code: status.ExitStatus(), FinishedAt: at}
}

// containerState is container.json.
type containerState struct {
	Config  ContainerConfig
	User    identity
	Pid     int    `json:",omitempty"`
	Start   uint64 `json:",omitempty"`
	MountNS uint64 `json:",omitempty"` // tells its processes from others' in a shared pid namespace
	Cgroups map[string]string
	Exit    *Exit `json:",omitempty"`
}

// Container is one container of a sandbox. Safe for concurrent use.
type Container struct {
	s  *Sandbox
	id string

	startTime time.Time
	deleting  sync.Mutex // one Delete at a time
	deleted   bool       // guarded by deleting: nothing is left to do

	mu    sync.Mutex
	state containerState
	proc  *process // nil when it was gone already when we looked
	lib   *libcontainer.Container
}

// CreateContainer makes a container up to the point where its init process
// waits for Start. Containers of one sandbox can be created in parallel. When
// it fails nothing is left; a program or directory that cannot be executed is
// a *StartError here, not in Start, for it is then that the init looks for it.
// ctx is looked at between the steps.
func (s *Sandbox) CreateContainer(ctx context.Context, config ContainerConfig) (_ *Container, err error) {
	if !validID(config.ID) {
		return nil, fmt.Errorf("container: invalid ID %q", config.ID)
	}
	if len(config.Args) == 0 {
		return nil, fmt.Errorf("container %s: no program to run", config.Name)
	}
	config.Env = environment(config)
	if config.Capabilities == nil {
		config.Capabilities = defaultCapabilities
	}
	c := &Container{s: s, id: config.ID, state: containerState{Config: config}}
	// The first to make the directory has the ID.
	if err := os.MkdirAll(filepath.Dir(c.dir()), 0o700); err != nil {
		return nil, err
	}
	if err := os.Mkdir(c.dir(), 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = ErrExists
		}
		return nil, fmt.Errorf("container %s: %w", config.Name, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("container %s: %w", config.Name, err)
			if derr := c.Delete(ctx); derr != nil {
				err = errors.Join(err, derr)
			}
		}
	}()
	if err := c.save(); err != nil {
		return nil, err
	}
	if err := fault.Point("container.saved"); err != nil {
		return nil, err
	}
	if err := c.mountRootfs(); err != nil {
		return nil, fmt.Errorf("root filesystem: %w", err)
	}
	if err := fault.Point("container.mounted"); err != nil {
		return nil, err
	}
	if c.state.User, err = s.resolveUser(c.rootfs(), &config); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := c.startInit(); err != nil {
		return nil, err
	}
	if err := fault.Point("container.created"); err != nil {
		return nil, err
	}
	if err := c.adopt(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.containers[c.id] = c
	s.mu.Unlock()
	return c, nil
}

// environment adds what a program may expect to find.
func environment(config ContainerConfig) []string {
	env := slices.Clone(config.Env)
	add := func(name, value string) {
		has := func(kv string) bool { return strings.HasPrefix(kv, name+"=") }
		if value != "" && !slices.ContainsFunc(env, has) {
			env = append(env, name+"="+value)
		}
	}
	add("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	add("HOSTNAME", config.Hostname)
	if config.TTY {
		add("TERM", "xterm")
	}
	return env
}

func (c *Container) mountRootfs() error {
	if err := os.Mkdir(c.rootfs(), 0o700); err != nil {
		return err
	}
	m := c.state.Config.Rootfs
	m.Target = c.rootfs()
	// Without a devices cgroup (libcontainer's needs BPF code in every init)
	// this is what keeps device files of an image from being devices.
	m.Flags |= unix.MS_NODEV
	if c.s.state.OwnUsers {
		return c.mountMapped(m)
	}
	return m.Mount()
}

// unmountRootfs undoes mountRootfs, as far as that came.
func (c *Container) unmountRootfs() error {
	if err := linux.Unmount(c.rootfs(), unix.MNT_DETACH); err != nil || c.s.rootfsDir() == "" {
		return err // it goes with the container's directory
	}
	if err := os.Remove(c.rootfs()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// startInit has libcontainer start the container's init.
func (c *Container) startInit() error {
	config, err := c.libConfig()
	if err != nil {
		return err
	}
	streams, err := c.openStreams()
	if err != nil {
		return err
	}
	defer streams.close()
	lib, err := libcontainer.Create(c.s.runDir(), c.id, config)
	if err != nil {
		return err
	}
	cfg, user := &c.state.Config, &c.state.User
	p := &libcontainer.Process{
		Init: true, Args: cfg.Args, Env: cfg.Env, Cwd: workDir(cfg.Cwd),
		UID: user.UID, GID: user.GID, AdditionalGroups: user.Groups,
	}
	streams.attach(p)
	if err := lib.Start(p); err != nil {
		// libcontainer leaves a descriptor of its exec FIFO to the garbage
		// collector then, which a node that has little to do seldom runs.
		runtime.GC()
		return startError(err, cfg.Args[0])
	}
	c.lib = lib
	if streams.console != nil {
		return streams.keepConsole(c)
	}
	return nil
}

func workDir(cwd string) string {
	if cwd == "" {
		return "/"
	}
	return cwd
}

// libConfig is the container in libcontainer's terms.
func (c *Container) libConfig() (*configs.Config, error) {
	s, cfg := c.s, &c.state.Config
	mounts, err := s.mounts(cfg.Mounts, cfg.Privileged)
	if err != nil {
		return nil, err
	}
	nodes, err := s.deviceNodes(cfg.Privileged)
	if err != nil {
		return nil, err
	}
	if !s.r.rootless && !cfg.Privileged {
		mounts, nodes = withoutDevices(mounts, nodes), nil
	}
	if s.state.OwnUsers {
		s.mapOwners(mounts)
	}
	masked, readonly := cfg.hidden()
	umask := uint32(0o022)
	config := &configs.Config{
		Rootfs: c.rootfs(), Readonlyfs: cfg.ReadonlyRootfs, Umask: &umask,
		Mounts: mounts, RootPropagation: rootPropagation(cfg.Mounts), Devices: nodes,
		MaskPaths: masked, ReadonlyPaths: readonly,
		Namespaces: s.namespaces(), UIDMappings: s.mapping(), GIDMappings: s.mapping(),
		Capabilities: &configs.Capabilities{
			Bounding: cfg.Capabilities, Effective: cfg.Capabilities, Permitted: cfg.Capabilities,
		},
		Rlimits: []configs.Rlimit{{Type: unix.RLIMIT_CORE, Soft: s.r.core.Cur, Hard: s.r.core.Max}},
		// Behind the default filter nobody can use a keyring, and a user may have
		// 200 keys only (maxkeys in keyrings(7)).
		NoNewPrivileges: cfg.NoNewPrivileges, NoNewKeyring: cfg.Seccomp == "", AppArmorProfile: cfg.AppArmor,
		Cgroups: s.containerCgroup(c.id, cfg.Resources), RootlessCgroups: s.r.rootless,
	}
	if config.Seccomp, err = seccompOf(cfg); err != nil {
		return nil, err
	}
	if cfg.OOMScoreAdj != nil {
		score := max(*cfg.OOMScoreAdj, s.r.minOOMScore)
		config.OomScoreAdj = &score
	}
	return config, nil
}

// namespaces are the container's own and those of the pause; what is in
// neither is the host's, which is ours.
func (s *Sandbox) namespaces() configs.Namespaces {
	all := configs.Namespaces{{Type: configs.NEWNS}, {Type: configs.NEWCGROUP}}
	join := func(t configs.NamespaceType, name string) {
		all = append(all, configs.Namespace{Type: t, Path: s.namespace(name)})
	}
	if s.state.OwnUsers {
		join(configs.NEWUSER, "user")
	}
	if !s.state.HostIPC {
		join(configs.NEWIPC, "ipc")
	}
	if !s.state.HostNetwork {
		join(configs.NEWUTS, "uts")
		join(configs.NEWNET, "net")
	}
	switch {
	case s.state.HostPID:
	case s.state.SharePID:
		join(configs.NEWPID, "pid_for_children")
	default:
		all = append(all, configs.Namespace{Type: configs.NEWPID})
	}
	return all
}

// adopt writes down the process that libcontainer has started.
func (c *Container) adopt() error {
	state, err := c.lib.State()
	if err != nil {
		return err
	}
	if c.proc, err = openProcess(state.InitProcessPid, state.InitProcessStartTime); err != nil {
		return err
	}
	c.state.Pid, c.state.Start, c.state.Cgroups = c.proc.pid, c.proc.start, state.CgroupPaths
	c.startTime = time.Now()
	if c.s.state.foreignPID() {
		if c.state.MountNS, err = linux.NamespaceID(c.proc.pid, "mnt"); err != nil {
			return err
		}
	}
	return c.save()
}

// OpenContainer finds a container that an earlier node made, running or
// exited. ErrNotFound when there is none on disk; ErrGone when the earlier
// node did not get as far as a process: then DeleteContainer clears the rest.
func (s *Sandbox) OpenContainer(id string) (*Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[id]; c != nil {
		return c, nil
	}
	c, err := s.loadContainer(id)
	if err != nil {
		return nil, err
	}
	if c.state.Pid == 0 {
		return nil, fmt.Errorf("container %s: %w", c.state.Config.Name, ErrGone)
	}
	if c.state.Exit == nil {
		c.proc, err = openProcess(c.state.Pid, c.state.Start)
		if err != nil && !errors.Is(err, ErrGone) {
			return nil, fmt.Errorf("container %s: %w", c.state.Config.Name, err)
		}
	}
	s.containers[id] = c
	return c, nil
}

// loadContainer reads what is on disk and starts nothing.
func (s *Sandbox) loadContainer(id string) (*Container, error) {
	if !validID(id) {
		return nil, fmt.Errorf("container: invalid ID %q", id)
	}
	c := &Container{s: s, id: id}
	err := load(filepath.Join(c.dir(), "container.json"), &c.state)
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := os.Stat(c.dir()); serr != nil {
			return nil, fmt.Errorf("container %s: %w", id, ErrNotFound)
		}
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", id, err)
	}
	c.findInit()
	if info, err := os.Stat(filepath.Join(c.dir(), "container.json")); err == nil {
		c.startTime = info.ModTime()
	}
	return c, nil
}

// findInit looks for the process in libcontainer's notes, when ours do not know
// it: the node died, or failed, between the two.
func (c *Container) findInit() {
	if c.state.Pid != 0 {
		return
	}
	lib, err := libcontainer.Load(c.s.runDir(), c.id)
	if err != nil {
		return
	}
	state, err := lib.State()
	if err != nil || state.InitProcessPid <= 0 {
		return
	}
	c.lib = lib
	c.state.Pid, c.state.Start, c.state.Cgroups = state.InitProcessPid, state.InitProcessStartTime, state.CgroupPaths
	if c.s.state.foreignPID() {
		c.state.MountNS, _ = linux.NamespaceID(c.state.Pid, "mnt")
	}
}

func (c *Container) save() error {
	return save(filepath.Join(c.dir(), "container.json"), c.state)
}

func (c *Container) dir() string { return filepath.Join(c.s.dir, "containers", c.id) }
func (c *Container) rootfs() string {
	if dir := c.s.rootfsDir(); dir != "" {
		return filepath.Join(dir, c.id)
	}
	return filepath.Join(c.dir(), "rootfs")
}
func (s *Sandbox) runDir() string { return filepath.Join(s.dir, "run") }

// ID returns the container's ID.
func (c *Container) ID() string { return c.id }

// Pid returns the process ID of the container's init, as this process sees it.
func (c *Container) Pid() int { return c.state.Pid }

// StartTime returns when the container was created.
func (c *Container) StartTime() time.Time { return c.startTime }
