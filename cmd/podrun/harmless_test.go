package main

import (
	"bytes"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// evil moves the cursor, names the window and clears the line that it is in.
const evil = "\x1b[2J\x1b]0;evil\x07\rall is well\u009b31m"

// TestTerminalIsNotObeyed: what a container leaves in an object's status does
// not reach the terminal as it is, however it is shown.
func TestTerminalIsNotObeyed(t *testing.T) {
	p := testPod("web", 1, ended(0, 1, "Error"))
	p.Status.ContainerStatuses[0].State.Terminated.Message = evil
	p.Spec.Containers[0].Command = []string{"/bin/" + evil}
	events := []corev1.Event{{Type: "Warning", Reason: "Failed", Message: evil, Count: 1, FirstTimestamp: ago(0), LastTimestamp: ago(0)}}
	table := grid{headers: []string{"NAME", "MESSAGE"}, rows: [][]string{{"web", evil}}}
	for name, print := range map[string]func(b *bytes.Buffer) error{
		"describe": func(b *bytes.Buffer) error {
			d := newDescription(b)
			d.pod(&p, events, now)
			return d.w.Flush()
		},
		"get":    func(b *bytes.Buffer) error { return kubectlTable(b, table, true) },
		"images": func(b *bytes.Buffer) error { return dockerTable(b, table, true) },
		"watch":  func(b *bytes.Buffer) error { return newLines(b, true).print(table) },
		"error":  func(b *bytes.Buffer) error { b.WriteString(errorLine(plainf("%s", evil), true)); return nil },
	} {
		var b bytes.Buffer
		if err := print(&b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := b.String(); strings.ContainsAny(got, "\x1b\r\u009b") || !strings.Contains(got, "^[[2J") {
			t.Errorf("%s: got %q", name, got)
		}
	}
}
