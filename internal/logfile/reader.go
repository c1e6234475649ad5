package logfile

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ReadOptions say which lines of a log are wanted, and how.
type ReadOptions struct {
	Follow     bool
	Done       <-chan struct{} // with Follow: closed when the log will not grow any more
	Tail       int64           // so many lines from the end; negative for all
	Since      time.Time       // lines of this time and later; zero for all
	Timestamps bool            // put the time before each line
	LimitBytes int64           // stop after so many bytes; 0 for no limit
	Stream     string          // "stdout" or "stderr" only; "" for both
}

// errEnough ends a read whose limit is reached.
var errEnough = errors.New("limit reached")

// Read writes the log at path to out, older parts first, as it is now: what is
// added meanwhile is another read's. With Follow it goes on with what is added,
// sleeping in between, until Done is closed and all is written, or ctx ends.
// Neither is an error.
func Read(ctx context.Context, path string, o ReadOptions, out io.Writer) error {
	files, err := parts(path)
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	sizes := make([]int64, len(files))
	for i, f := range files {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		sizes[i] = info.Size()
	}
	p := &printer{o: o, out: out}
	if o.Tail >= 0 {
		if p.skip, err = countLines(files, sizes, o, o.Tail); err != nil {
			return err
		}
	}
	if o.Follow {
		err = follow(ctx, path, files, o, p)
	} else {
		for i := 0; i < len(files) && err == nil; i++ {
			err = p.print(io.LimitReader(files[i], sizes[i]))
		}
	}
	if errors.Is(err, errEnough) || ctx.Err() != nil {
		return nil
	}
	return err
}

// parts opens the files of a log, oldest first.
func parts(path string) ([]*os.File, error) {
	var files []*os.File
	for i := 0; ; i++ {
		f, err := os.Open(part(path, i))
		if errors.Is(err, fs.ErrNotExist) && i > 0 {
			return files, nil
		}
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
			return nil, err
		}
		files = append([]*os.File{f}, files...)
	}
}

// countLines returns how many of the lines that o selects come before the last
// tail ones.
func countLines(files []*os.File, sizes []int64, o ReadOptions, tail int64) (int64, error) {
	var n int64
	for i, f := range files {
		r := bufio.NewReaderSize(io.LimitReader(f, sizes[i]), 2*maxLine)
		for {
			l, err := r.ReadSlice('\n')
			if err == nil {
				if rec, ok := parse(l); ok && rec.full && o.selects(rec) {
					n++
				}
				continue
			}
			if errors.Is(err, bufio.ErrBufferFull) {
				continue
			}
			if errors.Is(err, io.EOF) {
				break
			}
			return 0, err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
	}
	return max(n-tail, 0), nil
}

// follow prints the files, and then what is appended to the last of them and
// to those that take its place.
func follow(ctx context.Context, path string, files []*os.File, o ReadOptions, p *printer) error {
	for _, f := range files[:len(files)-1] {
		if err := p.print(f); err != nil {
			return err
		}
	}
	current := files[len(files)-1]
	w, err := watch(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer w.close()
	done := o.Done
	for {
		// Order matters: what is written before Done was closed is read after.
		ended := isClosed(done)
		if err := p.print(current); err != nil {
			return err
		}
		next, err := os.Open(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			next = nil // between two files, or removed for good
		case err != nil:
			return err
		}
		if next != nil && !sameFile(current, next) {
			// Rotated: the rest of the old one was read above only if nothing
			// was written in between; once more, now that nobody writes to it.
			err := p.print(current)
			if current != files[len(files)-1] {
				_ = current.Close()
			}
			current = next
			defer func() { _ = next.Close() }()
			if err != nil {
				return err
			}
			continue
		}
		if next != nil {
			_ = next.Close()
		}
		if ended {
			return nil
		}
		if err := w.wait(ctx, done); err != nil {
			return err
		}
	}
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func sameFile(a, b *os.File) bool {
	x, err := a.Stat()
	if err != nil {
		return false
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y)
}

// line is one record of a log.
type line struct {
	time, stream, text []byte
	full               bool // the line's end
}

// parse splits a record; not ok is something that no Writer wrote.
func parse(b []byte) (line, bool) {
	b = bytes.TrimSuffix(b, []byte{'\n'})
	at, b, ok1 := bytes.Cut(b, []byte{' '})
	stream, b, ok2 := bytes.Cut(b, []byte{' '})
	tag, text, ok3 := bytes.Cut(b, []byte{' '})
	return line{at, stream, text, bytes.Equal(tag, []byte("F"))}, ok1 && ok2 && ok3
}

func (o ReadOptions) selects(l line) bool {
	if o.Stream != "" && o.Stream != string(l.stream) {
		return false
	}
	if o.Since.IsZero() {
		return true
	}
	t, err := time.Parse(timeFormat, string(l.time))
	return err == nil && !t.Before(o.Since)
}

// printer prints records as the lines they stand for.
type printer struct {
	o       ReadOptions
	out     io.Writer
	skip    int64
	written int64
	partial []byte // a record whose end is not in the file yet
	middle  bool   // the last record printed was the first part of a line
}

// print prints the records that r has now.
func (p *printer) print(r io.Reader) error {
	in := make([]byte, 64<<10)
	for {
		n, err := r.Read(in)
		p.partial = append(p.partial, in[:n]...)
		if perr := p.records(); perr != nil {
			return perr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (p *printer) records() error {
	var text []byte
	rest := p.partial
	for {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			break
		}
		if l, ok := parse(rest[:end]); ok && p.o.selects(l) {
			if p.skip > 0 {
				if l.full {
					p.skip--
				}
			} else {
				if p.o.Timestamps && !p.middle {
					text = append(append(text, l.time...), ' ')
				}
				text = append(text, l.text...)
				if p.middle = !l.full; l.full {
					text = append(text, '\n')
				}
			}
		}
		rest = rest[end+1:]
	}
	p.partial = append(p.partial[:0], rest...)
	return p.emit(text)
}

func (p *printer) emit(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	limit := p.o.LimitBytes
	if limit > 0 && p.written+int64(len(text)) >= limit {
		text = text[:limit-p.written]
		if _, err := p.out.Write(text); err != nil {
			return err
		}
		return errEnough
	}
	n, err := p.out.Write(text)
	p.written += int64(n)
	return err
}

// watcher tells of changes in a directory through inotify(7).
type watcher struct {
	file    *os.File
	changes chan error // one slot
}

func watch(dir string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		return nil, errors.Join(&os.PathError{Op: "inotify_add_watch", Path: dir, Err: err}, f.Close())
	}
	w := &watcher{file: f, changes: make(chan error, 1)}
	go func() {
		buf := make([]byte, 4096)
		for {
			_, err := f.Read(buf) // which file changed does not matter
			if err != nil {
				close(w.changes)
				return
			}
			select {
			case w.changes <- nil:
			default:
			}
		}
	}()
	return w, nil
}

// wait returns nil after a change or when done is closed.
func (w *watcher) wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-done:
		return nil
	case _, ok := <-w.changes:
		if !ok {
			return fs.ErrClosed
		}
		return nil
	}
}

func (w *watcher) close() { _ = w.file.Close() }
