package main

import (
	"io"
	"strings"
)

// control shows what a terminal would obey, as kubectl does (CVE-2021-25743).
var control = strings.NewReplacer("\x1b", "^[", "\r", "\\r", "\u009b", "^[[")

// harmless returns a writer to out for what people read of objects. Images and
// containers have a hand in that: in the names of programs, in the messages
// that they leave, in what probes print.
func harmless(out io.Writer) io.Writer { return harmlessWriter{out} }

type harmlessWriter struct{ out io.Writer }

// Write writes all of b or returns an error. A character comes whole: who writes
// here writes cells and lines.
func (w harmlessWriter) Write(b []byte) (int, error) {
	if _, err := control.WriteString(w.out, string(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}
