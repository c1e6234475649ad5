package untar

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/hint"
)

const (
	bufferSize = 1 << 20
	// holeSize is what is left out of a sparse file when it is all zero.
	holeSize = 4096
)

// meta is what a layer says of a file besides its content.
type meta struct {
	uid, gid     int
	mode         uint32 // permissions and the three special bits
	atime, mtime time.Time
	xattrs       map[string]string
}

func (u *unpacker) metaOf(h *tar.Header) *meta {
	m := &meta{uid: h.Uid, gid: h.Gid, mode: uint32(h.Mode) & 0o7777, atime: h.AccessTime, mtime: h.ModTime, xattrs: u.xattrsOf(h)}
	if m.atime.IsZero() {
		m.atime = m.mtime
	}
	if u.o.SingleID && (m.uid != 0 || m.gid != 0) {
		u.lost.squashed++
		m.uid, m.gid = 0, 0
	}
	return m
}

// file makes a regular file.
func (u *unpacker) file(ctx context.Context, at *node, name string, h *tar.Header, m *meta, body io.Reader) error {
	if h.Size > u.o.Limits.Bytes-u.result.Size {
		return fmt.Errorf("%w: more than %d bytes in its files", ErrLimit, u.o.Limits.Bytes)
	}
	var file int
	made := m.mode & 0o777 &^ u.umask
	err := u.replacing(at, name, func(fd int) (err error) {
		file, err = unix.Openat(fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, m.mode&0o777)
		return err
	})
	if err != nil {
		return err
	}
	err = u.fill(ctx, file, h, body)
	if err == nil {
		err = u.dressFile(file, m, made)
	}
	u.result.Size += h.Size
	return errors.Join(err, unix.Close(file))
}

// fill writes a file's content.
func (u *unpacker) fill(ctx context.Context, file int, h *tar.Header, body io.Reader) error {
	sparse := isSparse(h)
	for offset := int64(0); offset < h.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := u.buffer[:min(int64(len(u.buffer)), h.Size-offset)]
		if _, err := io.ReadFull(body, part); err != nil {
			return fmt.Errorf("read tar: %w", noEOF(err))
		}
		if err := writeAt(file, part, offset, sparse); err != nil {
			return err
		}
		offset += int64(len(part))
	}
	if sparse { // its end may be a hole
		return ignoringEINTR(func() error { return unix.Ftruncate(file, h.Size) })
	}
	return nil
}

// writeAt writes all of p; what is zero in it is left out of a sparse file.
func writeAt(file int, p []byte, offset int64, sparse bool) error {
	for len(p) > 0 {
		n := len(p)
		if sparse {
			skip := 0
			for skip < len(p) && isZero(p[skip:min(skip+holeSize, len(p))]) {
				skip = min(skip+holeSize, len(p))
			}
			p, offset = p[skip:], offset+int64(skip)
			for n = 0; n < len(p) && !isZero(p[n:min(n+holeSize, len(p))]); {
				n = min(n+holeSize, len(p))
			}
		}
		for n > 0 {
			written, err := unix.Pwrite(file, p[:n], offset)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return err
			}
			p, offset, n = p[written:], offset+int64(written), n-written
		}
	}
	return nil
}

var zeros [holeSize]byte

func isZero(p []byte) bool { return bytes.Equal(p, zeros[:len(p)]) }

// isSparse tells whether a file has holes, in any of the ways that GNU tar
// writes them; archive/tar reads the holes as zeros.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// noEOF is for a place where the end is none.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// dressFile gives an open file or directory its owner, mode, attributes and
// times, in the order in which the kernel leaves them alone: a write or a chown
// takes set-user-ID bits and capabilities away.
func (u *unpacker) dressFile(fd int, m *meta, mode uint32) error {
	if m.uid != 0 || m.gid != 0 { // what is made here is root's
		if err := owned(m, func() error { return unix.Fchown(fd, m.uid, m.gid) }); err != nil {
			return err
		}
	}
	if m.mode != mode {
		if err := ignoringEINTR(func() error { return unix.Fchmod(fd, m.mode) }); err != nil {
			return err
		}
	}
	for name, value := range m.xattrs {
		if err := u.lost.xattr(name, unix.Fsetxattr(fd, name, []byte(value), 0)); err != nil {
			return err
		}
	}
	return setTimes(fd, nil, m, 0)
}

