package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// unnamedFile is a file that gets its name when it is whole. Until then it has none
// if the file system can do that (O_TMPFILE, open(2)), so that even kill -9
// leaves nothing; else one that begins with a dot.
type unnamedFile struct {
	*os.File
	path  string
	named bool // it has the name that os.File tells
}

// newFile begins the file path, which may be there: it is replaced by commit.
// One of commit and abort must be called.
func newFile(path string) (*unnamedFile, error) {
	dir := filepath.Dir(path)
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_WRONLY, 0o600)
	if err == nil {
		return &unnamedFile{f, path, false}, nil
	}
	f, err = os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	return &unnamedFile{f, path, true}, err
}

// abort drops the file.
func (f *unnamedFile) abort() error {
	if !f.named {
		return f.Close()
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// commit closes the file and gives it its name.
func (f *unnamedFile) commit() error {
	if f.named {
		err := f.Close()
		if err == nil {
			err = os.Rename(f.Name(), f.path)
		}
		if err != nil {
			return errors.Join(err, os.Remove(f.Name()))
		}
		return nil
	}
	self := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	link := func(path string) error {
		err := unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
		if err != nil {
			return &os.PathError{Op: "link", Path: path, Err: err}
		}
		return nil
	}
	err := link(f.path)
	if errors.Is(err, os.ErrExist) { // a link replaces nothing, a rename does
		temporary := fmt.Sprintf("%s/.%s.%d", filepath.Dir(f.path), filepath.Base(f.path), os.Getpid())
		if err = link(temporary); err == nil {
			if err = os.Rename(temporary, f.path); err != nil {
				err = errors.Join(err, os.Remove(temporary))
			}
		}
	}
	return errors.Join(err, f.Close())
}
