package linux

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// SyncFS writes everything that the kernel holds in memory of the file system
// that dir is on to disk. It returns when it is there. The error is an
// *os.PathError.
func SyncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return errors.Join(&os.PathError{Op: "syncfs", Path: dir, Err: err}, d.Close())
	}
	return d.Close()
}

// BootID is the kernel's name for the time since the machine was started
// (random(4)).
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return string(data[:max(0, len(data)-1)]), nil
}
