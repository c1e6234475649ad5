package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// room is what a commit that leaves room leaves free in the store's file: some
// hundred small commits, for pages that change are written elsewhere first, and
// what they were is free afterwards.
const room = 1 << 20

// LeaveRoom has the commit fail, as on a full disk, unless it leaves room for
// commits without it: those that delete, and that write down what has happened.
// On a file system that cannot set room aside it does nothing.
func (t *Tx) LeaveRoom() { t.leaves = true }

// makeRoom sets aside what the commit takes, and room.
func (t *Tx) makeRoom(path string) error {
	var size int64
	for _, e := range t.events {
		size += int64(len(e.Object.Value))
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	// Values are written twice, for objects and as JSON for watchers, and with
	// them pages of trees. KEEP_SIZE: bbolt minds how large its file is.
	err = unix.EINTR // from tmpfs when a signal comes
	for err == unix.EINTR {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, t.tx.Size(), 3*size+2*room)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return os.NewSyscallError("fallocate", err)
}
