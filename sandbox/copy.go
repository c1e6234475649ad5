package sandbox

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/linux"
)

// Files go into and out of a container as a tar archive, without a program in
// the container: this process opens them itself, by names that the kernel
// resolves inside the container's root (openat2(2), RESOLVE_IN_ROOT), whatever
// the container does to its links meanwhile, and with the rights of the
// container's user.

// CopyOptions say how files are put into a container.
type CopyOptions struct {
	// Base is the name of the first entry of the archive; the others are below
	// it. In its place they go to the destination, or below it if that is a
	// directory. "." always stands for the destination.
	Base string
	// NoPreserve gives files the modes of new ones.
	NoPreserve bool
}

// CopyOut writes the file or the directory at name to w as a tar archive whose
// entries begin with base. A link at name itself is followed, those below it
// are entries. ErrGone when the container does not run.
func (c *Container) CopyOut(ctx context.Context, name, base string, w io.Writer) error {
	return c.inRoot(ctx, func(root *os.File) error {
		f, err := openIn(root, c.absolute(name), unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		out := tar.NewWriter(w)
		if err := packOpen(ctx, out, f, base); err != nil {
			return err
		}
		return out.Close()
	})
}

// CopyIn unpacks the tar archive r to name. What is there is written over, in
// place.
func (c *Container) CopyIn(ctx context.Context, name string, r io.Reader, o CopyOptions) error {
	return c.inRoot(ctx, func(root *os.File) error {
		target, err := copyTarget(root, c.absolute(name), o.Base)
		if err != nil {
			return err
		}
		u := unpacker{root: root, o: o}
		defer u.close()
		in := tar.NewReader(r)
		for {
			h, err := in.Next()
			if errors.Is(err, io.EOF) {
				return u.finish()
			}
			if err != nil {
				return fmt.Errorf("archive: %w", err)
			}
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			rel, ok := below(h.Name, o.Base)
			if !ok {
				return fmt.Errorf("archive: %q is not below %q", h.Name, o.Base)
			}
			if err := u.unpack(h, target+rel, in); err != nil {
				return err
			}
		}
	})
}

// absolute is name as the container's program would mean it.
func (c *Container) absolute(name string) string {
	if strings.HasPrefix(name, "/") {
		return name
	}
	return workDir(c.state.Config.Cwd) + "/" + name
}

// below returns what follows base in name, "" or beginning with a slash.
func below(name, base string) (string, bool) {
	name = strings.TrimSuffix(name, "/")
	if !filepath.IsLocal(name) {
		return "", false
	}
	if base == "." {
		if name == "." {
			return "", true
		}
		return "/" + strings.TrimPrefix(name, "./"), true
	}
	rel, ok := strings.CutPrefix(name, base)
	return rel, ok && (rel == "" || rel[0] == '/')
}

// copyTarget is where the first entry of an archive goes.
func copyTarget(root *os.File, name, base string) (string, error) {
	f, err := openIn(root, name, unix.O_PATH|unix.O_DIRECTORY, 0)
	switch {
	case err == nil:
		_ = f.Close()
		if base != "." {
			name += "/" + base
		}
	case errors.Is(err, unix.ENOENT) && strings.HasSuffix(name, "/") && base != ".":
		return "", &os.PathError{Op: "copy to", Path: name, Err: unix.ENOTDIR}
	case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR):
		return "", err
	case strings.HasSuffix(name, "/"):
		name = strings.TrimRight(name, "/")
	}
	return name, nil
}

// inRoot calls fn with the container's root directory, on a thread with the
// file system rights of the container's user.
func (c *Container) inRoot(ctx context.Context, fn func(root *os.File) error) error {
	c.mu.Lock()
	proc, user := c.proc, c.state.User
	ended := c.state.Exit != nil
	c.mu.Unlock()
	if proc == nil || ended || !c.Started() {
		return ErrGone
	}
	root, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", proc.pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	// Looked at after the opening: until then the pid was nobody else's.
	if exited, err := linux.PidfdExited(proc.pidfd); exited || err != nil {
		return ErrGone
	}
	done := make(chan error, 1)
	go func() {
		// Not unlocked: the thread ends with its rights.
		runtime.LockOSThread()
		err := user.onHost(c.s.state.FirstID).enterFS(c.s.r.singleID)
		if err == nil {
			err = fn(root)
		}
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
		done <- err
	}()
	return <-done
}

