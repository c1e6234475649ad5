package node

// #include "reaper.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/hint"
)

// startPatience bounds the wait for a node that somebody else is starting, or
// that a reaper starts again.
const startPatience = 30 * time.Second

// logMax is the size from which node.log is put aside when a node is launched;
// one older log is kept.
const logMax = 1 << 20

// Launch starts a node at p and returns when it answers. If one is being
// started already, by another command or by a reaper after a crash, Launch
// waits for that one: of many callers at once, one starts the node and all
// return when it answers. When the pods of a node that was killed together with
// its reaper still run, the new one is started in their namespaces.
//
// An error says why the node could not start, in its own words where it had
// any, and carries its mend. Cancelling ctx ends the waiting; a node that has
// got so far as to run goes on.
func Launch(ctx context.Context, p Paths) error {
	if _, err := launch(ctx, p); err != nil {
		return fmt.Errorf("cannot start the node: %w", err)
	}
	return nil
}

// launch tells whether it was this call that started the node, which has more in
// its environment beside the rest.
func launch(ctx context.Context, p Paths, more ...string) (started bool, err error) {
	if err := p.create(); err != nil {
		return false, err
	}
	lock, err := takeTurn(ctx, p)
	if err != nil || lock == nil {
		return false, err
	}
	// The reaper and the node inherit the lock, and hold it when we let go.
	defer func() { _ = lock.Close() }()
	log, err := openLog(p.Log)
	if err != nil {
		return false, err
	}
	defer func() { _ = log.Close() }()
	userns, mountns, err := openAnchor(p.State)
	if err != nil {
		return false, err
	}
	defer closeFiles(userns, mountns)
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	e, err := enter(ctx, launchMode(mountns), p.State, append(nodeEnv(os.Environ(), p), more...), log, []*os.File{lock, userns, mountns}, func(pid int) error {
		if err := delegate(ctx, pid); err != nil {
			fmt.Fprintf(log, "no cgroup of our own: %v\n", err)
		}
		return errors.Join(renewAnchors(p.State, pid), p.announce())
	})
	if err != nil {
		if mountns != nil {
			err = hint.Wrap(fmt.Errorf("join the namespaces of the pods that still run: %w", err),
				"end them to start anew; their pids are in "+anchorsFile(p.State))
		}
		return false, err
	}
	defer func() { _ = e.conn.Close() }()
	return true, e.await(ctx, p, begin)
}

// launchMode is how the reaper comes to its namespaces: mountns is that of pods
// that still run, or nil.
func launchMode(mountns *os.File) string {
	switch {
	case mountns != nil:
		return C.REAPER_MODE_JOIN
	case mayMount():
		return C.REAPER_MODE_ROOT
	}
	return C.REAPER_MODE_USER
}

// takeTurn returns the lock of p, or nil when there is a node that answers.
func takeTurn(ctx context.Context, p Paths) (*os.File, error) {
	lock, err := os.OpenFile(p.Lock, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	patience, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(&os.PathError{Op: "lock", Path: p.Lock, Err: err}, lock.Close())
		}
		if answers(p.Socket) {
			return nil, lock.Close()
		}
		if !pauseFor(patience, pause) {
			_ = lock.Close()
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if err := lastReport(p.State); err != nil {
				return nil, err
			}
			return nil, hint.Wrap(fmt.Errorf("one that runs already does not answer on %s", p.Socket), "see "+p.Log)
		}
	}
}

// answers says whether a node serves the socket. To be let in is not enough: a
// node that is just being killed with its reaper still listens.
func answers(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	if _, err := io.WriteString(conn, "GET /podrun/v1/version HTTP/1.0\r\n\r\n"); err != nil {
		return false
	}
	n, _ := conn.Read(make([]byte, 1))
	return n == 1
}

// mayMount says whether this process is root enough to go without a user
// namespace: not every root in a container is.
func mayMount() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return os.Geteuid() == 0 && unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// nodeEnv is what of the caller's environment concerns a node that serves all
// commands to come: who and where the user is, how the network is reached, and
// whom to trust there. p is fixed in it, for the node is root and would look
// elsewhere.
func nodeEnv(environ []string, p Paths) []string {
	kept := map[string]bool{
		"HOME": true, "PATH": true, "LANG": true, "TZ": true,
		"http_proxy": true, "https_proxy": true, "no_proxy": true, "all_proxy": true,
		"HTTP_PROXY": true, "HTTPS_PROXY": true, "NO_PROXY": true, "ALL_PROXY": true,
		"SSL_CERT_FILE": true, "SSL_CERT_DIR": true,
		"DOCKER_CONFIG": true, "REGISTRY_AUTH_FILE": true, "CONTAINERS_REGISTRIES_CONF": true, // where credentials and registries are
		"CNI_PATH": true, // where plugins are
	}
	env := []string{stateVariable + "=" + p.State, dataVariable + "=" + p.Data}
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		switch {
		case name == stateVariable || name == dataVariable || name == nodeVariable || name == resetVariable:
		case kept[name] || strings.HasPrefix(name, "XDG_") || strings.HasPrefix(name, "LC_") || strings.HasPrefix(name, "PODRUN_"):
			env = append(env, e)
		}
	}
	return env
}

func openLog(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > logMax {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
}

// await waits until the reaper has started its node and the node has said how
// that went. begin is where the node's log begins in p.Log.
func (e *entry) await(ctx context.Context, p Paths, begin int64) error {
	stop := context.AfterFunc(ctx, func() { _ = e.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := e.expect(ctx, "state"); err != nil {
		return err
	}
	err := readReport(e.conn)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF):
		return hint.Wrap(fmt.Errorf("it died without a word: %s", lastWords(p.Log, begin)), "see "+p.Log)
	}
	return err
}

// lastWords is the line of a log from begin on that tells most: where Go says
// why it gave up, else the last one.
func lastWords(path string, begin int64) string {
	b, err := os.ReadFile(path)
	if err != nil || int64(len(b)) < begin {
		return "its log cannot be read"
	}
	last := "its log is empty"
	for line := range strings.Lines(string(b[begin:])) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			return line
		}
		if line != "" {
			last = line
		}
	}
	return last
}
