package sandbox

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// holder keeps descriptors when nobody outside does.
type holder struct {
	mu    sync.Mutex
	files map[string]*os.File
}

func (h *holder) keep(key string, f *os.File) error {
	dup, err := duplicate(f)
	if err != nil {
		return err
	}
	h.drop(key)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files[key] = dup
	return nil
}

func (h *holder) get(key string) (*os.File, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f, ok := h.files[key]
	if !ok {
		return nil, false
	}
	dup, err := duplicate(f)
	return dup, err == nil
}

func (h *holder) drop(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f, ok := h.files[key]; ok {
		_ = f.Close()
		delete(h.files, key)
	}
}

func (h *holder) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, f := range h.files {
		_ = f.Close()
		delete(h.files, key)
	}
}

// duplicate returns another descriptor of the same open file.
func duplicate(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var dup int
	var derr error
	if err := conn.Control(func(fd uintptr) {
		dup, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
	}); err != nil {
		return nil, err
	}
	if derr != nil {
		return nil, os.NewSyscallError("fcntl(F_DUPFD_CLOEXEC)", derr)
	}
	return os.NewFile(uintptr(dup), f.Name()), nil
}
