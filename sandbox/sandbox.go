package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/linux"
)

// ErrGone means that a process that is written down does not run any more, or
// never came to run. What is left of it is for Delete.
var ErrGone = errors.New("process is gone")

// ErrExists means that there is a sandbox or container with that ID on disk.
var ErrExists = errors.New("already exists")

// ErrNotFound means that nothing with that ID is on disk.
var ErrNotFound = errors.New("not found")

// undoing bounds what goes on after a context was cancelled: killing,
// unmounting, removing. A process stuck in the kernel is given up after it.
const undoing = 30 * time.Second

// Options say where a Runtime keeps its state and what it may count on.
type Options struct {
	// StateDir holds one directory per sandbox. It is made if need be, mode
	// 0700, and should be on a file system that a reboot empties.
	StateDir string
	// Rootless: root in a user namespace, not the machine's.
	Rootless bool
	// SingleID: only one user ID and one group ID are mapped.
	SingleID bool
	// ExitStatus tells the wait status of a process that was reaped by
	// somebody else; nil when nobody knows.
	ExitStatus func(pid int, start uint64) (unix.WaitStatus, bool)
	// Keep, Kept and Drop hold descriptors beyond the node's life. Keep does
	// not take f over. All nil: they live as long as the Runtime.
	Keep func(key string, f *os.File) error
	Kept func(key string) (*os.File, bool)
	Drop func(key string)
	// Logger gets warnings of what we go on without; nil discards.
	Logger *slog.Logger
}

// Runtime makes sandboxes and finds them again. Safe for concurrent use.
type Runtime struct {
	dir      string
	rootless bool
	singleID bool
	status   func(pid int, start uint64) (unix.WaitStatus, bool)
	keep     func(key string, f *os.File) error
	kept     func(key string) (*os.File, bool)
	drop     func(key string)
	log      *slog.Logger

	cgroups *cgroupTree
	uids    idMap
	gids    idMap
	// minOOMScore is the lowest oom_score_adj that we may give.
	minOOMScore int
	warm        sync.WaitGroup
	held        *holder // nil when the caller keeps descriptors
}

