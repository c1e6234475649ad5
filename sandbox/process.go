package sandbox

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/linux"
)

// A process is one that this package started, in this node's life or in an
// earlier one's. Safe for concurrent use.
type process struct {
	pid   int
	start uint64 // clock ticks after boot; with pid a name that is never reused
	pidfd *os.File

	watch sync.Once
	done  chan struct{} // closed when the process has exited, or pidfd is closed
}

// openProcess finds the process again; ErrGone when there is no such process
// any more. A zombie is still there.
func openProcess(pid int, start uint64) (*process, error) {
	if pid <= 0 {
		return nil, ErrGone
	}
	pidfd, err := linux.PidfdOpen(pid)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, err
	}
	// In this order: a pid that was used again before pidfd was opened shows
	// its own start time, and one used again after it cannot have ours.
	now, err := linux.ProcessStartTime(pid)
	if err == nil && (start == 0 || now == start) {
		return &process{pid: pid, start: now, pidfd: pidfd, done: make(chan struct{})}, nil
	}
	_ = pidfd.Close()
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = ErrGone
	}
	return nil, err
}

// exited is closed when the process has exited, or after close.
func (p *process) exited() <-chan struct{} {
	p.watch.Do(func() {
		// One parked goroutine, no thread. It ends by itself or by close.
		go func() {
			_ = linux.PidfdWait(p.pidfd)
			close(p.done)
		}()
	})
	return p.done
}

func (p *process) close() {
	_ = p.pidfd.Close()
}

// signal is ErrGone when the process has exited.
func (p *process) signal(sig unix.Signal) error {
	err := linux.PidfdSignal(p.pidfd, sig)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrClosed) {
		return ErrGone
	}
	return err
}

// kill kills and waits; ctx bounds the wait.
func (p *process) kill(ctx context.Context) error {
	if err := p.signal(unix.SIGKILL); err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	select {
	case <-p.exited():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// reap collects a child that has exited and frees its pid. A process that is
// not our child is left to whose child it is.
func (p *process) reap() error {
	_, _, err := linux.PidfdStatus(p.pidfd, true)
	if errors.Is(err, unix.ECHILD) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// statusOfOrphan asks for the status of a process whose parent is another. It
// may be logged a moment after the process is seen to have exited, but not
// after it is gone from the process table. ok is false when nobody knows it.
func statusOfOrphan(ctx context.Context, ask func(int, uint64) (unix.WaitStatus, bool), pid int, start uint64) (status unix.WaitStatus, ok bool, err error) {
	if ask == nil {
		return 0, false, nil
	}
	const longest = 100 * time.Millisecond
	for delay := time.Millisecond; ; delay = min(2*delay, longest) {
		now, err := linux.ProcessStartTime(pid)
		gone := err != nil || now != start
		if status, ok := ask(pid, start); ok || gone {
			return status, ok, nil
		}
		// Who lost its reaper waits for init, which may take its time.
		if status, ok := linux.ZombieStatus(pid, start); ok {
			return status, true, nil
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return 0, false, context.Cause(ctx)
		}
	}
}
