package cni

import (
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// doorway makes sockets in the network namespaces of pods for goroutines that
// have no thread of their own. A socket is of the namespace of the thread that
// made it, whoever uses it later: one thread goes in and out for all. It rests in the pod network, since a thread that stayed
// in a pod would hold its namespace for ever, and, rootless, none that left the
// host's comes back there.
type doorway struct {
	home     int // the pod network
	start    sync.Once
	end      sync.Once
	requests chan socketRequest
}

type socketRequest struct {
	netns        int
	domain, kind int
	answer       chan<- socketAnswer
}

type socketAnswer struct {
	fd  int
	err error
}

func newDoorway(home uintptr) *doorway {
	return &doorway{home: int(home), requests: make(chan socketRequest)}
}

// socket makes a non-blocking socket in netns. Safe for concurrent use, not
// after close.
func (d *doorway) socket(netns *os.File, domain, kind int) (fd int, err error) {
	d.start.Do(func() { go d.run() })
	answer := make(chan socketAnswer, 1)
	d.requests <- socketRequest{int(netns.Fd()), domain, kind, answer}
	a := <-answer
	runtime.KeepAlive(netns)
	return a.fd, a.err
}

// close ends the thread. It may be called again.
func (d *doorway) close() { d.end.Do(func() { close(d.requests) }) }

func (d *doorway) run() {
	runtime.LockOSThread() // and never unlocked: the thread ends with this
	for r := range d.requests {
		fd, err, lost := socketIn(r.netns, d.home, r.domain, r.kind)
		r.answer <- socketAnswer{fd, err}
		if lost != nil {
			go d.run() // another thread, which is still in the host's
			return
		}
	}
}

// socketIn makes a non-blocking socket in the network namespace netns and goes
// home to another. The goroutine has to have its thread for itself. lost tells
// why the thread could not go home.
func socketIn(netns, home, domain, kind int) (fd int, err, lost error) {
	fd, err = -1, os.NewSyscallError("setns", unix.Setns(netns, unix.CLONE_NEWNET))
	if err == nil {
		fd, err = unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		err = os.NewSyscallError("socket", err)
	}
	return fd, err, os.NewSyscallError("setns", unix.Setns(home, unix.CLONE_NEWNET))
}
