package integration

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// attachable is a pod of a shell with a terminal, one that reads lines of its
// input, and one whose input ends with the first attachment.
const attachable = `apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: tty, image: busybox, command: [sh], stdin: true, tty: true}
  - {name: lines, image: busybox, command: [sh, -c, 'while read line; do echo "got $line"; echo "saw $line" >&2; done; echo end; exec sleep 3600'], stdin: true}
  - {name: once, image: busybox, command: [sh, -c, 'while read line; do echo "got $line"; done; echo end; exec sleep 3600'], stdin: true, stdinOnce: true}
  - {name: mute, image: busybox, command: [sh, -c, 'while true; do echo tick; sleep 0.1; done']}
`

const attachHint = "All commands and output from this session will be recorded in container logs, including credentials and sensitive information passed through the command prompt.\n" +
	"If you don't see a command prompt, try pressing enter.\n"

func TestAttach(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(attachable, "a")

	t.Run("output only", func(t *testing.T) {
		s := e.begin(t, "attach", "a", "-c", "mute")
		s.expect("tick\n")
		s.expectError("pressing enter") // which may come after what the container prints
		same(t, s.errors(), attachHint)
		s.kill()
	})
	t.Run("input and both outputs, two at once", func(t *testing.T) {
		one := e.begin(t, "attach", "-i", "-q", "a", "-c", "lines")
		other := e.begin(t, "attach", "-q", "pod/a", "-c", "lines")
		// Not before both are there.
		e.eventually("both attachments", func() string {
			one.enter("hello\n")
			if !strings.Contains(other.output(), "got hello") || !strings.Contains(one.output(), "got hello") {
				return "missing"
			}
			return ""
		})
		one.expectError("saw hello\n")
		other.expectError("saw hello\n")
		// Without stdinOnce the input outlives who gave it.
		_ = one.stdin.Close()
		if code := one.end(); code != 0 {
			t.Errorf("got exit code %d", code)
		}
		again := e.begin(t, "attach", "-i", "a", "-c", "lines")
		again.expectError("try pressing enter")
		again.enter("again\n")
		other.expect("got again\n")
		again.kill()
		other.kill()
	})
	t.Run("the log has all of it", func(t *testing.T) {
		e.eventually("log", func() string {
			if log := e.ok("logs", "a", "-c", "lines"); !strings.Contains(log, "got again\nsaw again\n") && !strings.Contains(log, "saw again\ngot again\n") {
				return log
			}
			return ""
		})
	})
	t.Run("stdinOnce", func(t *testing.T) {
		s := e.begin(t, "attach", "-i", "a", "-c", "once")
		s.expectError("try pressing enter")
		s.enter("first\n")
		s.expect("got first\n")
		_ = s.stdin.Close()
		s.expect("end\n")
		s.kill()
		// It stays closed, whoever attaches.
		s = e.begin(t, "attach", "-i", "a", "-c", "once")
		s.expectError("try pressing enter")
		s.kill()
		same(t, e.ok("logs", "a", "-c", "once"), "got first\nend\n")
	})
	t.Run("terminal", func(t *testing.T) {
		s := e.beginTerminal(t, "attach", "-it", "a", "-c", "tty")
		s.expect("try pressing enter")
		s.enter("stty size\n")
		s.expect(`40 120\r\n`)
		s.resize(30, 100)
		s.enter("sleep 0.2; stty size\n")
		s.expect(`30 100\r\n`)
		// ^C is the shell's.
		s.enter("sleep 1000\n")
		// Not before it runs: the shell's editor of lines would take the key.
		e.eventually("sleep in the terminal", func() string {
			if ps := e.ok("exec", "a", "-c", "tty", "--", "ps"); !runs(ps, "sleep 1000") {
				return ps
			}
			return ""
		})
		s.enter("\x03")
		s.enter("echo still $((6*7))\n")
		s.expect(`still 42\r\n`)
		s.enter("\x10\x11")
		if code := s.end(); code != 0 {
			t.Errorf("got exit code %d", code)
		}
		s.expect(`Session ended, resume using 'podrun attach a -c tty -n default -i -t' command\r\n`)
		// The container has not noticed, and a new attachment finds it as it was.
		s = e.beginTerminal(t, "attach", "-it", "a", "-c", "tty", "--detach-keys=ctrl-x,q")
		s.expect("try pressing enter")
		s.enter("jobs; echo again $((6*7))\n")
		s.expect(`again 42\r\n`)
		s.enter("\x18q")
		if code := s.end(); code != 0 {
			t.Errorf("got exit code %d", code)
		}
	})
	t.Run("kill -9 of the command line", func(t *testing.T) {
		s := e.beginTerminal(t, "attach", "-it", "a", "-c", "tty")
		s.expect("try pressing enter")
		s.enter("echo one $((6*7))\n")
		s.expect(`one 42\r\n`)
		s.kill()
		s = e.beginTerminal(t, "attach", "-it", "a", "-c", "tty")
		s.expect("try pressing enter")
		s.enter("echo two $((6*7))\n")
		s.expect(`two 42\r\n`)
		s.kill()
	})
	t.Run("who does not read holds up nobody for ever", func(t *testing.T) {
		s := e.beginTerminal(t, "attach", "a", "-c", "mute")
		s.expect("tick")
		s.enter("\x13") // ^S
		_ = s.command.Process.Signal(unix.SIGKILL)
		<-s.ended
		before := strings.Count(e.ok("logs", "a", "-c", "mute"), "tick\n")
		e.eventually("more of the log", func() string {
			if n := strings.Count(e.ok("logs", "a", "-c", "mute"), "tick\n"); n <= before+5 {
				return "the same"
			}
			return ""
		})
	})
	t.Run("kill -9 of the node", func(t *testing.T) {
		terminal := e.beginTerminal(t, "attach", "-it", "a", "-c", "tty")
		terminal.expect("try pressing enter")
		lines := e.begin(t, "attach", "-i", "a", "-c", "lines")
		lines.expectError("try pressing enter")
		before := e.pod("a")
		e.killNode()
		// The same attachments go on with the next node.
		e.eventually("answer to the terminal", func() string {
			terminal.enter("echo alive $((6*7))\n")
			if !strings.Contains(terminal.output(), "alive 42\r\n") {
				return "missing"
			}
			return ""
		})
		e.eventually("answer to the pipe", func() string {
			lines.enter("alive\n")
			if !strings.Contains(lines.output(), "got alive\n") {
				return "missing"
			}
			return ""
		})
		if after := e.pod("a"); ids(after)["tty"] != ids(before)["tty"] || restarts(after) != 0 {
			t.Errorf("the containers are others: %v, were %v", ids(after), ids(before))
		}
		terminal.enter("\x10\x11")
		terminal.end()
		lines.kill()
	})
	t.Run("the end of the container", func(t *testing.T) {
		s := e.beginTerminal(t, "attach", "-it", "a", "-c", "tty")
		s.expect("try pressing enter")
		s.enter("echo last; exit 3\n")
		if code := s.end(); code != 0 {
			t.Errorf("got exit code %d", code)
		}
		s.expect(`last\r\n`)
		e.restarted("a", 1)
		mustContain(t, e.ok("logs", "a", "-c", "tty", "--previous"), "last")
	})
}

