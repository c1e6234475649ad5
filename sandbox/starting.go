package sandbox

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/linux"
)

// libcontainer starts a program beside a container's own through three
// processes. The last of them is in the container before it executes the
// program, and so the container's to stop, or to take along in its own end.
// libcontainer then waits for ever, or fails without reaping it; and as long as
// it is a zombie the container's first process does not go.

const (
	// startPatience is how old a process may be at the least that is killed
	// because its start takes too long: no younger one is mistaken for it.
	startPatience = 500 * time.Millisecond
	// startLook is how often such processes are looked for.
	startLook = 50 * time.Millisecond
	// stuckWait is how long a start may take to fail after its context has
	// ended. Then it goes on without whoever asked for it.
	stuckWait = 2 * time.Second
)

// start has libcontainer start p in the container. When ctx ends before that is
// done, what was started is killed, and the error is ctx's.
func (c *Container) start(ctx context.Context, lib *libcontainer.Container, p *libcontainer.Process) error {
	done := make(chan error, 1)
	go func() {
		err := lib.Start(p)
		if err != nil {
			c.reapStarting()
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	given := time.NewTimer(stuckWait)
	defer given.Stop()
	look := time.NewTicker(startLook)
	defer look.Stop()
	for {
		c.killStarting()
		select {
		case err := <-done:
			if err == nil {
				return nil // it runs after all: whoever asked can end it
			}
			return context.Cause(ctx)
		case <-look.C:
		case <-given.C:
			go func() {
				for {
					select {
					case err := <-done:
						if err == nil {
							_ = p.Signal(unix.SIGKILL)
							_, _ = p.Wait()
						}
						return
					case <-time.After(startPatience):
						c.killStarting()
					}
				}
			}()
			return context.Cause(ctx)
		}
	}
}

// starter is a process of libcontainer's that has not executed its program.
type starter struct {
	pid    int
	zombie bool
	age    time.Duration
	inner  int // its pid in the innermost pid namespace, 0 for one that is in ours
}

// starters are those that are our children and no container's first process.
func (c *Container) starters() (all []starter) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if s, ok := readStarter(pid); ok && !c.s.isInit(pid) {
			all = append(all, s)
		}
	}
	return all
}

func readStarter(pid int) (s starter, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return s, false
	}
	s.pid = pid
	ppid := 0
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Name":
			if !strings.HasPrefix(value, "runc:[") {
				return s, false
			}
		case "State":
			s.zombie = strings.HasPrefix(value, "Z")
		case "PPid":
			ppid, _ = strconv.Atoi(value)
		case "NSpid":
			if pids := strings.Fields(value); len(pids) > 1 {
				s.inner, _ = strconv.Atoi(pids[len(pids)-1])
			}
		}
	}
	start, err := linux.ProcessStartTime(pid)
	var now unix.Timespec
	if ppid != os.Getpid() || err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return s, false
	}
	const tick = time.Second / 100 // USER_HZ, on every architecture that Go knows
	s.age = time.Duration(now.Nano()) - time.Duration(start)*tick
	return s, true
}

// isInit tells whether pid is the first process of a container of the sandbox.
func (s *Sandbox) isInit(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if c.state.Pid == pid {
			return true
		}
	}
	return false
}

// killStarting kills what has been starting in the container for too long.
func (c *Container) killStarting() {
	// In a pid namespace of several containers one that is being made must not
	// be taken for one.
	kind := "pid"
	if c.s.state.foreignPID() {
		kind = "mnt"
	}
	own, err := linux.NamespaceID(c.state.Pid, kind)
	if err != nil {
		return
	}
	for _, s := range c.starters() {
		if s.zombie || s.age < startPatience {
			continue
		}
		p, err := openProcess(s.pid, 0)
		if err != nil {
			continue
		}
		id, err := linux.NamespaceID(s.pid, kind)
		if err == nil && id == own {
			_ = p.signal(unix.SIGKILL)
		}
		p.close()
	}
}

// reapStarting reaps what a failed start has left. The first process of a
// container with a pid namespace of its own is number 1 in it, and not of these.
func (c *Container) reapStarting() {
	for range 10 {
		dying := false
		for _, s := range c.starters() {
			if !s.zombie || s.inner <= 1 {
				// It may be about to end; one that starts now is neither.
				dying = dying || s.inner > 1 && s.age > startPatience
				continue
			}
			if p, err := openProcess(s.pid, 0); err == nil {
				_ = p.reap()
				p.close()
			}
		}
		if !dying {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
}