// New looks at what the kernel delegates and prepares, in the background, what
// the first container needs. Close waits for that.
func New(o Options) (*Runtime, error) {
	if !filepath.IsAbs(o.StateDir) {
		return nil, fmt.Errorf("state directory %q is not an absolute path", o.StateDir)
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return nil, err
	}
	// libcontainer refuses a root filesystem below a symbolic link.
	dir, err := filepath.EvalSymlinks(o.StateDir)
	if err != nil {
		return nil, err
	}
	r := &Runtime{
		dir: dir, rootless: o.Rootless, singleID: o.SingleID,
		status: o.ExitStatus, keep: o.Keep, kept: o.Kept, drop: o.Drop, log: o.Logger,
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.keep == nil || r.kept == nil || r.drop == nil {
		r.held = &holder{files: make(map[string]*os.File)}
		r.keep, r.kept, r.drop = r.held.keep, r.held.get, r.held.drop
	}
	if r.uids, err = readIDMap("/proc/self/uid_map"); err != nil {
		return nil, err
	}
	if r.gids, err = readIDMap("/proc/self/gid_map"); err != nil {
		return nil, err
	}
	if r.minOOMScore, err = lowestOOMScore(); err != nil {
		return nil, err
	}
	redirectLogrus(r.log)
	r.warm.Go(func() { _, _ = defaultSeccomp(defaultCapabilities) })
	if r.cgroups, err = openCgroups(o.Rootless); err != nil {
		r.log.Warn("no resource limits", "err", err)
	}
	return r, nil
}

// Limits says whether resource limits of containers take effect; when not,
// reason tells why in a few words.
func (r *Runtime) Limits() (ok bool, reason string) {
	return r.cgroups.limits, r.cgroups.reason
}

// Close frees what the Runtime holds in this process. Sandboxes and containers
// go on, unless their descriptors are kept nowhere else (Options.Keep).
func (r *Runtime) Close() error {
	r.warm.Wait()
	if r.held != nil {
		r.held.close()
	}
	return nil
}

// Config describes a sandbox.
type Config struct {
	ID       string // the pod's UID: letters, digits, '-', '_', '.'
	Name     string // what ps shows beside "podrun-pause", such as "default/pod"
	Hostname string // "" leaves the host's; of no use with HostNetwork
	// Sysctls of the sandbox's own namespaces, with dots or slashes.
	Sysctls map[string]string
	// HostNetwork: no network namespace of its own, and so no host name.
	HostNetwork bool
	// HostPID and HostIPC: the containers see the host's processes, and its
	// System V IPC, message queues and /dev/shm.
	HostPID, HostIPC bool
	// Resources bound all containers together; where there are no limits they
	// are left out.
	Resources Resources
	// SharePID: the containers see each other's processes, and the pause is
	// the parent of what they leave behind.
	SharePID bool
}

// foreignPID tells whether a container's processes are among others', so that
// the kernel does not end them with its first.
func (c *Config) foreignPID() bool { return c.SharePID || c.HostPID }

// cloneFlags are the namespaces that the pause makes.
func (c *Config) cloneFlags() uintptr {
	var flags uintptr
	if !c.HostIPC {
		flags |= unix.CLONE_NEWIPC
	}
	if !c.HostNetwork {
		flags |= unix.CLONE_NEWNET | unix.CLONE_NEWUTS
	}
	if c.SharePID && !c.HostPID {
		flags |= unix.CLONE_NEWPID
	}
	return flags
}

// sandboxState is sandbox.json.
type sandboxState struct {
	Config
	Pid   int    `json:",omitempty"`
	Start uint64 `json:",omitempty"`
}

// Sandbox is a running pause process and its namespaces. Safe for concurrent
// use.
type Sandbox struct {
	r     *Runtime
	dir   string
	state sandboxState
	pause *process

	mu         sync.Mutex
	containers map[string]*Container
}

// CreateSandbox makes the namespaces of a pod and a process that holds them.
// When it fails nothing is left; ErrExists when c.ID is in use, even if only
// by remains that DeleteSandbox has to clear.
func (r *Runtime) CreateSandbox(ctx context.Context, c Config) (_ *Sandbox, err error) {
	if !validID(c.ID) {
		return nil, fmt.Errorf("sandbox: invalid ID %q", c.ID)
	}
	settings, err := c.settings(r.gids.last())
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", c.ID, err)
	}
	s := r.sandbox(sandboxState{Config: c})
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = ErrExists
		}
		return nil, fmt.Errorf("sandbox %s: %w", c.ID, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("sandbox %s: %w", c.ID, err), s.Delete(ctx))
		}
	}()
	if err := s.save(); err != nil {
		return nil, err
	}
	if err := fault.Point("sandbox.saved"); err != nil {
		return nil, err
	}
	if err := s.createCgroup(); err != nil {
		return nil, err
	}
	if !c.HostIPC {
		if err := s.mountShm(); err != nil {
			return nil, err
		}
	}
	err = startPause(ctx, c.Name, c.cloneFlags(), settings, func(pid int) error {
		p, err := openProcess(pid, 0)
		if err != nil {
			return err
		}
		s.pause, s.state.Pid, s.state.Start = p, p.pid, p.start
		return s.save()
	})
	if err != nil {
		return nil, fmt.Errorf("pause: %w", err)
	}
	if err := fault.Point("sandbox.ready"); err != nil {
		return nil, err
	}
	return s, nil
}

// OpenSandbox finds a sandbox that an earlier node made. ErrNotFound when
// there is none on disk; ErrGone when its pause process has died or was never
// there: then DeleteSandbox clears what is left, containers included.
func (r *Runtime) OpenSandbox(id string) (*Sandbox, error) {
	s, err := r.loadSandbox(id)
	if err != nil {
		return nil, err
	}
	s.pause, err = openProcess(s.state.Pid, s.state.Start)
	if err == nil && s.state.Start == 0 {
		err = ErrGone
	}
	if err == nil {
		var exited bool
		if exited, err = linux.PidfdExited(s.pause.pidfd); exited {
			err = ErrGone
		}
	}
	if err != nil {
		if s.pause != nil {
			s.pause.close()
		}
		return nil, fmt.Errorf("sandbox %s: %w", id, err)
	}
	return s, nil
}

// Sandboxes returns the IDs of all sandboxes on disk, whole or not.
func (r *Runtime) Sandboxes() ([]string, error) {
	return subdirectories(r.dir)
}

// DeleteSandbox clears a sandbox from what is on disk alone, with all its
// containers. It is idempotent and goes on past failures.
func (r *Runtime) DeleteSandbox(ctx context.Context, id string) error {
	if !validID(id) {
		return fmt.Errorf("sandbox: invalid ID %q", id)
	}
	s, err := r.loadSandbox(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		// Not readable: nothing was started yet, or it is past helping.
		s = r.sandbox(sandboxState{Config: Config{ID: id}})
	}
	return s.Delete(ctx)
}

func (r *Runtime) sandbox(state sandboxState) *Sandbox {
	return &Sandbox{
		r: r, dir: filepath.Join(r.dir, state.ID), state: state,
		containers: make(map[string]*Container),
	}
}

