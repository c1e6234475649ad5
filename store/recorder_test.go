package store_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/trap"
)

// A step is a system call by which a program changed files, or had them written
// to disk.
type step struct {
	call   int // its number
	file   uint64
	offset int64
	data   []byte // of a write
	path   string // that the file had, or has from now on
}

// recorded are the system calls that a store changes its files by.
var recorded = []int{unix.SYS_PWRITE64, unix.SYS_FTRUNCATE, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_LINKAT, unix.SYS_UNLINKAT}

// record runs command to its end and returns its steps, before the kernel takes
// them: what a disk that loses its power may have seen. Those that fail is true of
// are not made, as a bad disk has it.
func record(t *testing.T, command *exec.Cmd, fail func(step) bool) []step {
	t.Helper()
	var steps []step
	err := trap.Run(command, recorded, func(c trap.Call) (unix.Errno, error) {
		s, err := stepOf(c)
		if err == nil && fail(s) {
			return unix.EIO, nil
		}
		steps = append(steps, s)
		return 0, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

func stepOf(c trap.Call) (s step, err error) {
	s.call = c.Number
	switch s.call {
	case unix.SYS_LINKAT:
		var from string
		if from, err = c.Text(c.Args[1]); err == nil {
			s.file = inode(from)
			s.path, err = c.Text(c.Args[3])
		}
		return s, err
	case unix.SYS_UNLINKAT:
		s.path, err = c.Text(c.Args[1])
		return s, err
	}
	s.file = inode(c.File(0))
	if s.path, err = os.Readlink(c.File(0)); err != nil {
		return s, err
	}
	switch s.call {
	case unix.SYS_PWRITE64:
		s.offset = int64(c.Args[3])
		s.data, err = c.Read(c.Args[1], int(c.Args[2]))
	case unix.SYS_FTRUNCATE:
		s.offset = int64(c.Args[1])
	}
	return s, err
}

func inode(path string) uint64 {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// A disk is a directory as a power cut left it.
type disk struct {
	files map[uint64][]byte // by inode
	names map[string]uint64
}

// sector is what a disk writes whole or not at all.
const sector = 512

// cut is the disk when the power goes before step n. What was flushed is there;
// of the rest, in any order, what kept says: it is asked for each name, each
// change of a file's size and each sector.
func cut(steps []step, n int, kept func() bool) disk {
	d := disk{files: map[uint64][]byte{}, names: map[string]uint64{}}
	var waiting []step
	flush := func(of func(step) bool, kept func() bool) {
		waiting = slices.DeleteFunc(waiting, func(s step) bool {
			flushed := of(s)
			if flushed {
				d.apply(s, kept)
			}
			return flushed
		})
	}
	named := map[uint64]bool{}
	for _, s := range steps[:n] {
		switch {
		case s.isFlush():
			flush(func(w step) bool {
				if w.isName() {
					return filepath.Dir(w.path) == s.path
				}
				return w.file == s.file
			}, func() bool { return true })
			continue
		case s.call == unix.SYS_PWRITE64:
			if !named[s.file] { // by its creation
				waiting = append(waiting, step{call: unix.SYS_LINKAT, file: s.file, path: s.path})
			}
			named[s.file] = true
		}
		waiting = append(waiting, s)
	}
	flush(func(step) bool { return true }, kept)
	return d
}

func (s step) isFlush() bool { return s.call == unix.SYS_FSYNC || s.call == unix.SYS_FDATASYNC }

func (s step) isName() bool { return s.call == unix.SYS_LINKAT || s.call == unix.SYS_UNLINKAT }

// apply makes the parts of a step that are kept.
func (d disk) apply(s step, kept func() bool) {
	switch s.call {
	case unix.SYS_PWRITE64:
		for at := 0; at < len(s.data); at += sector {
			if kept() {
				piece := s.data[at:min(at+sector, len(s.data))]
				d.resize(s.file, max(len(d.files[s.file]), int(s.offset)+at+len(piece)))
				copy(d.files[s.file][int(s.offset)+at:], piece)
			}
		}
	case unix.SYS_FTRUNCATE:
		if kept() {
			d.resize(s.file, int(s.offset))
		}
	case unix.SYS_LINKAT:
		if kept() {
			d.names[s.path] = s.file
		}
	case unix.SYS_UNLINKAT:
		if kept() {
			delete(d.names, s.path)
		}
	}
}

func (d disk) resize(file uint64, size int) {
	have := d.files[file]
	if size <= len(have) {
		d.files[file] = have[:size]
		return
	}
	d.files[file] = append(have, make([]byte, size-len(have))...)
}

// write puts the disk's files below dir, where the recorded program had them
// below its own.
func (d disk) write(t *testing.T, from, dir string) {
	t.Helper()
	for path, file := range d.names {
		rel, err := filepath.Rel(from, path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, rel), d.files[file], 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
