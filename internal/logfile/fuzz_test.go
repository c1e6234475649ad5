package logfile_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"get.podrun.dev/podrun/internal/logfile"
)

// What a container prints is what is read, whatever it prints.
func FuzzWriteAndRead(f *testing.F) {
	for _, s := range []string{"", "one\ntwo", "\n\n", "a\x00b\xff\r\n", "2026-01-02T15:04:05.000000000Z stdout F x\n", strings.Repeat("x", 17<<10)} {
		f.Add([]byte(s))
	}
	path := filepath.Join(f.TempDir(), "0.log")
	f.Fuzz(func(t *testing.T, text []byte) {
		defer func() { _ = logfile.Remove(path) }()
		write(t, path, "stdout", bytes.NewReader(text), logfile.WriterOptions{MaxBytes: 1 << 30})
		if got := read(t, path, all); got != string(text) {
			t.Errorf("read %q, want %q", got, text)
		}
	})
}

// A file that was cut, or that somebody else wrote, is read as far as it is a
// log. The last lines of it are the end of all lines.
func FuzzRead(f *testing.F) {
	const at = "2026-01-02T15:04:05.000000000Z "
	for _, s := range []string{
		"", at + "stdout F x\n", at + "stderr P part, \n" + at + "stderr F whole\n", at + "stdout F cut", at + "stdout P \n", at + "stdout\n",
		at + "stdout F one\n\n\n" + at + "stdout F two\n", "nothing\nof a log\n", "T stdout F no time\n", at + "stdout X \n",
		strings.Repeat("x", 40<<10) + "\n" + at + "stdout F after a long line\n",
	} {
		f.Add([]byte(s), int64(1), int64(0))
		f.Add([]byte(s), int64(0), int64(3))
	}
	path := filepath.Join(f.TempDir(), "0.log")
	f.Fuzz(func(t *testing.T, text []byte, tail, limit int64) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		whole := read(t, path, all)
		if len(whole) > len(text) {
			t.Errorf("read %d bytes of a log of %d", len(whole), len(text))
		}
		if last := read(t, path, logfile.ReadOptions{Tail: tail}); !strings.HasSuffix(whole, last) {
			t.Errorf("the last %d lines are %q, all are %q", tail, last, whole)
		} else if n := int64(strings.Count(last, "\n")); tail >= 0 && n > tail {
			t.Errorf("asked for %d lines, got %d: %q", tail, n, last)
		}
		if some := read(t, path, logfile.ReadOptions{Tail: -1, LimitBytes: limit}); limit > 0 && int64(len(some)) > limit || !strings.HasPrefix(whole, some) {
			t.Errorf("the first %d bytes are %q, all are %q", limit, some, whole)
		}
		read(t, path, logfile.ReadOptions{Tail: -1, Timestamps: true, Stream: "stderr"})
	})
}
