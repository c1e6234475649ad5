package integration

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestTerminationMessage: what a container leaves is in its status, however it
// leaves it.
func TestTerminationMessage(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, tt := range []struct{ name, script, fields, want string }{
		{"default", "echo why >/dev/termination-log", "", "why\n"},
		{"path", "echo why >/tmp/deep/log", "terminationMessagePath: /tmp/deep/log", "why\n"},
		{"other-user", "echo why >/dev/termination-log", "securityContext: {runAsUser: 1000}", "why\n"},
		{"nothing", "echo printed; exit 3", "", ""},
		{"the-end-of-much", "yes 0123456 | head -n 1000 >/dev/termination-log; exit 1", "", strings.Repeat("0123456\n", 512)},
		{"log", "seq 1 100; exit 3", "terminationMessagePolicy: FallbackToLogsOnError", strings.Join(numbers(21, 100), "\n") + "\n"},
		{"long-log", "yes 0123456 | head -n 80 | tr -d '\\n'; yes 0123456 | head -n 79 | sed s/$/xxxxxxxxxxxxxxxxxxxxxxxx/; exit 3", "terminationMessagePolicy: FallbackToLogsOnError",
			strings.Repeat("0123456xxxxxxxxxxxxxxxxxxxxxxxx\n", 64)},
		{"file-before-log", "echo printed; echo why >/dev/termination-log; exit 3", "terminationMessagePolicy: FallbackToLogsOnError", "why\n"},
		{"no-log-of-success", "echo printed", "terminationMessagePolicy: FallbackToLogsOnError", ""},
		// The node's file stays what it is, whatever a container makes of its name.
		{"not-replaced", "rm -f /dev/termination-log; ln -sf /etc/passwd /dev/termination-log; mkfifo /dev/termination-log; echo still >>/dev/termination-log; exit 1", "", "still\n"},
	} {
		manifest := probed("restartPolicy: Never", "name: app\nimage: busybox\ncommand: [sh, -c, "+quote(tt.script)+"]\n"+tt.fields)
		e.apply(strings.Replace(manifest, "{name: probed}", "{name: "+tt.name+"}", 1))
		p := e.when(tt.name, "ended", func(p *corev1.Pod) bool {
			return p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
		})
		s := status(p, "app").State.Terminated
		if s == nil || s.Message != tt.want {
			t.Errorf("%s: got %+v, want message %q", tt.name, s, tt.want)
		}
		text := e.ok("describe", "pod", tt.name)
		if strings.Contains(text, "Message:") != (tt.want != "") {
			t.Errorf("%s: describe says %s", tt.name, text)
		}
	}
}

// TestTerminationMessagesOfManyContainers: 12 KiB are for the containers of a
// pod together, init containers among them, and each has an equal part.
func TestTerminationMessagesOfManyContainers(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const much = "yes 0123456 | head -n 1000 >/dev/termination-log"
	for _, tt := range []struct {
		name  string
		inits []string
		mains int
		want  int // bytes of each
	}{
		{"three", nil, 3, 4096},
		{"four", nil, 4, 3072},
		{"six", []string{"init=" + much}, 5, 2048},
	} {
		var mains []string
		for i := range tt.mains {
			mains = append(mains, fmt.Sprintf("c%d=%s", i, much))
		}
		e.apply(lifecyclePod(tt.name, "restartPolicy: Never", tt.inits, mains))
		p := e.when(tt.name, "ended", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
		all := append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...)
		if len(all) != len(tt.inits)+tt.mains {
			t.Errorf("%s: %d statuses", tt.name, len(all))
		}
		for _, s := range all {
			if end := s.State.Terminated; end == nil || end.Message != strings.Repeat("0123456\n", tt.want/8) {
				t.Errorf("%s: container %s: got %d bytes, want %d: %.40q", tt.name, s.Name, len(end.Message), tt.want, end.Message)
			}
		}
	}
}

// TestTerminationMessageOfLastState: it survives the restart, and the node.
func TestTerminationMessageOfLastState(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(probed("restartPolicy: Always", `
name: app
image: busybox
command: [sh, -c, "while [ ! -f /end ]; do sleep 0.1; done; echo told to >/dev/termination-log"]
`), "probed")
	e.kill9(e.nodePID())
	e.ok("exec", "probed", "--", "touch", "/end")
	p := e.restarted("probed", 1)
	if s := status(p, "app"); s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.Message != "told to\n" {
		t.Errorf("got %+v, want the message in the last state", s)
	}
	mustContain(t, e.ok("describe", "pod", "probed"), "Last State:", "told to")
}

func numbers(from, to int) (list []string) {
	for i := from; i <= to; i++ {
		list = append(list, strconv.Itoa(i))
	}
	return list
}

// quote writes text as a scalar of YAML.
func quote(text string) string {
	b, _ := json.Marshal(text)
	return string(b)
}
