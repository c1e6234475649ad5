package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/linux"
)

// Signal sends a signal to the container's first process; ErrGone when that
// has exited. Inside its pid namespace it is process 1, which the kernel lets
// no signal end that it has no handler for, but SIGKILL from here.
func (c *Container) Signal(sig unix.Signal) error {
	if c.proc == nil {
		return fmt.Errorf("container %s: %w", c.state.Config.Name, ErrGone)
	}
	if err := c.proc.signal(sig); err != nil {
		return fmt.Errorf("container %s: %w", c.state.Config.Name, err)
	}
	return nil
}

// Kill ends all processes of the container: the kernel does it with the first,
// and in a shared pid namespace we look for them. That none is left is no error.
func (c *Container) Kill() error {
	var err error
	if c.proc != nil {
		if err = c.proc.signal(unix.SIGKILL); errors.Is(err, ErrGone) {
			err = nil
		}
	}
	c.killOthers()
	return err
}

// killOthers kills the processes of a container that shares its pid namespace:
// those in its mount namespace. One of a privileged container can leave that;
// it is found by the container's cgroup if there is one, and else ends with the
// pid namespace. It repeats until a look finds none, for a process may fork
// meanwhile.
func (c *Container) killOthers() {
	if c.state.MountNS == 0 {
		return
	}
	for range 100 {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return
		}
		found := false
		for _, e := range entries {
			pid := 0
			if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil {
				continue
			}
			// A zombie has no namespaces left and is not found.
			if id, err := linux.NamespaceID(pid, "mnt"); err != nil || id != c.state.MountNS {
				continue
			}
			p, err := openProcess(pid, 0)
			if err != nil {
				continue
			}
			if id, err := linux.NamespaceID(pid, "mnt"); err == nil && id == c.state.MountNS {
				found = p.signal(unix.SIGKILL) == nil || found
			}
			p.close()
		}
		if !found {
			return
		}
	}
}

// Wait blocks until the container's first process has exited, and does not
// reap it: call Reap once the exit is saved. It may be called many times, also
// after Delete when it was called before. ctx ends the wait, not the container.
func (c *Container) Wait(ctx context.Context) (Exit, error) {
	if exit, ok := c.exit(); ok {
		return exit, nil
	}
	status, known, err := c.waitStatus(ctx)
	if err != nil {
		return Exit{}, err
	}
	exit := Exit{Code: 137, Unknown: true, FinishedAt: time.Now()}
	if known {
		exit = exitOf(status, time.Now())
	}
	exit.OOMKilled = exit.Code != 0 && oomKilled(c.state.Cgroups)
	c.mu.Lock()
	defer c.mu.Unlock()
	// The first to look decides on the time.
	if c.state.Exit == nil {
		c.state.Exit = &exit
	}
	return *c.state.Exit, nil
}

func (c *Container) exit() (Exit, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Exit == nil {
		return Exit{}, false
	}
	return *c.state.Exit, true
}

func (c *Container) waitStatus(ctx context.Context) (status unix.WaitStatus, known bool, err error) {
	if c.proc != nil {
		select {
		case <-c.proc.exited():
		case <-ctx.Done():
			return 0, false, context.Cause(ctx)
		}
		status, known, err = linux.PidfdStatus(c.proc.pidfd, false)
		if known || (err != nil && !errors.Is(err, unix.ECHILD) && !errors.Is(err, os.ErrClosed)) {
			return status, known, err
		}
	}
	return statusOfOrphan(ctx, c.s.r.status, c.state.Pid, c.state.Start)
}

// Reap writes the exit down for good and frees the process. To be called when
// the caller has saved what Wait returned; idempotent. Before Delete there is
// no need for it, but a zombie stays until then.
func (c *Container) Reap() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Exit == nil {
		return fmt.Errorf("container %s: its exit is not known yet", c.state.Config.Name)
	}
	if err := c.save(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if c.proc == nil {
		return nil
	}
	return c.proc.reap()
}

// Delete ends the container and clears what this package made for it: its
// processes, cgroup, mounts, descriptors and directory. It is idempotent, goes
// on past failures and after ctx is cancelled, for half a minute at most.
func (c *Container) Delete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoing)
	defer cancel()
	c.deleting.Lock()
	defer c.deleting.Unlock()
	if c.deleted {
		return nil
	}
	var errs []error
	step := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	step("kill", c.end(ctx))
	step("fault", fault.Point("container.ended"))
	step("cgroup", c.s.r.cgroups.remove(c.s.containerCgroup(c.id, Resources{})))
	step("root filesystem", c.unmountRootfs())
	step("layers", linux.UnmountBelow(c.layersDir()))
	step("fault", fault.Point("container.unmounted"))
	for _, name := range []string{"stdin", "stdout", "stderr", "console"} {
		c.s.r.drop(c.key(name))
	}
	if len(errs) == 0 {
		step("state", os.RemoveAll(filepath.Join(c.s.runDir(), c.id)))
		step("fault", fault.Point("container.cleared"))
	}
	if len(errs) == 0 {
		// Last, so that Delete can be asked for again until all is gone.
		step("directory", os.RemoveAll(c.dir()))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	c.deleted = true
	c.mu.Lock()
	c.lib = nil
	c.mu.Unlock()
	c.s.mu.Lock()
	delete(c.s.containers, c.id)
	c.s.mu.Unlock()
	return nil
}

// end kills what runs, waits until it is dead, and reaps it.
func (c *Container) end(ctx context.Context) error {
	c.findInit()
	if c.proc == nil && c.state.Pid != 0 {
		// Nobody else knows a container without a process yet.
		p, err := openProcess(c.state.Pid, c.state.Start)
		if err != nil && !errors.Is(err, ErrGone) {
			return err
		}
		c.proc = p
	}
	p := c.proc
	if p == nil {
		c.killOthers()
		return nil
	}
	if err := p.kill(ctx); err != nil {
		return err
	}
	c.killOthers()
	// Who waits now still gets the exit.
	_, _ = c.Wait(ctx)
	if err := p.reap(); err != nil {
		return err
	}
	p.close()
	return nil
}

// DeleteContainer clears a container from what is on disk alone, whole or half
// made. It is idempotent.
func (s *Sandbox) DeleteContainer(ctx context.Context, id string) error {
	s.mu.Lock()
	c := s.containers[id]
	s.mu.Unlock()
	if c == nil {
		var err error
		c, err = s.loadContainer(id)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			if !validID(id) {
				return err
			}
			c = &Container{s: s, id: id}
		}
	}
	return c.Delete(ctx)
}
