package integration

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func TestRun(t *testing.T) {
	t.Parallel()
	e := newEnv(t)

	t.Run("a pod that stays", func(t *testing.T) {
		same(t, e.ok("run", "web", "--image=busybox", "--port=80", "--env=A=b c", "--labels=app=web,tier=x", "--annotations=note=1", "--command", "--", "sleep", "3600"), "pod/web created\n")
		p := e.ready("web")
		c := p.Spec.Containers[0]
		if c.Name != "web" || c.Ports[0].ContainerPort != 80 || strings.Join(c.Command, " ") != "sleep 3600" || p.Labels["tier"] != "x" || p.Labels["run"] != "" || p.Annotations["note"] != "1" || p.Spec.RestartPolicy != corev1.RestartPolicyAlways {
			t.Errorf("got %+v", p.Spec)
		}
		same(t, e.ok("exec", "web", "--", "sh", "-c", "echo $A"), "b c\n")
		same(t, e.fails(1, "run", "web", "--image=busybox"), "Error from server (AlreadyExists): pods \"web\" already exists\n")
	})
	t.Run("exit code", func(t *testing.T) {
		r := e.run("run", "job", "--image=busybox", "--restart=Never", "--attach", "--rm", "-q", "--command", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
		if r.code != 3 || r.out != "out\n" || r.err != "err\npod default/job terminated (Error)\n" {
			t.Errorf("got %v", r)
		}
		if e.exists("job") {
			t.Error("it is still there")
		}
	})
	t.Run("from the first byte to the last", func(t *testing.T) {
		r := e.run("run", "many", "--image=busybox", "--restart=Never", "--attach", "--rm", "--command", "--", "seq", "100000")
		if r.code != 0 || !strings.HasPrefix(r.out, "1\n2\n3\n") || !strings.HasSuffix(r.out, "\n100000\npod \"many\" deleted\n") || len(r.out) != 588895+len("pod \"many\" deleted\n") {
			t.Errorf("got exit %d, %d bytes, %.20q ... %q", r.code, len(r.out), r.out, r.out[max(0, len(r.out)-60):])
		}
		same(t, r.err, attachHint)
	})
	t.Run("input", func(t *testing.T) {
		e.stdin = "hello\nworld\n"
		r := e.run("run", "cat", "--image=busybox", "--restart=Never", "-i", "--rm", "-q", "--command", "--", "tr", "a-z", "A-Z")
		if r.code != 0 || r.out != "HELLO\nWORLD\n" || r.err != "" {
			t.Errorf("got %v", r)
		}
	})
	t.Run("terminal without one here", func(t *testing.T) {
		e.stdin = "echo $((6*7))\n" // and its end ends the shell
		if r := e.run("run", "shell", "--image=busybox", "--restart=Never", "-it", "--rm", "-q", "--", "sh"); r.code != 0 || !strings.Contains(r.out, "42\r\n") {
			t.Errorf("got %v", r)
		}
		e.stdin = ""
		// Its output comes though its input has ended before it is there.
		r := e.run("run", "pipe", "--image=busybox", "-it", "--rm", "-q", "--", "sh", "-c", "sleep 1; echo out")
		if r.code != 0 || r.out != "out\r\n" {
			t.Errorf("got %v", r)
		}
		// This pod may still be there, as with kubectl: its end is not that of the next.
		e.eventually("the next of the name", func() string {
			if r := e.run("run", "pipe", "--image=busybox", "-i", "--rm", "-q", "--restart=Never", "--", "sh", "-c", "echo next"); r.code == 0 {
				same(t, r.out, "next\n")
				return ""
			} else if !strings.Contains(r.err, "(AlreadyExists)") {
				t.Errorf("got %v", r)
			}
			return "there"
		})
	})
	t.Run("terminal", func(t *testing.T) {
		s := e.beginTerminal(t, "run", "-it", "--rm", "--restart=Never", "shell", "--image=busybox")
		s.expect("try pressing enter")
		s.enter("stty size; hostname\n")
		s.expect(`40 120\r\nshell\r\n`)
		s.enter("exit 7\n")
		if code := s.end(); code != 7 {
			t.Errorf("got exit code %d: %q", code, s.output())
		}
		s.expect(`pod "shell" deleted\r\n`)
		if e.exists("shell") {
			t.Error("it is still there")
		}
	})
	t.Run("kill -9 of the node", func(t *testing.T) {
		s := e.beginTerminal(t, "run", "-it", "--rm", "--restart=Never", "shell", "--image=busybox")
		s.expect("try pressing enter")
		s.enter("echo $((6*7))\n")
		s.expect(`42\r\n`)
		e.killNode()
		e.eventually("answer", func() string {
			s.enter("echo $((6*8))\n")
			if !strings.Contains(s.output(), "48\r\n") {
				return "missing"
			}
			return ""
		})
		s.enter("exit 5\n")
		if code := s.end(); code != 5 {
			t.Errorf("got exit code %d: %q", code, s.output())
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		s := e.begin(t, "run", "tick", "--image=busybox", "--attach", "--rm", "--command", "--", "sh", "-c", "trap 'exit 0' TERM; while true; do echo tick; sleep 0.1; done")
		s.expect("tick\n")
		_ = s.command.Process.Signal(unix.SIGINT)
		if code := s.end(); code != 130 {
			t.Errorf("got exit code %d", code)
		}
		e.eventually("end of the pod", func() string {
			if e.exists("tick") {
				return "there"
			}
			return ""
		})
	})
	for _, tt := range []struct {
		name, program string
		code          int
		want          string
	}{
		{"no such command", "nosuch", 127, "executable file not found in $PATH"},
		{"not executable", "/etc/passwd", 126, "permission denied"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := e.run("run", "bad", "--image=busybox", "--restart=Never", "-i", "--rm", "-q", "--command", "--", tt.program)
			if r.code != tt.code || !strings.Contains(r.err, "pod default/bad terminated (StartError)\n") || !strings.Contains(r.err, tt.want) {
				t.Errorf("want exit %d and %q: %v", tt.code, tt.want, r)
			}
		})
	}
	t.Run("no such image", func(t *testing.T) {
		r := e.run("run", "bad", "--image=nosuch", "--restart=Never", "-i", "--rm", "-q", "--pod-running-timeout=2s")
		if r.code != 125 || !strings.HasPrefix(r.err, "error: timed out waiting for the condition on pods/bad: container bad: ") || !strings.Contains(r.err, "no such image") {
			t.Errorf("got %v", r)
		}
		e.eventually("end of the pod", func() string {
			if e.exists("bad") {
				return "there"
			}
			return ""
		})
	})
}

func TestRunRefusals(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no name", []string{"--image=busybox"}, "error: NAME is required for run\n"},
		{"no name before --", []string{"--image=busybox", "--", "sh"}, "error: NAME is required for run\n"},
		{"no image", []string{"x"}, "error: --image is required\n"},
		{"bad image", []string{"x", "--image=Busy Box"}, "error: Invalid image name \"Busy Box\": "},
		{"terminal without input", []string{"x", "--image=busybox", "-t"}, "error: -i/--stdin is required for containers with -t/--tty=true\n"},
		{"restart", []string{"x", "--image=busybox", "--restart=always"}, "error: invalid restart policy: always\n"},
		{"rm", []string{"x", "--image=busybox", "--rm"}, "error: --rm should only be used for attached containers\n"},
		{"dry run attached", []string{"x", "--image=busybox", "-i", "--dry-run=client"}, "error: --dry-run=[server|client] can't be used with attached containers options (--attach, --stdin, or --tty)\n"},
		{"dry run", []string{"x", "--image=busybox", "--dry-run=yes"}, "error: Invalid dry-run value (yes). Must be \"none\", \"server\", or \"client\".\n"},
		{"pull policy", []string{"x", "--image=busybox", "--image-pull-policy=Maybe"}, "error: invalid image pull policy: Maybe\n"},
		{"env", []string{"x", "--image=busybox", "--env=A"}, "error: invalid env: A\n"},
		{"labels", []string{"x", "--image=busybox", "--labels=a"}, "error: unexpected label spec: a\n"},
		{"overrides no JSON", []string{"x", "--image=busybox", "--overrides=spec"}, "error: --overrides is not a JSON object: "},
		{"overrides unknown", []string{"x", "--image=busybox", `--overrides={"spec":{"hostnme":"x"}}`}, "error: --overrides: unknown field \"hostnme\"\n"},
		{"bad name", []string{"Bad_Name", "--image=busybox"}, "The Pod \"Bad_Name\" is invalid: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := e.fails(1, append([]string{"run"}, tt.args...)...); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestRunDryRun: the object as kubectl prints it, and nothing is made.
func TestRunDryRun(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	same(t, e.ok("run", "x", "--image=busybox", "--dry-run=client"), "pod/x created (dry run)\n")
	same(t, e.ok("run", "x", "--image=busybox", "--dry-run=client", "-o", "yaml", "--", "a", "b"), `apiVersion: v1
kind: Pod
metadata:
  labels:
    run: x
  name: x
spec:
  containers:
  - args:
    - a
    - b
    image: busybox
    name: x
    resources: {}
  dnsPolicy: ClusterFirst
  restartPolicy: Always
status: {}
`)
	var p corev1.Pod
	out := e.ok("run", "x", "--image=busybox", "--dry-run=client", "-o", "json", `--overrides={"metadata":{"labels":null,"annotations":{"a":"b"}},"spec":{"hostname":"other","containers":[{"name":"c","image":"i"}]}}`)
	if err := yaml.UnmarshalStrict([]byte(out), &p); err != nil || len(p.Labels) > 0 || p.Annotations["a"] != "b" || p.Spec.Hostname != "other" || p.Spec.Containers[0].Image != "i" || p.Spec.DNSPolicy != corev1.DNSClusterFirst {
		t.Errorf("%v: %s", err, out)
	}
	// A server's has what the node sets, and what it refuses.
	same(t, e.ok("run", "x", "--image=busybox", "--dry-run=server"), "pod/x created (server dry run)\n")
	p = corev1.Pod{}
	out = e.ok("run", "x", "--image=busybox", "--port=80", "--dry-run=server", "-o", "yaml")
	if err := yaml.UnmarshalStrict([]byte(out), &p); err != nil || p.Kind != "Pod" || p.Namespace != "default" || p.UID == "" || p.CreationTimestamp.IsZero() ||
		*p.Spec.TerminationGracePeriodSeconds != 30 || p.Spec.Containers[0].ImagePullPolicy != corev1.PullAlways || p.Spec.Containers[0].Ports[0].Protocol != corev1.ProtocolTCP || p.Status.Phase != corev1.PodPending {
		t.Errorf("%v: %s", err, out)
	}
	mustContain(t, e.fails(1, "run", "x", "--image=busybox", "--port=70000", "--dry-run=server", "-o", "yaml"), `The Pod "x" is invalid: spec.containers[0].ports[0].containerPort: Invalid value: 70000`)
	if e.exists("x") {
		t.Error("it was made")
	}
}