func (r *Runtime) loadSandbox(id string) (*Sandbox, error) {
	if !validID(id) {
		return nil, fmt.Errorf("sandbox: invalid ID %q", id)
	}
	dir := filepath.Join(r.dir, id)
	var state sandboxState
	err := load(filepath.Join(dir, "sandbox.json"), &state)
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := os.Stat(dir); serr != nil {
			return nil, fmt.Errorf("sandbox %s: %w", id, ErrNotFound)
		}
		err = ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", id, err)
	}
	state.ID = id
	return r.sandbox(state), nil
}

func (s *Sandbox) save() error {
	return save(filepath.Join(s.dir, "sandbox.json"), s.state)
}

// mountShm makes the sandbox's /dev/shm, of Docker's and containerd's size.
func (s *Sandbox) mountShm() error {
	if err := os.Mkdir(s.shm(), 0o700); err != nil {
		return err
	}
	return linux.Mount{
		Source: "shm", Target: s.shm(), Type: "tmpfs",
		Flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, Data: "mode=1777,size=64m",
	}.Mount()
}

// shm is what the containers have at /dev/shm.
func (s *Sandbox) shm() string {
	if s.state.HostIPC {
		return "/dev/shm"
	}
	return filepath.Join(s.dir, "shm")
}

// ID returns the pod's UID.
func (s *Sandbox) ID() string { return s.state.ID }

// Pid returns the process ID of the pause, as this process sees it.
func (s *Sandbox) Pid() int { return s.state.Pid }

// NetNS returns a path of the network namespace. It is of use only while the
// sandbox is not deleted.
func (s *Sandbox) NetNS() string { return s.namespace("net") }

// OpenNetNS opens the network namespace of the container's sandbox, nil when
// that is the host's. ErrGone when the sandbox has died.
func (c *Container) OpenNetNS() (*os.File, error) {
	if c.s.state.HostNetwork {
		return nil, nil
	}
	f, err := os.Open(c.s.NetNS())
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	// Looked at after the opening: as long as the pause has not exited, its
	// pid was nobody else's.
	if exited, err := linux.PidfdExited(c.s.pause.pidfd); exited || err != nil {
		return nil, errors.Join(fmt.Errorf("network namespace: %w", ErrGone), f.Close())
	}
	return f, nil
}

func (s *Sandbox) namespace(kind string) string {
	return "/proc/" + strconv.Itoa(s.state.Pid) + "/ns/" + kind
}

// Done is closed when the pause process has died, and so the sandbox's
// namespaces are as good as gone, or the sandbox has been deleted.
func (s *Sandbox) Done() <-chan struct{} { return s.pause.exited() }

// Delete ends the sandbox: its containers, its pause process, its directory.
// It is idempotent, goes on past failures and after ctx is cancelled, for half
// a minute at most.
func (s *Sandbox) Delete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoing)
	defer cancel()
	ids, err := s.Containers()
	var errs []error
	if err != nil {
		errs = append(errs, err)
	}
	// All at once: each waits for the kernel, not for us.
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, id := range ids {
		wg.Go(func() {
			if err := s.DeleteContainer(ctx, id); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := s.endPause(ctx); err != nil {
		errs = append(errs, fmt.Errorf("pause: %w", err))
	}
	if err := s.removeCgroup(); err != nil {
		errs = append(errs, err)
	}
	if !s.state.HostIPC {
		if err := linux.Unmount(s.shm(), unix.MNT_DETACH); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		if err := fault.Point("sandbox.ended"); err != nil {
			return err
		}
		// Last, so that Delete can be asked for again until all is gone.
		if err := os.RemoveAll(s.dir); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sandbox %s: %w", s.state.ID, err)
	}
	return nil
}

func (s *Sandbox) endPause(ctx context.Context) error {
	p := s.pause
	if p == nil {
		if s.state.Start == 0 {
			return nil
		}
		var err error
		if p, err = openProcess(s.state.Pid, s.state.Start); err != nil {
			if errors.Is(err, ErrGone) {
				return nil
			}
			return err
		}
	}
	if err := p.kill(ctx); err != nil {
		return err
	}
	if err := p.reap(); err != nil {
		return err
	}
	p.close()
	return nil
}

// Containers returns the IDs of all containers of the sandbox on disk, whole
// or not.
func (s *Sandbox) Containers() ([]string, error) {
	return subdirectories(filepath.Join(s.dir, "containers"))
}

func subdirectories(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// validID keeps IDs usable as file names and as libcontainer's.
func validID(id string) bool {
	if id == "" || len(id) > 128 || strings.Trim(id, ".") == "" {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

// save replaces the file at once: a reader sees the old state or the new. It
// is not synced, since a machine that crashes has no processes to find again.
func save(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := name + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

func load(name string, v any) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