// onHost is who u is outside of a user namespace whose root is first. There even
// that has no rights over others' files: the node's would reach further than the
// container's.
func (u identity) onHost(first int64) identity {
	groups := make([]int, len(u.Groups))
	for i, g := range u.Groups {
		groups[i] = g + int(first)
	}
	return identity{UID: u.UID + int(first), GID: u.GID + int(first), Groups: groups}
}

// enterFS gives the calling thread the user's rights to files. With another
// user than root the kernel takes the capabilities away that override them
// (capabilities(7), "Effect of user ID changes").
func (u identity) enterFS(singleID bool) error {
	groups := make([]uint32, len(u.Groups))
	for i, g := range u.Groups {
		groups[i] = uint32(g)
	}
	// For this thread alone, unlike unix.Setgroups.
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	runtime.KeepAlive(groups)
	if errno != 0 && !singleID { // such a user namespace forbids it
		return os.NewSyscallError("setgroups", errno)
	}
	// They return what was before, whether they worked or not.
	const ask = -1
	_, _ = unix.SetfsgidRetGid(u.GID)
	_, _ = unix.SetfsuidRetUid(u.UID)
	gid, _ := unix.SetfsgidRetGid(ask)
	uid, _ := unix.SetfsuidRetUid(ask)
	if uid != u.UID || gid != u.GID {
		return fmt.Errorf("file system rights of user %d, group %d: got those of %d, %d", u.UID, u.GID, uid, gid)
	}
	return nil
}

// openIn opens name with every link on the way taken inside root. It does not
// wait for the other end of a FIFO.
func openIn(root *os.File, name string, flags int, mode fs.FileMode) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flags&unix.O_PATH == 0 {
		how.Flags |= unix.O_NONBLOCK | unix.O_NOCTTY // EINVAL with O_PATH
	}
	// EAGAIN: something on the way was renamed meanwhile, which a container can
	// do for ever.
	const tries = 100
	for try := 1; ; try++ {
		fd, err := unix.Openat2(int(root.Fd()), name, &how)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if err != unix.EINTR && (err != unix.EAGAIN || try == tries) {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

// packOpen writes f, and what is below it, as entries that begin with name. It
// closes f.
func packOpen(ctx context.Context, out *tar.Writer, f *os.File, name string) error {
	defer func() { _ = f.Close() }()
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	// Each directory on the way here is open. A container can make them deeper
	// than there are descriptors, but not by a name that a program can use.
	if len(name) >= unix.PathMax {
		return &os.PathError{Op: "copy", Path: name[:32] + "...", Err: unix.ENAMETOOLONG}
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime()}
	switch {
	case info.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		return packBelow(ctx, out, f, name)
	case info.Mode().IsRegular():
		return packFile(out, f, h, info.Size())
	}
	return &os.PathError{Op: "copy", Path: f.Name(), Err: errors.New("neither a file nor a directory")}
}

// packBelow writes what is in the directory dir.
func packBelow(ctx context.Context, out *tar.Writer, dir *os.File, name string) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, entry := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(int(dir.Fd()), entry, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			return &os.PathError{Op: "stat", Path: path.Join(dir.Name(), entry), Err: err}
		}
		h := &tar.Header{Name: name + "/" + entry, Mode: int64(st.Mode & 0o777), ModTime: time.Unix(st.Mtim.Unix())}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG, unix.S_IFDIR:
			// One name, and no link: what is opened is in dir.
			fd, err := unix.Openat(int(dir.Fd()), entry, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			if err != nil {
				return &os.PathError{Op: "open", Path: path.Join(dir.Name(), entry), Err: err}
			}
			if err := packOpen(ctx, out, os.NewFile(uintptr(fd), path.Join(dir.Name(), entry)), h.Name); err != nil {
				return err
			}
			continue
		case unix.S_IFLNK:
			to := make([]byte, unix.PathMax)
			n, err := unix.Readlinkat(int(dir.Fd()), entry, to)
			if err != nil {
				continue // it has just become something else
			}
			h.Typeflag, h.Linkname = tar.TypeSymlink, string(to[:n])
		case unix.S_IFIFO:
			h.Typeflag = tar.TypeFifo
		case unix.S_IFCHR:
			h.Typeflag = tar.TypeChar
		case unix.S_IFBLK:
			h.Typeflag = tar.TypeBlock
		default:
			continue // a socket
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
	}
	return nil
}

// packFile writes a regular file: as much of it as it is said to hold. A file
// that says it holds nothing may be one of /proc: of that, what it gives.
func packFile(out *tar.Writer, f *os.File, h *tar.Header, size int64) error {
	h.Typeflag, h.Size = tar.TypeReg, size
	var content io.Reader = f
	if size == 0 {
		const limit = 1 << 20
		b, err := io.ReadAll(io.LimitReader(f, limit))
		if err != nil {
			return err
		}
		h.Size, content = int64(len(b)), bytes.NewReader(b)
	}
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyN(out, content, h.Size)
	if errors.Is(err, io.EOF) {
		return &os.PathError{Op: "read", Path: f.Name(), Err: fmt.Errorf("it shrank to %d bytes while it was read", n)}
	}
	return err
}

// unpacker makes the entries of an archive in a container.
type unpacker struct {
	root *os.File
	o    CopyOptions
	made []madeDir // get their modes last: now they are to be written to
}

type madeDir struct {
	f *os.File
	h *tar.Header
}

func (u *unpacker) unpack(h *tar.Header, name string, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return u.directory(h, name)
	case tar.TypeReg:
		return u.file(h, name, content)
	case tar.TypeSymlink:
		return u.link(h, name)
	}
	return fmt.Errorf("archive: %q is neither a file, a directory nor a symbolic link", h.Name)
}

