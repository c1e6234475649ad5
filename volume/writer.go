package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/fault"
)

// A projection lies on disk as Kubernetes has it, so that all of it changes at
// once for whoever reads it:
//
//	DIR/key -> ..data/key
//	DIR/..data -> ..2026_01_02_15_04_05.123456789
//	DIR/..2026_01_02_15_04_05.123456789/key
//
// A change writes a new directory, and renames a new link over ..data. Names
// that begin with two dots are the writer's: the API takes them from nobody.
const (
	dataLink    = "..data"
	dataLinkTmp = "..data_tmp"
)

// writeProjection makes dir show content and nothing else. Unchanged content
// is not written again. After a failure dir shows what it did; what a crash
// leaves the next call removes.
//
// Containers have dir read-only, but one that may mount can change that: links
// in it lead nowhere out of it (CVE-2025-9566 was that of podman).
func writeProjection(dir string, content files, own ownership) error {
	for path := range content {
		if err := checkPath(path); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	current, err := root.Readlink(dataLink)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	if current == "" || !shows(root, current, content) {
		fresh, err := writeFiles(root, content, own)
		if err != nil {
			return err
		}
		if err := fault.Point("volume.written"); err != nil {
			return err
		}
		if err := swapLink(root, fresh); err != nil {
			return err
		}
		current = fresh
	}
	if err := fault.Point("volume.swapped"); err != nil {
		return err
	}
	if err := linkNames(root, content); err != nil {
		return err
	}
	if err := removeOld(root, current); err != nil {
		return err
	}
	return own.changeTop(dir)
}

// checkPath refuses what would be written outside of the volume. Validation
// has done so before.
func checkPath(path string) error {
	if !filepath.IsLocal(path) || strings.HasPrefix(path, "..") || path == "." {
		return fmt.Errorf("path %q of a file leads out of the volume", path)
	}
	return nil
}

// shows tells whether the directory name has content in it and nothing else.
func shows(root *os.Root, name string, content files) bool {
	dir, err := root.OpenRoot(name)
	if err != nil {
		return false
	}
	defer func() { _ = dir.Close() }()
	found := 0
	err = fs.WalkDir(dir.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		want, ok := content[path]
		if !ok || !d.Type().IsRegular() {
			return fs.ErrExist
		}
		data, err := dir.ReadFile(path)
		if err == nil && !bytes.Equal(data, want.data) {
			err = fs.ErrExist
		}
		found++
		return err
	})
	return err == nil && found == len(content)
}

// writeFiles writes content into a new directory of root and returns its name.
func writeFiles(root *os.Root, content files, own ownership) (_ string, err error) {
	name := time.Now().UTC().Format("..2006_01_02_15_04_05.000000000")
	if err := root.Mkdir(name, 0o755); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.RemoveAll(name))
		}
	}()
	fresh, err := root.OpenRoot(name)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, fresh.Close()) }()
	if err := fresh.Chmod(".", 0o755); err != nil { // the umask took bits away
		return "", err
	}
	for path, f := range content {
		if err := mkdirAll(fresh, filepath.Dir(path)); err != nil {
			return "", err
		}
		if err := writeFile(fresh, path, f); err != nil {
			return "", err
		}
	}
	return name, own.apply(filepath.Join(root.Name(), name))
}

// writeFile makes one file, with its mode whatever the umask is.
func writeFile(dir *os.Root, path string, f file) error {
	out, err := dir.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(f.data)
	if err == nil {
		// Not File.Chmod, which has other bits for set-user-ID and its like.
		err = chmod(out, f.mode)
	}
	return errors.Join(err, out.Close())
}

func chmod(f *os.File, mode uint32) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := conn.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), mode) }); cerr != nil {
		return cerr
	}
	if err != nil {
		return &os.PathError{Op: "chmod", Path: f.Name(), Err: err}
	}
	return nil
}

// mkdirAll makes the directories of path, with mode 0755 whatever the umask is.
func mkdirAll(root *os.Root, path string) error {
	for dir := range ancestors(path) {
		if err := root.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return err
		}
		if err := root.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// ancestors yields a, a/b and a/b/c of path a/b/c.
func ancestors(path string) func(func(string) bool) {
	return func(yield func(string) bool) {
		if path == "." || path == "" {
			return
		}
		for i, c := range path {
			if c == '/' && !yield(path[:i]) {
				return
			}
		}
		yield(path)
	}
}

// swapLink makes ..data lead to the directory name.
func swapLink(root *os.Root, name string) error {
	if err := root.RemoveAll(dataLinkTmp); err != nil {
		return err
	}
	if err := root.Symlink(name, dataLinkTmp); err != nil {
		return err
	}
	return root.Rename(dataLinkTmp, dataLink)
}

// linkNames gives each name at the top of content a link through ..data.
func linkNames(root *os.Root, content files) error {
	tops := map[string]bool{}
	for path := range content {
		top, _, _ := strings.Cut(path, "/")
		tops[top] = true
		err := root.Symlink(filepath.Join(dataLink, top), top)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	// Links to what is no more there.
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		// A directory is one that a subPath asked for.
		if e.Type() == fs.ModeSymlink && !tops[e.Name()] && e.Name() != dataLink {
			if err := root.Remove(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeOld removes the directories of earlier contents.
func removeOld(root *os.Root, current string) error {
	old, err := fs.Glob(root.FS(), "..[0-9]*")
	if err != nil {
		return err
	}
	for _, name := range old {
		if name == current {
			continue
		}
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

// changeTop gives the directory itself and its links to the group; what they
// lead to was given before it was shown.
func (o ownership) changeTop(dir string) error {
	if o.group < 0 || o.satisfied(dir) {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type() == fs.ModeSymlink {
			if err := o.change(int(f.Fd()), e.Name()); err != nil {
				return err
			}
		}
	}
	return o.change(int(f.Fd()), ".")
}
