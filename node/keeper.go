package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/hint"
)

// stopPatience bounds the wait for a node that was told to end: it gives the
// requests under way five seconds.
const stopPatience = 30 * time.Second

// Keep is the life of podrun.service's main process, the keeper: it takes a node
// that runs at p or launches one, tells the service manager that it serves
// (sd_notify(3)), and returns when the node has ended.
//
//	service manager          keeper (podrun.service)     node, reaper, pods (podrun-PID.scope)
//	starts it ------------>  Launch ------------------>  start, or are there
//	        <--------------  READY=1
//	                         holds a connection ------>  does not leave when idle
//	SIGTERM -------------->  SIGTERM to the node ----->  node and reaper end, pods go on
//	        <--------------  exit 0
//
// The keeper is not the node's parent: a node that a command has started is kept
// like one of its own, and the end of the keeper, however it comes, ends nothing
// else. A node that died and that its reaper starts again is waited for. nil says
// that the node was ended in order; an error that it died together with its
// reaper, or could not start: the manager then starts the keeper again. When ctx
// ends Keep ends the node.
func Keep(ctx context.Context, p Paths) error {
	if err := Launch(ctx, p); err != nil {
		return err
	}
	for {
		if pid, conn, err := hold(ctx, p); err == nil {
			if err := notify(fmt.Sprintf("READY=1\nSTATUS=The node is process %d", pid)); err != nil {
				return errors.Join(err, conn.Close())
			}
			stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
			_, _ = conn.Read(make([]byte, 1)) // nothing comes but the end
			stop()
			_ = conn.Close()
		}
		if ctx.Err() != nil {
			_ = notify("STOPPING=1") // whether it is heard makes no difference now
			err := StopNode(context.WithoutCancel(ctx), p)
			if errors.Is(err, ErrNotRunning) {
				return nil
			}
			return err
		}
		if again, err := awaitNode(ctx, p); !again {
			return err
		}
	}
}

// hold makes a connection to the node, which then does not leave when it is
// idle. The caller closes it.
func hold(ctx context.Context, p Paths) (pid int, _ net.Conn, err error) {
	c := &Client{paths: p, idle: make(chan *clientConn, 1)}
	v, err := c.Version(ctx)
	if err != nil {
		return 0, nil, err
	}
	select {
	case conn := <-c.idle:
		return v.PID, conn, nil
	default:
		return 0, nil, ErrNotRunning // it ended with the answer
	}
}

// awaitNode waits until the reaper has started the node again, which is true, or
// until both are gone. A node that ends in order removes its socket; one that was
// killed, and its reaper too, does not: that is an error. The end of ctx ends the
// wait as if there was a node.
func awaitNode(ctx context.Context, p Paths) (again bool, err error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		gone, err := p.unlocked()
		if err != nil {
			return false, err
		}
		if gone {
			if _, err := os.Lstat(p.Socket); errors.Is(err, fs.ErrNotExist) {
				return false, nil
			}
			return false, hint.Wrap(errors.New("the node and its reaper died"), "its pods go on, and the next node takes them up; see "+p.Log)
		}
		if answers(p.Socket) {
			return true, nil
		}
		if !pauseFor(ctx, pause) {
			return true, nil
		}
	}
}

// unlocked tells whether neither a reaper nor a node lives at p.
func (p Paths) unlocked() (bool, error) {
	lock, err := os.OpenFile(p.Lock, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = lock.Close() }()
	err = unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("flock", err)
}

// pauseFor returns false when ctx ended before d was over.
func pauseFor(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// StopNode ends the node at p, and returns when it and its reaper are gone. The
// pods go on, unwatched, and the next node takes them up. ErrNotRunning when
// there is none.
func StopNode(ctx context.Context, p Paths) error {
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	conn, err := dialSocket(ctx, p.Socket)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return ErrNotRunning
	}
	if err != nil {
		return err
	}
	pid, err := peerPID(conn.UnixConn)
	_ = conn.Close()
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	err = awaitUnlocked(ctx, p)
	if errors.Is(err, context.DeadlineExceeded) {
		return hint.Wrap(fmt.Errorf("process %d was told to end and has not, after %v", pid, stopPatience), "see "+p.Log)
	}
	return err
}

// awaitUnlocked waits until neither a reaper nor a node lives at p.
func awaitUnlocked(ctx context.Context, p Paths) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if gone, err := p.unlocked(); gone || err != nil {
			return err
		}
		if !pauseFor(ctx, pause) {
			return context.Cause(ctx)
		}
	}
}

// peerPID is the process that listens at the other end.
func peerPID(c *net.UnixConn) (int, error) {
	cred, err := peerCredentials(c)
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// notify sends the service manager that started this process a message of
// sd_notify(3). Without one it does nothing.
func notify(message string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	// A name that begins with @ is an abstract one, for package net too.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte(message)); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}
