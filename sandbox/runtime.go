package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Options say where a Runtime keeps its state and what it may count on.
type Options struct {
	// StateDir holds one directory per sandbox. It is made if need be, mode
	// 0700, and should be on a file system that a reboot empties.
	StateDir string
	// OpenDir holds the root filesystems of sandboxes with users of their own.
	// It is made if need be, and everybody may enter it and the directories
	// above it. "" stands for a neighbour of StateDir.
	OpenDir string
	// Rootless: root in a user namespace, not the machine's.
	Rootless bool
	// SingleID: only one user ID and one group ID are mapped.
	SingleID bool
	// CoreLimit is RLIMIT_CORE of containers (getrlimit(2)).
	CoreLimit unix.Rlimit
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
	core     unix.Rlimit
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
	own         ownUsers
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
		dir: dir, rootless: o.Rootless, singleID: o.SingleID, core: o.CoreLimit,
		status: o.ExitStatus, keep: o.Keep, kept: o.Kept, drop: o.Drop, log: o.Logger,
	}
	if r.own.dir = o.OpenDir; r.own.dir == "" {
		r.own.dir = dir + "-rootfs"
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
	if r.cgroups, err = openCgroups(o.Rootless, dir); err != nil {
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
	r.cgroups.close()
	if r.held != nil {
		r.held.close()
	}
	return nil
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
