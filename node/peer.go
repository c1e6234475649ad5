package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxFiles is how many descriptors a connection may send between two calls of
// ConnFiles. Those above it are closed.
const maxFiles = 16

// Listen listens on the socket of p. The caller holds p.Lock, so a socket that
// is there already is a dead node's and is replaced, in one step: a client
// finds the old one or the new one. Closing the listener removes it, unless
// another node has put its own there: one whose directories were removed under
// it may meet its successor's.
//
// Only connections of the caller's own user are accepted. Inside the user's
// namespace that is uid 0; the machine's root shows there as nobody and is
// refused like everybody else, who is told so with an HTTP answer.
func Listen(p Paths) (net.Listener, error) {
	fresh := p.Socket[:len(p.Socket)-len("sock")] + "new" // no longer than p.Socket is
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			// bind(2) gives the file the mode of the socket, so that it is
			// private from birth without touching the process's umask.
			err = os.NewSyscallError("fchmod", unix.Fchmod(int(fd), 0o600))
		})
		return errors.Join(cerr, err)
	}}
	l, err := config.Listen(context.Background(), "unix", fresh)
	if err != nil {
		return nil, err
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false) // it knows the name before the renaming
	file, err := os.Lstat(fresh)
	if err == nil {
		err = os.Rename(fresh, p.Socket)
	}
	if err != nil {
		return nil, errors.Join(err, ul.Close(), os.Remove(fresh))
	}
	return &listener{UnixListener: ul, path: p.Socket, file: file, uid: uint32(os.Geteuid())}, nil
}

type listener struct {
	*net.UnixListener
	path   string
	file   os.FileInfo // what was at path when we had put it there
	uid    uint32
	remove sync.Once
}

// Accept waits for the next connection of the node's own user.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(c)
		if err == nil && uid == l.uid {
			return &peer{UnixConn: c}, nil
		}
		refuse(c, uid)
		_ = c.Close()
	}
}

// Close stops listening and removes the socket if it is still this listener's.
// It may be called twice.
func (l *listener) Close() error {
	err := l.UnixListener.Close()
	l.remove.Do(func() {
		there, serr := os.Lstat(l.path)
		switch {
		case errors.Is(serr, os.ErrNotExist):
		case serr != nil:
			err = errors.Join(err, serr)
		case os.SameFile(there, l.file):
			err = errors.Join(err, os.Remove(l.path))
		}
	})
	return err
}

func peerUID(c *net.UnixConn) (uint32, error) {
	cred, err := peerCredentials(c)
	if err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// peerCredentials are those of who connected, or, seen from there, of who
// listens.
func peerCredentials(c *net.UnixConn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, os.NewSyscallError("getsockopt", cerr)
}

// refuse answers in HTTP whatever was asked. The buffer of a new socket holds
// the few bytes: nobody can make the node wait here.
func refuse(c *net.UnixConn, uid uint32) {
	body := fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","reason":"Forbidden","code":%d,`+
		`"message":"this node belongs to another user than %d"}`+"\n", http.StatusForbidden, uid)
	_, _ = fmt.Fprintf(c, "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		len(body), body)
}

// peer is an accepted connection that collects the descriptors that come
// through it.
//
//	client                            node
//	SendFiles: NUL + descriptors --->  kept until ConnFiles takes them
//	request ------------------------>  read as if nothing had come before
//
// The kernel ends a read at a message that brought descriptors, so that the
// NUL is the last byte of what was read, and is cut off.
type peer struct {
	*net.UnixConn
	mu    sync.Mutex
	files []*os.File
}

// Read reads as net.Conn's does.
func (c *peer) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	var oob [128]byte // 3 descriptors need 32
	for {
		n, oobn, _, _, err := c.ReadMsgUnix(b, oob[:])
		n = max(n, 0) // the system call's -1, when the client closed without reading all
		if oobn > 0 && c.take(oob[:oobn]) {
			n--
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// take keeps the descriptors in oob, and says whether there were any.
func (c *peer) take(oob []byte) bool {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	found := false
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			found = true
			if len(c.files) >= maxFiles {
				_ = unix.Close(fd)
				continue
			}
			// The flags of the open file are the sender's, too: it is left
			// blocking or not, as it came.
			c.files = append(c.files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return found
}

func (c *peer) takeFiles() []*os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	files := c.files
	c.files = nil
	return files
}

// Close closes the connection, and the descriptors that nobody asked for.
func (c *peer) Close() error {
	err := c.UnixConn.Close()
	for _, f := range c.takeFiles() {
		_ = f.Close()
	}
	return err
}

type connKey struct{}

// ConnContext is an http.Server's ConnContext hook: it lets ConnFiles find the
// connection of a request.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// ConnFiles returns the descriptors that came with the request of ctx, in the
// order they were sent. The caller closes them; a second call returns none.
func ConnFiles(ctx context.Context) []*os.File {
	if c, ok := ctx.Value(connKey{}).(*peer); ok {
		return c.takeFiles()
	}
	return nil
}

// SendFiles sends descriptors to a connection that Listen's listener accepted.
// The request that they belong to is written after it. The files stay the
// caller's, and stay open.
func SendFiles(c *net.UnixConn, files ...*os.File) error {
	fds := make([]int, len(files))
	defer func() {
		for _, fd := range fds {
			if fd > 0 {
				_ = unix.Close(fd)
			}
		}
	}()
	for i, f := range files {
		fd, err := duplicate(f)
		if err != nil {
			return fmt.Errorf("send %s: %w", strings.TrimPrefix(f.Name(), "/dev/"), err)
		}
		fds[i] = fd
	}
	_, _, err := c.WriteMsgUnix([]byte{0}, unix.UnixRights(fds...), nil)
	return err
}

// duplicate returns another descriptor of f's open file, which nobody closes
// while it is sent. Unlike f.Fd() it leaves f non-blocking if it is.
func duplicate(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var derr error
	if err := raw.Control(func(old uintptr) {
		fd, derr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3)
	}); err != nil {
		return -1, err
	}
	return fd, os.NewSyscallError("dup", derr)
}
