package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/linux"
)

// StartError is a program that cannot be executed. Its message is Docker's.
type StartError struct {
	Program string
	Code    int // a shell's: 127 for not found, 126 for not executable
	message string
}

func (e *StartError) Error() string { return e.message }

// startError makes a *StartError of what libcontainer says, if it is one. The
// init looks the program up in the container, with os/exec, and its error comes
// back as text only; so it is compared to the text of the same error made here.
func startError(err error, program string) error {
	text := err.Error()
	prefix := (&exec.Error{Name: program, Err: errors.New("")}).Error()
	at := strings.Index(text, prefix)
	if at < 0 {
		return err
	}
	e := &StartError{Program: program, Code: 126, message: text[at:]}
	for _, missing := range []error{exec.ErrNotFound, unix.ENOENT, unix.ENOTDIR, fs.ErrNotExist} {
		if strings.HasSuffix(text, missing.Error()) {
			e.Code = 127
		}
	}
	return e
}

// ExecConfig describes a process to run beside a container's own.
type ExecConfig struct {
	Args []string
	Env  []string // nil: the container's
	Cwd  string   // "": the container's
	User string   // "": the container's; else as in ContainerConfig
	TTY  bool     // a new terminal; the three files are not used then
	// Stdin, Stdout and Stderr become the process's own descriptors and stay
	// the caller's to close; nil is /dev/null.
	Stdin, Stdout, Stderr *os.File
	Rows, Cols            uint16 // of the terminal at first; 0 leaves the kernel's
}

// Process is a process that Exec started. Safe for concurrent use.
type Process struct {
	proc    *process
	console *os.File
	done    chan struct{}
	exit    Exit
}

// Exec runs a program in the container, with its capabilities and seccomp
// profile, and dies with it. A program that cannot be executed is a
// *StartError; a container that has ended is ErrGone. ctx bounds the start.
func (c *Container) Exec(ctx context.Context, config ExecConfig) (*Process, error) {
	p, err := c.exec(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("container %s: exec: %w", c.state.Config.Name, err)
	}
	return p, nil
}

func (c *Container) exec(ctx context.Context, config ExecConfig) (_ *Process, err error) {
	if len(config.Args) == 0 {
		return nil, errors.New("no program to run")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	lib, err := c.library()
	if err != nil {
		return nil, err
	}
	own := &c.state.Config
	user := c.state.User
	if config.User != "" {
		as := *own
		as.User = config.User
		if user, err = c.s.resolveUser(c.rootfs(), &as); err != nil {
			return nil, err
		}
	}
	if config.Env == nil {
		config.Env = own.Env
	}
	if config.Cwd == "" {
		config.Cwd = own.Cwd
	}
	lp := &libcontainer.Process{
		Args: config.Args, Cwd: workDir(config.Cwd),
		Env: environment(ContainerConfig{Env: config.Env, Hostname: own.Hostname, TTY: config.TTY}),
		UID: user.UID, GID: user.GID, AdditionalGroups: user.Groups,
	}
	st := &streams{}
	if config.TTY {
		if st.console, st.consoleChild, err = consoleSockets(); err != nil {
			return nil, err
		}
		defer st.close()
		lp.ConsoleWidth, lp.ConsoleHeight = config.Cols, config.Rows
	} else {
		st.stdin, st.stdout, st.stderr = config.Stdin, config.Stdout, config.Stderr
	}
	attachExec(lp, st)
	if err := c.start(ctx, lib, lp); err != nil {
		if exited, perr := linux.PidfdExited(c.proc.pidfd); exited || perr != nil {
			// libcontainer leaves the descriptors of a start that finds no
			// namespaces to the garbage collector, as startInit's.
			runtime.GC()
			if ctx.Err() == nil {
				err = ErrGone
			}
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, startError(err, config.Args[0])
	}
	pid, err := lp.Pid()
	if err != nil {
		return nil, err
	}
	proc, err := openProcess(pid, 0)
	if err != nil {
		return nil, err
	}
	p := &Process{proc: proc, done: make(chan struct{})}
	if st.console != nil {
		if p.console, err = receiveConsole(st.console); err != nil {
			_ = proc.signal(unix.SIGKILL)
		}
	}
	go p.collect()
	return p, err
}

func attachExec(lp *libcontainer.Process, st *streams) {
	lp.ConsoleSocket = st.consoleChild
	if st.stdin != nil {
		lp.Stdin = st.stdin
	}
	if st.stdout != nil {
		lp.Stdout = st.stdout
	}
	if st.stderr != nil {
		lp.Stderr = st.stderr
	}
}

// collect reaps the process as soon as it has exited, whoever waits: the
// kernel does not let a container's init go before the zombies in its pid
// namespace are gone, and this one's parent is the node.
func (p *Process) collect() {
	<-p.proc.exited()
	status, ok, _ := linux.PidfdStatus(p.proc.pidfd, true)
	p.exit = Exit{Code: 137, Unknown: true, FinishedAt: time.Now()}
	if ok {
		p.exit = exitOf(status, time.Now())
	}
	p.proc.close()
	close(p.done)
}

// library returns libcontainer's view of the container, from disk if a node
// before us made it.
func (c *Container) library() (*libcontainer.Container, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc == nil || c.state.Exit != nil {
		return nil, ErrGone
	}
	if c.lib == nil {
		lib, err := libcontainer.Load(c.s.runDir(), c.id)
		if err != nil {
			return nil, err
		}
		c.lib = lib
	}
	return c.lib, nil
}

// Pid returns the process ID, as this process sees it.
func (p *Process) Pid() int { return p.proc.pid }

// Done is closed when the process has exited.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait blocks until the process has exited. It may be called many times.
func (p *Process) Wait() (Exit, error) {
	<-p.done
	return p.exit, nil
}

// Console returns the master of the process's terminal, nil without TTY. It is
// one file, whatever the number of calls, and the caller closes it. A read
// gives unix.EIO when the process and its children have closed the other end.
func (p *Process) Console() *os.File { return p.console }

// Resize sets the size of the process's terminal, in characters.
func (p *Process) Resize(rows, cols uint16) error {
	if p.console == nil {
		return errors.New("the process has no terminal")
	}
	return resize(p.console, rows, cols)
}

// Signal sends a signal to the process; ErrGone when it has exited.
func (p *Process) Signal(sig syscall.Signal) error { return p.proc.signal(sig) }

// Kill kills the process with all that it started and that did not leave its
// process group. The init of libcontainer made it a session's leader.
func (p *Process) Kill() error {
	err := linux.PidfdSignalGroup(p.proc.pidfd, unix.SIGKILL)
	if errors.Is(err, unix.EINVAL) && !isDone(p.done) {
		// The number is not given to another group while this one has members.
		err = unix.Kill(-p.proc.pid, unix.SIGKILL)
	}
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrClosed) {
		return ErrGone
	}
	return err
}

func isDone(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}