// parent opens the directory that name is in.
func (u *unpacker) parent(name string) (*os.File, string, error) {
	dir, base := path.Split(name)
	if dir == "" {
		dir = "/"
	}
	f, err := openIn(u.root, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	return f, base, err
}

func (u *unpacker) directory(h *tar.Header, name string) error {
	f, err := openIn(u.root, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == nil {
		return f.Close() // one that is there stays as it is
	}
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	parent, base, err := u.parent(name)
	if err != nil {
		return err
	}
	defer func() { _ = parent.Close() }()
	if err := unix.Mkdirat(int(parent.Fd()), base, 0o700); err != nil {
		return &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	fd, err := unix.Openat(int(parent.Fd()), base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	u.made = append(u.made, madeDir{os.NewFile(uintptr(fd), name), h})
	// A tree may be deeper than descriptors go: then a directory is finished
	// early, and may be written to as long as its owner may.
	const keep = 256
	if len(u.made) > keep {
		first := u.made[0]
		u.made = u.made[1:]
		return u.settle(first.f, first.h, 0o777, 0o700)
	}
	return nil
}

func (u *unpacker) file(h *tar.Header, name string, content io.Reader) error {
	f, err := openIn(u.root, name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "write", Path: name, Err: errors.New("not a regular file")}
	}
	if err == nil {
		_, err = io.Copy(f, content)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	return u.settle(f, h, 0o666, 0)
}

// settle gives f its mode and closes it. plain is the mode of a new
// one before the umask, least what its owner is to have.
func (u *unpacker) settle(f *os.File, h *tar.Header, plain, least fs.FileMode) error {
	const umask = 0o022
	if u.o.NoPreserve {
		return errors.Join(f.Chmod(plain&^umask), f.Close())
	}
	err := f.Chmod(fs.FileMode(h.Mode)&0o777 | least)
	if errors.Is(err, fs.ErrPermission) {
		err = nil // who may write a file of somebody else's cannot give it a mode
	}
	return errors.Join(err, f.Close())
}

func (u *unpacker) link(h *tar.Header, name string) error {
	parent, base, err := u.parent(name)
	if err != nil {
		return err
	}
	defer func() { _ = parent.Close() }()
	err = unix.Symlinkat(h.Linkname, int(parent.Fd()), base)
	if errors.Is(err, unix.EEXIST) {
		if err = unix.Unlinkat(int(parent.Fd()), base, 0); err == nil {
			err = unix.Symlinkat(h.Linkname, int(parent.Fd()), base)
		}
	}
	if err != nil {
		return &os.PathError{Op: "symlink", Path: name, Err: err}
	}
	return nil
}

// close closes what an error has left open.
func (u *unpacker) close() {
	for _, d := range u.made {
		_ = d.f.Close()
	}
}

// finish settles the directories, the inner ones first.
func (u *unpacker) finish() error {
	var errs []error
	for _, d := range slices.Backward(u.made) {
		errs = append(errs, u.settle(d.f, d.h, 0o777, 0))
	}
	u.made = nil
	return errors.Join(errs...)
}
