package logfile_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"get.podrun.dev/podrun/internal/logfile"
)

func write(t *testing.T, path, stream string, r io.Reader, o logfile.WriterOptions) {
	t.Helper()
	w, err := logfile.OpenWriter(path, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Copy(stream, r); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string, o logfile.ReadOptions) string {
	t.Helper()
	var b bytes.Buffer
	if err := logfile.Read(t.Context(), path, o, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var all = logfile.ReadOptions{Tail: -1}

func TestRoundTrip(t *testing.T) {
	long := strings.Repeat("x", 40_000)
	for _, c := range []struct{ name, text string }{
		{"lines", "one\ntwo\n\nfour\n"},
		{"no end of the last line", "one\ntwo"},
		{"a long line", long + "\nshort\n"},
		{"a long line of exactly one part", strings.Repeat("y", 16<<10) + "\nz\n"},
		{"binary", "a\x00b\xff\r\n\x1b[0m\n"},
		{"nothing", ""},
	} {
		for _, r := range []struct {
			name string
			wrap func(io.Reader) io.Reader
		}{{"at once", func(r io.Reader) io.Reader { return r }}, {"byte by byte", iotest.OneByteReader}} {
			t.Run(c.name+" "+r.name, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "0.log")
				write(t, path, "stdout", r.wrap(strings.NewReader(c.text)), logfile.WriterOptions{})
				if got := read(t, path, all); got != c.text {
					t.Errorf("read %d bytes %.80q, want %d bytes %.80q", len(got), got, len(c.text), c.text)
				}
			})
		}
	}
}

func TestFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path, "stderr", strings.NewReader("hello\n"), logfile.WriterOptions{})
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := strings.SplitN(string(b), " ", 4)
	if len(f) != 4 || f[1] != "stderr" || f[2] != "F" || f[3] != "hello\n" {
		t.Errorf("record %q, want TIME stderr F hello", b)
	}
	if _, err := time.Parse(time.RFC3339Nano, f[0]); err != nil {
		t.Errorf("time: %v", err)
	}
}

func TestSelection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path, "stdout", strings.NewReader("1\n2\n3\n"), logfile.WriterOptions{})
	time.Sleep(5 * time.Millisecond)
	since := time.Now()
	time.Sleep(5 * time.Millisecond)
	write(t, path, "stderr", strings.NewReader("4\n5\n"), logfile.WriterOptions{})
	for _, c := range []struct {
		name string
		o    logfile.ReadOptions
		want string
	}{
		{"tail 2", logfile.ReadOptions{Tail: 2}, "4\n5\n"},
		{"tail 0", logfile.ReadOptions{Tail: 0}, ""},
		{"tail of more than there is", logfile.ReadOptions{Tail: 99}, "1\n2\n3\n4\n5\n"},
		{"since", logfile.ReadOptions{Tail: -1, Since: since}, "4\n5\n"},
		{"since and tail", logfile.ReadOptions{Tail: 1, Since: since}, "5\n"},
		{"bytes", logfile.ReadOptions{Tail: -1, LimitBytes: 3}, "1\n2"},
		{"stream", logfile.ReadOptions{Tail: -1, Stream: "stderr"}, "4\n5\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := read(t, path, c.o); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	if got := read(t, path, logfile.ReadOptions{Tail: 1, Timestamps: true}); !strings.HasSuffix(got, "Z 5\n") {
		t.Errorf("with timestamps: %q", got)
	}
}

func TestRotationIsBoundedAndReadThrough(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	var text strings.Builder
	for i := range 400 {
		fmt.Fprintf(&text, "line %d\n", i)
	}
	write(t, path, "stdout", iotest.OneByteReader(strings.NewReader(text.String())), logfile.WriterOptions{MaxBytes: 4096, MaxFiles: 3})
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Fatalf("%d files, %v; want 3", len(files), err)
	}
	got := read(t, path, all)
	if !strings.HasSuffix(text.String(), got) || len(got) < 2048 {
		t.Errorf("read %d bytes that are not the end of what was written", len(got))
	}
	if err := logfile.Remove(path); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("Remove left %d files", len(files))
	}
}

// A follower sees everything, across rotations, and ends when it is told that
// nothing more comes.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	w, err := logfile.OpenWriter(path, logfile.WriterOptions{MaxBytes: 64 << 10, MaxFiles: 5})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var got bytes.Buffer
	var reader sync.WaitGroup
	reader.Go(func() {
		o := all
		o.Follow, o.Done = true, done
		if err := logfile.Read(t.Context(), path, o, &got); err != nil {
			t.Error(err)
		}
	})
	var want strings.Builder
	in, feed := io.Pipe()
	var writer sync.WaitGroup
	writer.Go(func() {
		if err := w.Copy("stdout", in); err != nil {
			t.Error(err)
		}
	})
	for i := range 3000 {
		l := fmt.Sprintf("line %d %s\n", i, strings.Repeat("z", i%50))
		want.WriteString(l)
		_, _ = io.WriteString(feed, l)
		if i%100 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	_ = feed.Close()
	writer.Wait()
	close(done)
	reader.Wait()
	if got.String() != want.String() {
		t.Errorf("followed %d bytes, want %d", got.Len(), want.Len())
	}
}

func TestFollowEndsWithContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path, "stdout", strings.NewReader("x\n"), logfile.WriterOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	o := all
	o.Follow, o.Done = true, make(chan struct{})
	var b bytes.Buffer
	if err := logfile.Read(ctx, path, o, &b); err != nil || b.String() != "x\n" {
		t.Errorf("Read = %v, %q", err, b.String())
	}
}

// growing appends to a log whenever it is written to.
type growing struct {
	bytes.Buffer
	t    *testing.T
	path string
}

func (g *growing) Write(p []byte) (int, error) {
	if g.Len() < 100_000 {
		write(g.t, g.path, "stdout", strings.NewReader(strings.Repeat("more\n", 5_000)), logfile.WriterOptions{})
	}
	return g.Buffer.Write(p)
}

// A read ends, and has as many lines as it should, also of a log that grows as
// fast as it is read.
func TestReadOfGrowingLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write(t, path, "stdout", strings.NewReader(strings.Repeat("line\n", 10_000)), logfile.WriterOptions{})
	for _, tt := range []struct {
		tail int64
		want int
	}{{-1, 10_000}, {3_000, 3_000}} {
		out := &growing{t: t, path: path}
		if err := logfile.Read(t.Context(), path, logfile.ReadOptions{Tail: tt.tail}, out); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(out.String(), "\n"); got != tt.want {
			t.Errorf("tail %d: got %d lines, want %d", tt.tail, got, tt.want)
		}
	}
}
