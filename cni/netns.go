package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strconv"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// openNamespace opens the network namespace that is pinned at path, or makes
// one and pins it: a bind mount of it keeps it without a process in it.
func openNamespace(path string) (ns.NetNS, error) {
	n, err := ns.GetNS(path)
	if err == nil {
		return n, nil
	}
	var notYet ns.NSPathNotExistErr
	var notPinned ns.NSPathNotNSErr // the file is there, the mount went with its mount namespace
	if !errors.As(err, &notYet) && !errors.As(err, &notPinned) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	if err := inNewNamespace(func() error {
		own := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		if err := unix.Mount(own, path, "", unix.MS_BIND, ""); err != nil {
			return &os.PathError{Op: "mount network namespace", Path: path, Err: err}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	return ns.GetNS(path)
}

// inNewNamespace calls fn on a thread in a network namespace of its own.
func inNewNamespace(fn func() error) error {
	return onThread(func() error { return os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET)) }, fn)
}

// inNamespace calls fn on a thread in the network namespace fd.
func inNamespace(fd uintptr, fn func() error) error {
	return onThread(func() error { return os.NewSyscallError("setns", unix.Setns(int(fd), unix.CLONE_NEWNET)) }, fn)
}

// onThread calls enter and then fn on a thread that ends with them: it is never
// unlocked.
func onThread(enter, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := enter()
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	return <-done
}

// DialPod connects to a port of a pod from inside its network namespace, so
// that a server which listens on loopback only is reached too. IPv4 is tried
// first, as container runtimes do it. nil stands for the host's namespace.
func DialPod(ctx context.Context, netns *os.File, port uint16) (conn *net.TCPConn, err error) {
	dial := func() error {
		var d net.Dialer
		var errs []error
		for _, host := range []string{"127.0.0.1", "::1"} {
			// An address without a name: nothing is looked up in the pod.
			c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
			if err == nil {
				conn = c.(*net.TCPConn)
				return nil
			}
			errs = append(errs, err)
		}
		return errs[0]
	}
	if netns == nil {
		err = dial()
	} else {
		err = inNamespace(netns.Fd(), dial)
	}
	return conn, err
}
