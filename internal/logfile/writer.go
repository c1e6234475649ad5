// Package logfile writes and reads what a container prints, in the format of
// the kubelet's log files (CRI logging):
//
//	2026-01-02T15:04:05.000000000Z stdout F a whole line
//	2026-01-02T15:04:05.000000000Z stderr P the first part of a long line
//
// A log is a file and its older parts, NAME.1 the youngest of them. The
// package knows nothing of containers; who writes a log tells readers when it
// will not grow any more.
package logfile

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"
)

// Limits of a log, the kubelet's defaults.
const (
	defaultMaxBytes = 10 << 20
	defaultMaxFiles = 5
	// maxLine is how long a line may be before it is written in parts.
	maxLine = 16 << 10
)

const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// WriterOptions bound a log; zero values are the kubelet's defaults.
type WriterOptions struct {
	MaxBytes int64 // of one file, 10 MiB
	MaxFiles int   // the one being written and its older parts, 5
	// Lost, if set, is told of output that could not be written, when a write
	// succeeds again or the output ends: about how many bytes of a stream, and
	// why. It is called by Copy.
	Lost func(stream string, bytes int64, err error)
}

// Writer appends to a log. Its methods are safe for concurrent use.
type Writer struct {
	path     string
	maxBytes int64
	maxFiles int
	lost     func(stream string, bytes int64, err error)

	mu     sync.Mutex
	file   *os.File // nil: to be opened, or closed
	size   int64
	closed bool
}

// OpenWriter opens the log at path for appending, making it (mode 0600) if
// need be. Its directory must be there. Close it.
func OpenWriter(path string, o WriterOptions) (*Writer, error) {
	w := &Writer{path: path, maxBytes: o.MaxBytes, maxFiles: o.MaxFiles, lost: o.Lost}
	if w.maxBytes <= 0 {
		w.maxBytes = defaultMaxBytes
	}
	if w.maxFiles <= 0 {
		w.maxFiles = defaultMaxFiles
	}
	if w.lost == nil {
		w.lost = func(string, int64, error) {}
	}
	return w, w.open()
}

func (w *Writer) open() error {
	f, err := os.OpenFile(w.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.file, w.size = f, info.Size()
	return nil
}

// Copy writes what r gives as lines of stream, "stdout" or "stderr", until r
// ends. The last line need not have an end. What cannot be written, on a full
// disk, is lost: a program does not wait for space to print, as with containerd.
// It is meant to be called once for each stream, at the same time.
func (w *Writer) Copy(stream string, r io.Reader) error {
	in := make([]byte, maxLine)
	var out bytes.Buffer
	var line []byte // the beginning of a line whose end has not come
	var lost int64
	var why error
	defer func() {
		if lost > 0 {
			w.lost(stream, lost, why)
		}
	}()
	for {
		n, err := r.Read(in)
		now := time.Now().UTC().Format(timeFormat)
		rest := in[:n]
		for len(rest) > 0 {
			end := bytes.IndexByte(rest, '\n')
			room := maxLine - len(line)
			if end >= 0 && end <= room {
				record(&out, now, stream, "F", line, rest[:end])
				line, rest = line[:0], rest[end+1:]
				continue
			}
			if len(rest) < room {
				line = append(line, rest...)
				break
			}
			record(&out, now, stream, "P", line, rest[:room])
			line, rest = line[:0], rest[room:]
		}
		if err != nil && len(line) > 0 {
			record(&out, now, stream, "P", line, nil)
		}
		if out.Len() > 0 {
			switch werr := w.write(out.Bytes()); {
			case errors.Is(werr, fs.ErrClosed):
				return werr
			case werr != nil:
				lost, why = lost+int64(n), werr
			case lost > 0:
				w.lost(stream, lost, why)
				lost = 0
			}
			out.Reset()
		}
		if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// record appends one line of the log; a and b are its text.
func record(out *bytes.Buffer, now, stream, tag string, a, b []byte) {
	out.WriteString(now)
	out.WriteByte(' ')
	out.WriteString(stream)
	out.WriteByte(' ')
	out.WriteString(tag)
	out.WriteByte(' ')
	out.Write(a)
	out.Write(b)
	out.WriteByte('\n')
}

// write appends whole records, all or none, and goes on in a new file when this
// one is full.
func (w *Writer) write(records []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fs.ErrClosed
	}
	if w.file == nil { // since a rotation failed
		if err := w.open(); err != nil {
			return err
		}
	}
	if w.size > 0 && w.size+int64(len(records)) > w.maxBytes {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	n, err := w.file.Write(records)
	if err != nil && n > 0 {
		// Half a record would be taken for the beginning of the next one.
		if cut := w.file.Truncate(w.size); cut == nil {
			n = 0
		}
	}
	w.size += int64(n)
	return err
}

// rotate makes the file its own youngest older part and drops the oldest. After
// a failure the next write goes on from what is there.
func (w *Writer) rotate() error {
	err := w.file.Close()
	w.file = nil
	if err != nil {
		return err
	}
	for i := w.maxFiles - 1; i > 0; i-- {
		if i == w.maxFiles-1 {
			if err := os.Remove(part(w.path, i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := os.Rename(part(w.path, i-1), part(w.path, i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if w.maxFiles == 1 {
		if err := os.Remove(w.path); err != nil {
			return err
		}
	}
	return w.open()
}

// part is the name of the log's i-th part; 0 is the file being written.
func part(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}

// Close closes the file. A Copy that goes on fails.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}

// Remove removes the log at path with its older parts. It may be called again.
func Remove(path string) error {
	var errs []error
	for i := 0; i == 0 || i < 100; i++ {
		err := os.Remove(part(path, i))
		if errors.Is(err, fs.ErrNotExist) {
			if i > 0 {
				break
			}
			continue
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