// dress does so with what cannot be opened.
func (u *unpacker) dress(at *node, name string, m *meta, link bool) error {
	fd, err := u.fd(at)
	if err != nil {
		return err
	}
	if m.uid != 0 || m.gid != 0 {
		if err := owned(m, func() error { return unix.Fchownat(fd, name, m.uid, m.gid, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
			return err
		}
	}
	if !link { // what was made here is no link: it cannot lead elsewhere
		if err := unix.Fchmodat(fd, name, m.mode, 0); err != nil {
			return err
		}
	}
	for key, value := range m.xattrs {
		if err := u.lost.xattr(key, unix.Lsetxattr(procPath(fd, name), key, []byte(value), 0)); err != nil {
			return err
		}
	}
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	return setTimes(fd, p, m, unix.AT_SYMLINK_NOFOLLOW)
}

// owned does a chown and explains its failure.
func owned(m *meta, chown func() error) error {
	// -1 would mean to the kernel: leave it as it is.
	err := error(unix.EINVAL)
	if m.uid >= 0 && m.gid >= 0 && m.uid < 1<<32-1 && m.gid < 1<<32-1 {
		err = ignoringEINTR(chown)
	}
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	return hint.Wrap(fmt.Errorf("it belongs to user %d and group %d, which are not mapped here: users up to %s and groups up to %s are", m.uid, m.gid, lastID("uid"), lastID("gid")),
		`give the user more IDs in /etc/subuid and /etc/subgid (a range of 65536 is usual), and install newuidmap and newgidmap (package uidmap); see "podrun doctor"`)
}

// hardLink makes name one more name of a file of this layer.
func (u *unpacker) hardLink(at *node, name, target string) error {
	if leavesRoot(target) {
		return fmt.Errorf("a hard link to %q, which is out of the layer", target)
	}
	folder, base := split(target)
	from, err := u.walk(folder, false)
	if err != nil {
		return fmt.Errorf("a hard link to %q: %w", target, err)
	}
	if from.children[base] != nil || base == "" || base == "." || base == ".." {
		return fmt.Errorf("a hard link to %q, which is a directory", target)
	}
	fromFD, err := u.fd(from)
	if err != nil {
		return err
	}
	if fromFD, err = unix.FcntlInt(uintptr(fromFD), unix.F_DUPFD_CLOEXEC, 3); err != nil { // the next directory may close it
		return err
	}
	defer func() { _ = unix.Close(fromFD) }()
	var source unix.Stat_t
	if err := unix.Fstatat(fromFD, base, &source, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("a hard link to %q, which the layer does not have before it: %w", target, err)
	}
	if source.Mode&unix.S_IFMT == unix.S_IFCHR && source.Rdev == 0 {
		return fmt.Errorf("a hard link to %q, which the layer removes", target)
	}
	fd, err := u.fd(at)
	if err != nil {
		return err
	}
	var there unix.Stat_t
	if err := unix.Fstatat(fd, name, &there, unix.AT_SYMLINK_NOFOLLOW); err == nil && there.Ino == source.Ino && there.Dev == source.Dev {
		return nil // a link to itself
	}
	if err := u.replacing(at, name, func(fd int) error { return unix.Linkat(fromFD, base, fd, name, 0) }); err != nil {
		return fmt.Errorf("a hard link to %q: %w", target, err)
	}
	return nil
}

// device makes a device, where we may.
func (u *unpacker) device(at *node, name string, h *tar.Header, m *meta) error {
	if u.o.Rootless || h.Devmajor == 0 && h.Devminor == 0 { // 0:0 is overlay's whiteout
		u.lost.device(h.Name)
		return nil
	}
	kind := uint32(unix.S_IFCHR)
	if h.Typeflag == tar.TypeBlock {
		kind = unix.S_IFBLK
	}
	device := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	err := u.replacing(at, name, func(fd int) error { return unix.Mknodat(fd, name, kind|0o600, int(device)) })
	if errors.Is(err, unix.EPERM) { // root without CAP_MKNOD
		u.lost.device(h.Name)
		return nil
	}
	if err != nil {
		return err
	}
	return u.dress(at, name, m, false)
}
