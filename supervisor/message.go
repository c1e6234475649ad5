package supervisor

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/logfile"
	"get.podrun.dev/podrun/sandbox"
)

// Limits of a termination message
// (https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/).
const (
	maxMessage     = 4096
	maxPodMessages = 12 << 10 // all containers' together
	maxLogMessage  = 2048     // from a log
	logLines       = 80
	// drainWait is how long the end of a container waits for the rest of its
	// output when that is to be its message.
	drainWait = time.Second
)

// messagePath is the file that a container has mounted at
// terminationMessagePath. It lies beside the container's writable layer and
// goes with it: what a container writes there counts like the rest.
func (s *Supervisor) messagePath(id string) string {
	return filepath.Join(s.rootfsDir(id), "message")
}

// messageMount mounts that file. A container cannot replace it: it is a mount
// point there, and its directory is the node's.
func (s *Supervisor) messageMount(spec *corev1.Container, id string) []sandbox.Mount {
	if spec.TerminationMessagePath == "" {
		return nil
	}
	return []sandbox.Mount{{Source: s.messagePath(id), Destination: filepath.Clean(spec.TerminationMessagePath)}}
}

// makeMessage makes the file, for any user of the container to write.
func (s *Supervisor) makeMessage(id string) error {
	f, err := os.OpenFile(s.messagePath(id), os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o666)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o666), f.Close()) // whatever the umask
}

// terminationMessage is what a container that has ended left to be read, or the
// end of its log if it left nothing, has failed and asks for that.
func (w *worker) terminationMessage(c *container) string {
	text, err := readEnd(w.s.messagePath(c.id), maxMessage)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		text = "Error on reading termination log: " + err.Error()
	}
	if text == "" && c.end.code != 0 && c.spec.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError {
		text = w.logEnd(c)
	}
	return text[:min(len(text), c.messageMax)]
}

// readEnd returns the last limit bytes of a file. The file is a container's to
// write, not to choose: only a regular one at the very path is read.
func readEnd(path string, limit int64) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return "", err
	}
	b, err := io.ReadAll(io.NewSectionReader(f, max(info.Size()-limit, 0), limit))
	return string(b), err
}

// logEnd is the end of what the container printed.
func (w *worker) logEnd(c *container) string {
	printed := make(chan struct{})
	go func() {
		c.output.Wait()
		close(printed)
	}()
	ctx, cancel := context.WithTimeout(w.ctx, drainWait)
	defer cancel()
	_ = waitFor(ctx, printed)
	var last tail
	if err := logfile.Read(w.ctx, w.logPath(c.name, c.incarnation), logfile.ReadOptions{Tail: logLines}, &last); err != nil {
		w.log.Warn("read log for the termination message", "container", c.name, "err", err)
	}
	return string(last)
}

// tail keeps the last bytes that are written to it.
type tail []byte

func (t *tail) Write(b []byte) (int, error) {
	*t = append(*t, b...)
	*t = (*t)[max(len(*t)-maxLogMessage, 0):]
	return len(b), nil
}
