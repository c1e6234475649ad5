package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
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
	// OwnUsers: a user namespace with IDs that no other sandbox has; for real
	// root only, see Runtime.OwnUsers. It goes with no namespace of the host.
	OwnUsers bool
}

// foreignPID tells whether a container's processes are among others', so that
// the kernel does not end them with its first.
func (c *Config) foreignPID() bool { return c.SharePID || c.HostPID }

// cloneFlags are the namespaces that the pause is born in. A pid namespace that
// containers share is for its child.
func (c *Config) cloneFlags() uintptr {
	var flags uintptr
	if !c.HostIPC {
		flags |= unix.CLONE_NEWIPC
	}
	if !c.HostNetwork {
		flags |= unix.CLONE_NEWNET | unix.CLONE_NEWUTS
	}
	if c.OwnUsers {
		flags |= unix.CLONE_NEWUSER
	}
	return flags
}

// sandboxState is sandbox.json.
type sandboxState struct {
	Config
	Pid   int    `json:",omitempty"`
	Start uint64 `json:",omitempty"`
	// FirstID is root of the sandbox's own users, on the host.
	FirstID int64 `json:",omitempty"`
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
	s := r.sandbox(sandboxState{Config: c})
	_, gids := s.ids()
	settings, err := c.settings(gids.last())
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", c.ID, err)
	}
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
	if c.OwnUsers {
		if err := errors.Join(s.takeIDs(), fault.Point("sandbox.ids")); err != nil {
			return nil, fmt.Errorf("users of its own: %w", err)
		}
		if err := s.makeRootfsDir(); err != nil {
			return nil, fmt.Errorf("users of its own: %w", err)
		}
	}
	if err := s.createCgroup(); err != nil {
		return nil, err
	}
	if !c.HostIPC {
		if err := errors.Join(s.mountShm(), fault.Point("sandbox.shm")); err != nil {
			return nil, err
		}
	}
	exe, sealed, err := s.pauseProgram()
	if err != nil {
		return nil, fmt.Errorf("pause: %w", err)
	}
	if sealed != nil {
		defer func() { _ = sealed.Close() }()
	}
	err = startPause(ctx, exe, c.Name, c.cloneFlags(), s.state.FirstID, settings, func(pid int) error {
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
		Flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, Data: fmt.Sprintf("mode=1777,size=64m,uid=%d,gid=%[1]d", s.state.FirstID),
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
func (c *Container) OpenNetNS() (*os.File, error) { return c.s.OpenNetNS() }

// OpenNetNS opens the sandbox's network namespace, nil when that is the host's.
// ErrGone when the sandbox has died.
func (s *Sandbox) OpenNetNS() (*os.File, error) {
	if s.state.HostNetwork {
		return nil, nil
	}
	// Each connection to a host port does this: os.Open would ask whether it can
	// be polled.
	fd, err := unix.Open(s.NetNS(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", &os.PathError{Op: "open", Path: s.NetNS(), Err: err})
	}
	f := os.NewFile(uintptr(fd), s.NetNS())
	// Looked at after the opening: as long as the pause has not exited, its
	// pid was nobody else's.
	if exited, err := linux.PidfdExited(s.pause.pidfd); exited || err != nil {
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
	if err := errors.Join(fault.Point("sandbox.killed"), s.removeCgroup()); err != nil {
		errs = append(errs, err)
	}
	if err := s.removeRootfsDir(); err != nil {
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
