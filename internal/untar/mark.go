package untar

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Marks of a layer for what it removes from those below it
// (https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts).
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueMark     = ".wh..wh..opq"
)

// mark turns a layer's mark into overlay's
// (https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories).
// A mark is about lower layers only: what this one has under the name stays,
// whether it comes before or after.
func (u *unpacker) mark(at *node, base string) error {
	if base == opaqueMark {
		return u.seal(at)
	}
	if strings.HasPrefix(base, metaPrefix) { // AUFS kept its own things there
		u.lost.marks++
		return nil
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return errors.New("it marks nothing as removed")
	}
	if d := at.children[name]; d != nil {
		return u.seal(d)
	}
	fd, err := u.fd(at)
	if err != nil {
		return err
	}
	// Device 0:0 may be made without CAP_MKNOD (Linux 5.8).
	err = ignoringEINTR(func() error { return unix.Mknodat(fd, name, unix.S_IFCHR, 0) })
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mark it as removed: %w", err)
	}
	at.whiteouts = append(at.whiteouts, name)
	return nil
}

// OpaqueXattr is the attribute of a directory that hides what lower layers
// have there.
func OpaqueXattr(rootless bool) string {
	if rootless {
		return "user.overlay.opaque" // with the mount option userxattr
	}
	return "trusted.overlay.opaque"
}

// seal hides what lower layers have in a directory.
func (u *unpacker) seal(n *node) error {
	fd, err := u.fd(n)
	if err != nil {
		return err
	}
	n.opaque = true
	if err := unix.Fsetxattr(fd, OpaqueXattr(u.o.Rootless), []byte("y"), 0); err != nil {
		return fmt.Errorf("mark it as opaque: %w", os.NewSyscallError("setxattr", err))
	}
	return nil
}

// isWhiteout tells whether name is overlay's mark of a removed file.
func isWhiteout(fd int, name string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0, nil
}
