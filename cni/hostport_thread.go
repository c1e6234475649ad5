package cni

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/eventloop"
	"get.podrun.dev/podrun/internal/relay"
)

const (
	// maxPortThreads is how many processors host ports use at most, and never
	// more than half of them: clients and servers want some as well.
	maxPortThreads = 4
	// fewConnections are no reason to pass one on to another thread, which would
	// have to be woken for it.
	fewConnections = 4
)

// portThreads are the threads that carry the TCP connections of all host ports.
// They come with the first host port, and rest in the pod network: one goes into
// a pod's network namespace for as long as it makes a socket there. A thread
// that stayed would hold the namespace for ever, and, rootless, none that left
// the host's comes back there.
type portThreads struct {
	home uintptr // the pod network
	most int
	log  *slog.Logger

	mu     sync.Mutex
	all    []*portThread
	closed bool
}

// portThread is one of them: a loop whose goroutine has the thread for itself.
// Its connections are that goroutine's alone.
type portThread struct {
	of     *portThreads
	loop   *eventloop.Loop
	pipes  relay.Pipes
	open   map[*inward]bool
	load   atomic.Int32 // connections that it has, or is about to have
	closed bool
}

func (p *portThreads) init(home uintptr, log *slog.Logger) {
	p.home, p.log = home, log
	p.most = max(1, min(runtime.GOMAXPROCS(0)/2, maxPortThreads))
}

// first is the thread that takes connections.
func (p *portThreads) first() (*portThread, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.all) > 0 {
		return p.all[0], nil
	}
	return p.add()
}

// add starts one more thread. It is called with mu.
func (p *portThreads) add() (*portThread, error) {
	if p.closed {
		return nil, os.ErrClosed
	}
	loop, err := eventloop.New()
	if err != nil {
		return nil, err
	}
	entered := make(chan error)
	loop.Do(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the loop
		entered <- os.NewSyscallError("setns", unix.Setns(int(p.home), unix.CLONE_NEWNET))
	})
	if err := <-entered; err != nil {
		loop.Close()
		return nil, fmt.Errorf("enter the pod network: %w", err)
	}
	t := &portThread{of: p, loop: loop, open: map[*inward]bool{}}
	p.all = append(p.all, t)
	return t, nil
}

// place chooses the thread for a connection that own has taken: own, or the one
// with the fewest when it has more than a few.
func (p *portThreads) place(own *portThread) *portThread {
	least := own.load.Load()
	if least <= fewConnections {
		return own
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	to := own
	for _, t := range p.all {
		if n := t.load.Load(); n < least {
			to, least = t, n
		}
	}
	if least > fewConnections && len(p.all) < p.most && !p.closed {
		t, err := p.add()
		if err == nil {
			return t
		}
		p.log.Warn("start a thread for host ports", "err", err)
	}
	return to
}

// close ends the threads, and connections that are there yet.
func (p *portThreads) close() {
	p.mu.Lock()
	p.closed = true
	all := p.all
	p.mu.Unlock() // they may want it to come to their end
	for _, t := range all {
		t.loop.Do(t.end)
		t.loop.Close()
	}
}

func (t *portThread) end() {
	t.closed = true
	for c := range t.open {
		c.close()
	}
}

// socket makes a non-blocking socket in netns. It is for the loop's goroutine.
func (t *portThread) socket(netns *os.File, domain, kind int) (int, error) {
	fd, err, lost := socketIn(int(netns.Fd()), int(t.of.home), domain, kind)
	if lost != nil {
		t.of.log.Error("a thread for host ports cannot leave a pod", "err", lost)
	}
	return fd, err
}
