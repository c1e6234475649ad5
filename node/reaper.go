package node

// #cgo CFLAGS: -Wall -Wextra -O2
// #include "reaper.h"
import "C"

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/hint"
)

const (
	reaperName   = C.REAPER_NAME
	nodeVariable = C.NODE_VARIABLE
)

// inherited is what the reaper gave to this process, once.
type inherited struct {
	reaper *os.File
	lock   *os.File // never closed: it is let go when the process is gone
	report *os.File // nil unless this is the reaper's first node
}

// takeInherited takes the descriptors over before the process starts another
// one that would inherit them too. It is nil in a process that no reaper
// started.
var takeInherited = sync.OnceValue(func() *inherited {
	started := os.Getenv(nodeVariable)
	if started == "" {
		return nil
	}
	_ = os.Unsetenv(nodeVariable)
	take := func(fd int, name string) *os.File {
		unix.CloseOnExec(fd)
		return os.NewFile(uintptr(fd), name)
	}
	in := &inherited{reaper: take(C.NODE_REAPER, "reaper"), lock: take(C.NODE_LOCK, "lock")}
	if started == C.NODE_FIRST {
		in.report = take(C.NODE_REPORT, "launcher")
	}
	return in
})

// Reaper is the node's parent, seen from the node. It outlives the node, and
// what it keeps outlives it too. Safe for concurrent use.
type Reaper struct {
	state string

	mu   sync.Mutex // one request is under way at a time
	conn *net.UnixConn
}

// ConnectReaper connects the node to the reaper that started it. It works once
// in a process; a process that was started otherwise gets an error.
func ConnectReaper() (*Reaper, error) {
	in := takeInherited()
	if in == nil || in.reaper == nil {
		return nil, hint.Wrap(errors.New("this process was not started by a reaper"),
			"do not start a node by hand: any podrun command does it")
	}
	c, err := net.FileConn(in.reaper)
	_ = in.reaper.Close() // FileConn made a copy
	in.reaper = nil
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("internal error: the reaper's descriptor is a %T", c)
	}
	paths, err := LocatePaths()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	r := &Reaper{state: paths.State, conn: conn}
	connected.Store(r)
	return r, nil
}

// Close ends the connection. What the reaper keeps stays there.
func (r *Reaper) Close() error {
	connected.CompareAndSwap(r, nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conn.Close()
}

// Keep hands a copy of f to the reaper, which holds it open under key until
// Drop, in place of one that it held under that key before. The caller keeps
// f and closes it. Keys are at most 255 bytes long.
func (r *Reaper) Keep(key string, f *os.File) error {
	fd, err := duplicate(f)
	if err == nil {
		defer func() { _ = unix.Close(fd) }()
		_, err = r.ask(C.ASK_KEEP, key, unix.UnixRights(fd))
	}
	if err != nil {
		return fmt.Errorf("keep %q beyond the node: %w", key, err)
	}
	return nil
}

// Kept returns a copy of the descriptor under key, which the caller closes. A
// descriptor that was non-blocking waits in Go's poller. The second result is
// false when nothing is kept there.
func (r *Reaper) Kept(key string) (*os.File, bool) {
	fd, err := r.ask(C.ASK_GET, key, nil)
	if err != nil || fd < 0 {
		return nil, false
	}
	return os.NewFile(uintptr(fd), key), true
}

// Drop lets go of the descriptor under key, if there is one.
func (r *Reaper) Drop(key string) {
	// It fails if there is no reaper any more, and then it keeps nothing.
	_, _ = r.ask(C.ASK_DROP, key, nil)
}

// ExitStatus returns the wait status of the process pid that started at start
// (clock ticks after boot), if it was a child of the reaper and has been
// reaped. The reaper collects who has exited before it answers: after pidfd or
// Done says that a process of an earlier node ended, one call is enough. A
// node's own children are reaped by the node, and are not known here.
func (r *Reaper) ExitStatus(pid int, start uint64) (unix.WaitStatus, bool) {
	if _, err := r.ask(C.ASK_SYNC, "", nil); err != nil {
		return 0, false
	}
	// In this order: a line moves from the first to the second.
	for _, name := range []string{"exits", "exits.1"} {
		log, err := os.ReadFile(filepath.Join(r.state, name))
		if err != nil {
			continue
		}
		if status, ok := findExit(log, pid, start); ok {
			return status, true
		}
	}
	return 0, false
}

// findExit looks for a line "pid start status".
func findExit(log []byte, pid int, start uint64) (unix.WaitStatus, bool) {
	key := fmt.Appendf(nil, "%d %d ", pid, start)
	for at := 0; ; {
		i := bytes.Index(log[at:], key)
		if i < 0 {
			return 0, false
		}
		at += i
		if at == 0 || log[at-1] == '\n' {
			line, _, whole := bytes.Cut(log[at+len(key):], []byte("\n"))
			status, err := strconv.ParseUint(string(line), 10, 32)
			return unix.WaitStatus(status), whole && err == nil
		}
		at += len(key)
	}
}

// ask makes one request and returns the descriptor that came with the answer,
// or -1. There is no deadline: when the reaper dies, this process is killed.
func (r *Reaper) ask(what byte, key string, rights []byte) (fd int, err error) {
	if len(key) > C.KEY_MAX || strings.ContainsRune(key, 0) {
		return -1, unix.EINVAL
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, _, err := r.conn.WriteMsgUnix(append([]byte{what}, key...), rights, nil); err != nil {
		return -1, err
	}
	var answer [4]byte
	var oob [64]byte
	n, oobn, _, _, err := r.conn.ReadMsgUnix(answer[:], oob[:])
	if err != nil {
		return -1, err
	}
	if n != len(answer) {
		// The end of a packet socket is an empty packet.
		return -1, io.ErrUnexpectedEOF
	}
	if errno := unix.Errno(binary.NativeEndian.Uint32(answer[:])); errno != 0 {
		return -1, errno
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) == 0 {
		return -1, err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, err
	}
	return fds[0], nil
}

// ready says that this node serves: from now on it is started again when it
// dies.
func (r *Reaper) ready() { _, _ = r.ask(C.ASK_READY, "", nil) }
