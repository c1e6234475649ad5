package integration

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// session is a command that goes on while the test does: with pipes, or with a
// terminal of its own.
type session struct {
	e       *env
	t       *testing.T
	args    []string
	command *exec.Cmd
	stdin   io.WriteCloser // nil with a terminal
	screen  *os.File       // the terminal's master, nil without
	ended   chan struct{}

	mu       sync.Mutex
	out, err bytes.Buffer // with a terminal all is in out
}

// begin starts podrun with args and pipes.
func (e *env) begin(t *testing.T, args ...string) *session {
	t.Helper()
	s := &session{e: e, t: t, args: args, command: e.command(args...), ended: make(chan struct{})}
	s.command.Stdout, s.command.Stderr = writer{s, &s.out}, writer{s, &s.err}
	s.command.WaitDelay = 5 * time.Second
	var err error
	if s.stdin, err = s.command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	s.start()
	return s
}

// beginTerminal starts podrun with args in a terminal of 40 rows and 120
// columns, as its session's leader.
func (e *env) beginTerminal(t *testing.T, args ...string) *session {
	t.Helper()
	s := &session{e: e, t: t, args: args, command: e.command(args...), ended: make(chan struct{})}
	master, slave := openTerminal(t)
	s.screen = master
	s.resize(40, 120)
	s.command.Stdin, s.command.Stdout, s.command.Stderr = slave, slave, slave
	s.command.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	s.start()
	_ = slave.Close()
	go func() { _, _ = io.Copy(writer{s, &s.out}, master) }()
	return s
}

// openTerminal returns the two ends of a new terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	n := 0
	conn, err := master.SyscallConn()
	if err == nil {
		cerr := conn.Control(func(fd uintptr) {
			if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
				n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
			}
		})
		if err == nil {
			err = cerr
		}
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func (s *session) start() {
	s.t.Helper()
	if err := s.command.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { _ = s.command.Wait(); close(s.ended) }()
	s.t.Cleanup(func() {
		_ = s.command.Process.Kill()
		<-s.ended
	})
}

type writer struct {
	s *session
	b *bytes.Buffer
}

func (w writer) Write(p []byte) (int, error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.b.Write(p)
}

func (s *session) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

func (s *session) errors() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err.String()
}

// expect waits until pattern is in the output, and returns its groups.
func (s *session) expect(pattern string) []string {
	s.t.Helper()
	return s.find(pattern, s.output)
}

// expectError does so with the standard error.
func (s *session) expectError(pattern string) []string {
	s.t.Helper()
	return s.find(pattern, s.errors)
}

func (s *session) find(pattern string, text func() string) []string {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if m := re.FindStringSubmatch(text()); m != nil {
			return m
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("podrun %s: no %q\nstdout: %q\nstderr: %q\n%s\nnode.log:\n%s", strings.Join(s.args, " "), pattern,
				s.output(), s.errors(), s.e.run("describe", "pods").out, s.e.nodeLog())
		}
	}
}

// enter writes to the command's input.
func (s *session) enter(text string) {
	s.t.Helper()
	var to io.Writer = s.stdin
	if s.screen != nil {
		to = s.screen
	}
	if _, err := io.WriteString(to, text); err != nil {
		s.t.Fatal(err)
	}
}

func (s *session) resize(rows, cols uint16) {
	s.t.Helper()
	conn, err := s.screen.SyscallConn()
	if err == nil {
		cerr := conn.Control(func(fd uintptr) {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
		})
		if err == nil {
			err = cerr
		}
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// end waits for the command's end and returns its exit code.
func (s *session) end() int {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		s.t.Fatalf("podrun %s does not end\nstdout: %q\nstderr: %q\nnode.log:\n%s", strings.Join(s.args, " "), s.output(), s.errors(), s.e.nodeLog())
	}
	return s.command.ProcessState.ExitCode()
}

// kill kills the command as kill -9 does.
func (s *session) kill() {
	_ = s.command.Process.Kill()
	<-s.ended
}

func lastLine(text string) string {
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	return lines[len(lines)-1] + "\n"
}

// runs tells whether a process of ps's table has just this command.
func runs(ps, command string) bool {
	for line := range strings.Lines(ps) {
		if f := strings.Fields(line); len(f) > 2 && strings.Join(f[2:], " ") == command {
			return true
		}
	}
	return false
}
