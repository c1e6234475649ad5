package untar

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits of what a layer may unpack to. A zero field stands for its default.
type Limits struct {
	Bytes   int64 // of the tar, and of each sparse file what it claims to hold
	Entries int   // files, directories, links and marks
}

// The limits that hold unless others are given, and those that nobody raises.
const (
	DefaultBytes   = 64 << 30
	DefaultEntries = 4 << 20

	maxDepth    = 512      // directories in each other: removing them takes a descriptor each
	maxXattr    = 64 << 10 // bytes of one extended attribute (XATTR_SIZE_MAX)
	maxSymlinks = 40       // on the way to a file, as the kernel has it
)

// ErrLimit is in errors about a layer that passes the Limits.
var ErrLimit = errors.New("the layer is too large")

// Options of Apply.
type Options struct {
	// Rootless says that we are in a user namespace: overlay's marks are user.*
	// attributes then, and devices are not made.
	Rootless bool
	// SingleID says that only one user ID is mapped: all files become its.
	SingleID bool
	Limits   Limits
	// Each, if set, is called before each entry; its error ends all.
	Each func() error
}

// Result is what Apply wrote.
type Result struct {
	Size    int64 // bytes in files
	Entries int
	// Warnings are what could not be kept as the layer has it, a line for each
	// kind.
	Warnings []string
}

// unpacker is one call of Apply.
type unpacker struct {
	tree
	o       Options
	umask   uint32
	buffer  []byte
	result  Result
	lost    losses
	entries int
}

// Apply writes the layer whose tar r holds into dir, an empty directory. All
// of r is read. Errors name the file they are about.
func Apply(ctx context.Context, dir string, r io.Reader, o Options) (result Result, err error) {
	if o.Limits.Bytes <= 0 {
		o.Limits.Bytes = DefaultBytes
	}
	if o.Limits.Entries <= 0 {
		o.Limits.Entries = DefaultEntries
	}
	u := &unpacker{o: o, buffer: make([]byte, bufferSize)}
	if u.umask, err = umask(); err != nil {
		return Result{}, err
	}
	if err := u.openRoot(dir); err != nil {
		return Result{}, err
	}
	defer u.close()
	limited := &limitedReader{r: r, limit: o.Limits.Bytes}
	in := tar.NewReader(limited)
	for {
		if err := ctx.Err(); err != nil {
			return Result{}, err
		}
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Result{}, fmt.Errorf("read tar: %w", err)
		}
		if err := u.count(); err != nil {
			return Result{}, err
		}
		if o.Each != nil {
			if err := o.Each(); err != nil {
				return Result{}, err
			}
		}
		if err := u.entry(ctx, h, in); err != nil {
			return Result{}, err
		}
	}
	if _, err := io.CopyBuffer(io.Discard, onlyReader{limited}, u.buffer); err != nil { // what follows the tar's end
		return Result{}, err
	}
	if err := u.finish(u.root); err != nil {
		return Result{}, err
	}
	u.result.Entries, u.result.Warnings = u.entries, u.lost.lines()
	return u.result, nil
}

// count counts an entry, or a directory that one implies.
func (u *unpacker) count() error {
	if u.entries++; u.entries > u.o.Limits.Entries {
		return fmt.Errorf("%w: more than %d files", ErrLimit, u.o.Limits.Entries)
	}
	return nil
}

// entry writes one entry.
func (u *unpacker) entry(ctx context.Context, h *tar.Header, body io.Reader) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader: // such as git archive's comment
		return nil
	//lint:ignore SA1019 old layers have it
	case tar.TypeReg, tar.TypeRegA, tar.TypeCont, tar.TypeGNUSparse, tar.TypeDir, tar.TypeLink,
		tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return fmt.Errorf("%q is of a type that no layer has (%q)", h.Name, h.Typeflag)
	}
	if err := checkXattrs(h); err != nil {
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	if leavesRoot(h.Name) {
		return fmt.Errorf("%q leads out of the layer", h.Name)
	}
	folder, base := split(h.Name)
	at, err := u.walk(folder, true)
	if err != nil {
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	if base == "" || base == "." || base == ".." {
		if h.Typeflag != tar.TypeDir {
			return fmt.Errorf("%q is no name for a file", h.Name)
		}
		if at, err = u.walkFrom(at, base, false); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
		at.meta = u.metaOf(h)
		return nil
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		err = u.mark(at, base)
	} else {
		err = u.make(ctx, at, base, h, body)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	return nil
}

// make makes what h describes as name in the directory at.
func (u *unpacker) make(ctx context.Context, at *node, name string, h *tar.Header, body io.Reader) error {
	if h.Typeflag == tar.TypeDir {
		d, err := u.directory(at, name)
		if err == nil {
			d.meta = u.metaOf(h)
		}
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return u.hardLink(at, name, h.Linkname)
	}
	m := u.metaOf(h)
	switch h.Typeflag {
	case tar.TypeSymlink:
		err := u.replacing(at, name, func(fd int) error { return unix.Symlinkat(h.Linkname, fd, name) })
		if err != nil {
			return err
		}
		return u.dress(at, name, m, true)
	case tar.TypeFifo:
		err := u.replacing(at, name, func(fd int) error { return unix.Mknodat(fd, name, unix.S_IFIFO|0o600, 0) })
		if err != nil {
			return err
		}
		return u.dress(at, name, m, false)
	case tar.TypeChar, tar.TypeBlock:
		return u.device(at, name, h, m)
	}
	return u.file(ctx, at, name, h, m, body)
}

// onlyReader hides what else a reader can do.
type onlyReader struct{ io.Reader }

// limitedReader fails once more than limit bytes were read.
type limitedReader struct {
	r     io.Reader
	limit int64
	read  int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.read += int64(n); l.read > l.limit {
		return 0, fmt.Errorf("%w: its tar has more than %d bytes", ErrLimit, l.limit)
	}
	return n, err
}
