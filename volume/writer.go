package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
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
func writeProjection(dir string, content files, own ownership) error {
	for path := range content {
		if err := checkPath(path); err != nil {
			return err
		}
	}
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if current == "" || !shows(filepath.Join(dir, current), content) {
		fresh, err := writeFiles(dir, content, own)
		if err != nil {
			return err
		}
		if err := fault.Point("volume.written"); err != nil {
			return err
		}
		if err := swapLink(dir, fresh); err != nil {
			return err
		}
		current = fresh
	}
	if err := fault.Point("volume.swapped"); err != nil {
		return err
	}
	if err := linkNames(dir, content); err != nil {
		return err
	}
	if err := removeOld(dir, current); err != nil {
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

// shows tells whether dir has content in it and nothing else.
func shows(dir string, content files) bool {
	found := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, ok := content[name]
		if !ok {
			return fs.ErrExist
		}
		data, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(data, want.data) {
			err = fs.ErrExist
		}
		found++
		return err
	})
	return err == nil && found == len(content)
}

// writeFiles writes content into a new directory of dir and returns its name.
func writeFiles(dir string, content files, own ownership) (string, error) {
	name := time.Now().UTC().Format("..2006_01_02_15_04_05.000000000")
	fresh := filepath.Join(dir, name)
	if err := os.Mkdir(fresh, 0o755); err != nil {
		return "", err
	}
	fail := func(err error) (string, error) { return "", errors.Join(err, os.RemoveAll(fresh)) }
	if err := os.Chmod(fresh, 0o755); err != nil { // the umask took bits away
		return fail(err)
	}
	for path, f := range content {
		to := filepath.Join(fresh, path)
		if err := mkdirAll(fresh, filepath.Dir(path)); err != nil {
			return fail(err)
		}
		if err := os.WriteFile(to, f.data, 0o600); err != nil {
			return fail(err)
		}
		if err := unix.Chmod(to, f.mode); err != nil {
			return fail(&os.PathError{Op: "chmod", Path: to, Err: err})
		}
	}
	if err := own.apply(fresh); err != nil {
		return fail(err)
	}
	return name, nil
}

// mkdirAll makes the directories of path below root, with mode 0755 whatever
// the umask is.
func mkdirAll(root, path string) error {
	for dir := range ancestors(path) {
		dir = filepath.Join(root, dir)
		if err := os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o755); err != nil {
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
func swapLink(dir, name string) error {
	tmp := filepath.Join(dir, dataLinkTmp)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(name, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, dataLink))
}

// linkNames gives each name at the top of content a link through ..data.
func linkNames(dir string, content files) error {
	for path := range content {
		top, _, _ := strings.Cut(path, "/")
		err := os.Symlink(filepath.Join(dataLink, top), filepath.Join(dir, top))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	// Links to what is no more there.
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	tops := map[string]bool{}
	for path := range maps.Keys(content) {
		top, _, _ := strings.Cut(path, "/")
		tops[top] = true
	}
	for _, e := range entries {
		// A directory is one that a subPath asked for.
		if e.Type() == fs.ModeSymlink && !tops[e.Name()] && e.Name() != dataLink {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeOld removes the directories of earlier contents.
func removeOld(dir, current string) error {
	old, err := filepath.Glob(filepath.Join(dir, "..[0-9]*"))
	if err != nil {
		return err
	}
	old = slices.DeleteFunc(old, func(path string) bool { return filepath.Base(path) == current })
	for _, path := range old {
		if err := os.RemoveAll(path); err != nil {
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
