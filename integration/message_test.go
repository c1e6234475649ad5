package integration

import (
	"encoding/json"
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