func TestAttachRefusals(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(attachable, "a")
	e.apply(podYAML("done", "restartPolicy: Never", "c=true"))
	e.when("done", "done", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no pod", nil, "error: at least 1 argument is required for attach\n"},
		{"three arguments", []string{"a", "b", "c"}, "error: expected POD, TYPE/NAME, or TYPE NAME, (at most 2 arguments) saw 3: [a b c]\n"},
		{"no such pod", []string{"nosuch"}, "Error from server (NotFound): pods \"nosuch\" not found\n"},
		{"no such container", []string{"a", "-c", "nosuch"}, "error: cannot attach to the container: container nosuch not found in pod a\n"},
		{"done", []string{"done"}, "error: cannot attach a container in a completed pod; current phase is Succeeded\n"},
		{"timeout", []string{"a", "--pod-running-timeout=0s"}, "error: --pod-running-timeout must be higher than zero\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			same(t, e.fails(1, append([]string{"attach"}, tt.args...)...), tt.want)
		})
	}
	t.Run("no terminal there", func(t *testing.T) {
		s := e.beginTerminal(t, "attach", "-it", "a", "-c", "lines")
		s.expect("error: Unable to use a TTY - container lines did not allocate one\r\n")
		s.kill()
	})
	t.Run("no terminal here", func(t *testing.T) {
		s := e.begin(t, "attach", "-it", "a", "-c", "tty")
		s.expectError("Unable to use a TTY - input is not a terminal or the right kind of file\n")
		s.enter("echo $((6*7))\n")
		s.expect("42\r\n")
		s.kill()
	})
}
