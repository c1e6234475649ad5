package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// key names a kept descriptor.
func (c *Container) key(name string) string { return c.s.state.ID + "/" + c.id + "/" + name }

// streams are a container's end of its standard streams while it is started.
type streams struct {
	stdin, stdout, stderr *os.File
	console, consoleChild *os.File // sockets: the terminal's master comes through
}

func (st *streams) close() {
	for _, f := range []*os.File{st.stdin, st.stdout, st.stderr, st.console, st.consoleChild} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// attach leaves nil interfaces for absent files: /dev/null to libcontainer.
func (st *streams) attach(p *libcontainer.Process) {
	p.ConsoleSocket = st.consoleChild
	if st.stdin != nil {
		p.Stdin = st.stdin
	}
	if st.stdout != nil {
		p.Stdout, p.Stderr = st.stdout, st.stderr
	}
}

// openStreams makes the FIFOs, or the socket that a terminal comes through,
// and leaves their other ends with whoever outlives the node.
func (c *Container) openStreams() (_ *streams, err error) {
	st := &streams{}
	defer func() {
		if err != nil {
			st.close()
		}
	}()
	if c.state.Config.TTY {
		if st.console, st.consoleChild, err = consoleSockets(); err != nil {
			return nil, err
		}
		return st, nil
	}
	// O_RDWR: the container is reader and writer, so its pipe does not break
	// when all other readers die. A FIFO that is opened so does not block.
	if st.stdout, err = c.makeFIFO("stdout", unix.O_RDWR, unix.O_RDONLY); err != nil {
		return nil, err
	}
	if st.stderr, err = c.makeFIFO("stderr", unix.O_RDWR, unix.O_RDONLY); err != nil {
		return nil, err
	}
	if c.state.Config.Stdin {
		// Only a reader: the input ends when all writers have closed it, and
		// until CloseStdin the kept one has not.
		if st.stdin, err = c.makeFIFO("stdin", unix.O_RDWR, unix.O_WRONLY); err != nil {
			return nil, err
		}
		reader, err := openFIFO(c.fifo("stdin"), unix.O_RDONLY)
		if err != nil {
			return nil, err
		}
		_ = st.stdin.Close()
		st.stdin = reader
		// The container gets a descriptor that blocks.
		if err := setBlocking(reader); err != nil {
			return nil, err
		}
	}
	return st, nil
}

func (c *Container) fifo(name string) string { return filepath.Join(c.dir(), name) }

// makeFIFO makes a FIFO, has its other end kept, and returns the container's.
func (c *Container) makeFIFO(name string, container, other int) (*os.File, error) {
	path := c.fifo(name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	if first := int(c.s.state.FirstID); first != 0 {
		if err := os.Chown(path, first, first); err != nil {
			return nil, err
		}
	}
	fd, err := unix.Open(path, container|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	ours := os.NewFile(uintptr(fd), path)
	kept, err := openFIFO(path, other)
	if err == nil {
		err = c.s.r.keep(c.key(name), kept)
		_ = kept.Close()
	}
	if err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("keep %s: %w", name, err)
	}
	return ours, nil
}

// openFIFO does not block, neither now nor when used.
func openFIFO(path string, mode int) (*os.File, error) {
	fd, err := unix.Open(path, mode|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func setBlocking(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := conn.Control(func(fd uintptr) { serr = unix.SetNonblock(int(fd), false) }); err != nil {
		return err
	}
	return os.NewSyscallError("fcntl(F_SETFL)", serr)
}

// Output returns read ends of what the container writes. They can be opened
// again by a later node, and what was written meanwhile is there; two readers
// at a time take the data from each other. The caller closes them.
//
// A read gives io.EOF when no process holds the other end any more. Of a
// container with a terminal stdout is that, to be written to as well, stderr
// is nil, and a read gives unix.EIO in place of io.EOF.
func (c *Container) Output() (stdout, stderr *os.File, err error) {
	if c.state.Config.TTY {
		console, err := c.Console()
		return console, nil, err
	}
	if stdout, err = openFIFO(c.fifo("stdout"), unix.O_RDONLY); err != nil {
		return nil, nil, fmt.Errorf("container %s: %w", c.state.Config.Name, err)
	}
	if stderr, err = openFIFO(c.fifo("stderr"), unix.O_RDONLY); err != nil {
		_ = stdout.Close()
		return nil, nil, fmt.Errorf("container %s: %w", c.state.Config.Name, err)
	}
	return stdout, stderr, nil
}

// Stdin returns a write end of the container's input, which the caller closes.
// The container does not see the end of its input by that: see CloseStdin.
// ErrGone when the container reads no more, os.ErrClosed after CloseStdin.
func (c *Container) Stdin() (*os.File, error) {
	kept, ok := c.s.r.kept(c.key("stdin"))
	if !ok {
		return nil, fmt.Errorf("container %s: input: %w", c.state.Config.Name, os.ErrClosed)
	}
	defer func() { _ = kept.Close() }()
	f, err := openFIFO(c.fifo("stdin"), unix.O_WRONLY)
	if errors.Is(err, unix.ENXIO) {
		err = ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("container %s: input: %w", c.state.Config.Name, err)
	}
	return f, nil
}

// CloseStdin lets the container see the end of its input, once all that Stdin
// returned is closed. Idempotent.
func (c *Container) CloseStdin() { c.s.r.drop(c.key("stdin")) }

// Console returns the master of the container's terminal. The caller closes
// it; the terminal stays.
func (c *Container) Console() (*os.File, error) {
	f, ok := c.s.r.kept(c.key("console"))
	if !ok {
		return nil, fmt.Errorf("container %s: terminal: %w", c.state.Config.Name, os.ErrNotExist)
	}
	return f, nil
}

// Resize sets the size of the container's terminal, in characters.
func (c *Container) Resize(rows, cols uint16) error {
	console, err := c.Console()
	if err != nil {
		return err
	}
	defer func() { _ = console.Close() }()
	return resize(console, rows, cols)
}

func resize(console *os.File, rows, cols uint16) error {
	conn, err := console.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := conn.Control(func(fd uintptr) {
		serr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	}); err != nil {
		return err
	}
	return os.NewSyscallError("ioctl(TIOCSWINSZ)", serr)
}

// keepConsole receives the terminal's master and leaves it with whoever
// outlives the node.
func (st *streams) keepConsole(c *Container) error {
	master, err := receiveConsole(st.console)
	if err != nil {
		return err
	}
	defer func() { _ = master.Close() }()
	return c.s.r.keep(c.key("console"), master)
}

// consoleSockets returns our end and the one for libcontainer.
func consoleSockets() (ours, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(pair[0]), "console"), os.NewFile(uintptr(pair[1]), "console"), nil
}

// receiveConsole takes the master that libcontainer has sent before its start
// returned; it does not wait.
func receiveConsole(sock *os.File) (*os.File, error) {
	conn, err := sock.SyscallConn()
	if err != nil {
		return nil, err
	}
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	var rerr error
	if err := conn.Control(func(fd uintptr) {
		n, oobn, _, _, rerr = unix.Recvmsg(int(fd), name, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	}); err != nil {
		return nil, err
	}
	if rerr != nil {
		return nil, fmt.Errorf("terminal: %w", os.NewSyscallError("recvmsg", rerr))
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("terminal: no descriptor came (%d bytes, %v)", n, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("terminal: no descriptor came (%d bytes, %v)", n, err)
	}
	// For Go's poller. Nobody else reads or writes this open file.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		_ = unix.Close(fds[0])
		return nil, os.NewSyscallError("fcntl(F_SETFL)", err)
	}
	return os.NewFile(uintptr(fds[0]), string(name[:n])), nil
}

// Start lets the waiting init execute the program. It may be called again, by
// a later node too, when it is not known whether it was done; ErrGone when the
// container has ended before.
func (c *Container) Start(ctx context.Context) error {
	if err := c.release(ctx); err != nil {
		return fmt.Errorf("container %s: start: %w", c.state.Config.Name, err)
	}
	return nil
}

// Started says whether Start has let the program go.
func (c *Container) Started() bool {
	_, err := os.Lstat(c.execFIFO())
	return errors.Is(err, os.ErrNotExist)
}

func (c *Container) execFIFO() string { return filepath.Join(c.s.runDir(), c.id, "exec.fifo") }

// release is libcontainer's Exec without its blocking open, which leaves a
// thread behind when the init dies meanwhile. The init blocks in opening the
// exec FIFO for writing until we open it for reading; then it writes one byte
// and executes the program.
func (c *Container) release(ctx context.Context) error {
	path := c.execFIFO()
	fifo, err := openFIFO(path, unix.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = fifo.Close() }()
	if c.proc == nil {
		return ErrGone
	}
	for {
		ready, err := c.pollInit(fifo)
		if err != nil {
			return err
		}
		if ready {
			// Not before: while it is there a later node can do this again.
			err := os.Remove(path)
			if errors.Is(err, os.ErrNotExist) {
				err = nil
			}
			return err
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		// A node before us may have been killed after it took the byte.
		if !c.initHolds(path) {
			return os.Remove(path)
		}
	}
}

// pollInit waits a moment for the init's byte; ErrGone when it died instead.
func (c *Container) pollInit(fifo *os.File) (ready bool, err error) {
	const moment = 50 // milliseconds
	fconn, err := fifo.SyscallConn()
	if err != nil {
		return false, err
	}
	pconn, err := c.proc.pidfd.SyscallConn()
	if err != nil {
		return false, err
	}
	cerr := fconn.Control(func(ffd uintptr) {
		cerr := pconn.Control(func(pfd uintptr) {
			fds := []unix.PollFd{{Fd: int32(ffd), Events: unix.POLLIN}, {Fd: int32(pfd), Events: unix.POLLIN}}
			if _, err = unix.Poll(fds, moment); err == unix.EINTR {
				err = nil
				return
			}
			switch {
			case fds[0].Revents&unix.POLLIN != 0:
				ready = true
			case fds[1].Revents != 0:
				err = ErrGone
			}
		})
		if cerr != nil {
			err = cerr
		}
	})
	return ready, errors.Join(err, cerr)
}

// initHolds says whether the init still has the exec FIFO open; the program,
// once executed, has not.
func (c *Container) initHolds(path string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", c.state.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && to == path {
			return true
		}
	}
	return false
}
