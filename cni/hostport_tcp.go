package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/relay"
)

const (
	// hostPortBacklog is how many connections wait to be taken, for as long as
	// no node runs too. The kernel's net.core.somaxconn may make it less.
	hostPortBacklog = 4096
	// maxHostPortConnections is how many connections of one port are open at
	// once; more of them wait in the backlog.
	maxHostPortConnections = 4096
	// podDialTimeout is how long a server in a pod has to take a connection.
	podDialTimeout = 15 * time.Second
)

// tcpPort is one listening socket.
type tcpPort struct {
	h        *HostPorts
	port     HostPort
	thread   *portThread // that takes connections
	acceptor acceptor
	wait     sync.WaitGroup // for connections

	mu     sync.Mutex
	open   map[*inward]bool
	closed bool
	full   bool // as many are open as may be
}

// listenTCP begins to take connections. To do it again is no error.
func (h *HostPorts) listenTCP(s hostSocket) (*tcpPort, error) {
	failed := func(err error) (*tcpPort, error) { return nil, fmt.Errorf("host port %s: %w", s.port, err) }
	thread, err := h.n.ports.first()
	if err != nil {
		return failed(err)
	}
	raw, err := s.file.SyscallConn()
	if err != nil {
		return failed(err)
	}
	fd := -1
	outer := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(outer, os.NewSyscallError("dup", err)); err != nil {
		return failed(err)
	}
	setKeepAlive(fd)
	// Not net.Listen, which would bind it too.
	if err := unix.Listen(fd, hostPortBacklog); err != nil {
		_ = unix.Close(fd)
		return nil, explainBind(s.port, s.addr, os.NewSyscallError("listen", err))
	}
	t := &tcpPort{h: h, port: s.port, thread: thread, open: map[*inward]bool{}}
	t.acceptor = acceptor{loop: thread.loop, log: h.n.log, fd: fd, at: "host port " + s.port.String(), accepted: t.accepted, full: t.isFull}
	if err = os.NewSyscallError("fcntl", unix.SetNonblock(fd, true)); err == nil {
		err = t.acceptor.begin()
	}
	if err != nil {
		return failed(errors.Join(err, unix.Close(fd)))
	}
	return t, nil
}

// isFull tells whether no more connections are to be taken for now.
func (t *tcpPort) isFull() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.full = len(t.open) >= maxHostPortConnections
	return t.full
}

// accepted is called on the goroutine of the port's own thread.
func (t *tcpPort) accepted(client int, from netip.AddrPort) {
	c := &inward{t: t, thread: t.h.n.ports.place(t.thread), from: from, client: client, server: -1}
	t.mu.Lock()
	t.open[c] = true
	t.wait.Add(1)
	t.mu.Unlock()
	c.thread.load.Add(1)
	if c.thread == t.thread {
		c.begin()
	} else if !c.thread.loop.Do(c.begin) {
		_ = unix.Close(client)
		c.thread.load.Add(-1)
		t.forget(c)
	}
}

// forget is for a connection that has ended.
func (t *tcpPort) forget(c *inward) {
	t.mu.Lock()
	delete(t.open, c)
	again := t.full && !t.closed
	t.full = false
	t.mu.Unlock()
	if again {
		t.thread.loop.Do(t.acceptor.goOn)
	}
	t.wait.Done()
}

// close ends this process's part and returns when all connections have ended.
func (t *tcpPort) close() {
	ended := make(chan struct{})
	if t.thread.loop.Do(func() { t.acceptor.end(); close(ended) }) {
		<-ended
	} else {
		t.thread.loop.Close() // waits: the goroutine was told to end
		t.acceptor.end()
	}
	t.mu.Lock()
	t.closed = true
	var open []*inward
	for c := range t.open {
		open = append(open, c)
	}
	t.mu.Unlock()
	for _, c := range open {
		c.thread.loop.Do(c.close) // else it was closed with its thread
	}
	t.wait.Wait()
}

// inward is one connection to a host port: from the client's socket to the one
// that leads to the pod's server. Its methods are for its thread's goroutine.
type inward struct {
	t      *tcpPort
	thread *portThread
	from   netip.AddrPort
	client int // sockets; -1 when they are not there yet, or not ours any more
	server int
	routes []route     // to the server, those that were not tried
	expire *time.Timer // of an attempt that takes its time
	pair   *relay.Pair // when they are joined
	ended  bool
}

func (c *inward) begin() {
	if c.ended {
		return
	}
	if c.thread.closed {
		c.close()
		return
	}
	c.thread.open[c] = true
	c.routes = c.t.h.passage.Load().routes(c.from, c.t.port.PodPort)
	c.connect()
}

// connect tries the routes that are left, for as long as the server is not at
// their ends.
func (c *inward) connect() {
	netns, err := c.t.h.passage.Load().NetNS()
	if err != nil {
		c.refuse(err)
		return
	}
	defer func() { _ = netns.Close() }()
	for len(c.routes) > 0 {
		to := c.routes[0]
		c.routes = c.routes[1:]
		var there bool
		c.server, there, err = c.thread.dial(netns, to)
		switch {
		case err == nil && there:
			c.join()
			return
		case err == nil:
			c.await()
			return
		case !errors.Is(err, unix.ECONNREFUSED):
			c.refuse(err)
			return
		}
	}
	c.refuse(err)
}

// refuse ends a connection that the server does not take. The client is reset,
// which is as near to a refusal as there is by now.
func (c *inward) refuse(err error) {
	c.t.h.n.log.Debug("connect a host port", "port", c.t.port.String(), "err", err)
	relay.Reset(c.client)
	c.close()
}

// await is for a server that takes its time.
func (c *inward) await() {
	if c.expire == nil {
		c.expire = time.AfterFunc(podDialTimeout, func() { c.thread.loop.Do(c.giveUp) })
	}
	if err := c.thread.loop.Add(c.server, unix.EPOLLOUT, c); err != nil {
		c.refuse(err)
	}
}

// giveUp is for a server that took too long.
func (c *inward) giveUp() {
	if !c.ended && c.pair == nil {
		c.refuse(unix.ETIMEDOUT)
	}
}

// Ready is called when the server has said something.
func (c *inward) Ready(uint32) {
	there, err := connected(c.server)
	if !there && err == nil {
		return
	}
	c.thread.loop.Remove(c.server)
	if err == nil {
		c.join()
		return
	}
	_ = unix.Close(c.server)
	c.server = -1
	if errors.Is(err, unix.ECONNREFUSED) && len(c.routes) > 0 {
		c.connect()
	} else {
		c.refuse(os.NewSyscallError("connect", err))
	}
}

func (c *inward) join() {
	if c.expire != nil {
		c.expire.Stop()
	}
	client, server := c.client, c.server
	c.client, c.server = -1, -1
	var err error
	if c.pair, err = relay.Splice(c.thread.loop, &c.thread.pipes, client, server, c.end); err != nil {
		c.t.h.n.log.Warn("join a host port's connection", "port", c.t.port.String(), "err", err)
		c.end()
	}
}

// close ends the connection, whatever its state. It may be called again.
func (c *inward) close() {
	if c.ended {
		return
	}
	if c.pair != nil {
		c.pair.Close()
		return
	}
	if c.expire != nil {
		c.expire.Stop()
	}
	if c.server >= 0 {
		c.thread.loop.Remove(c.server)
		_ = unix.Close(c.server)
	}
	if c.client >= 0 {
		_ = unix.Close(c.client)
	}
	c.end()
}

func (c *inward) end() {
	c.ended = true
	delete(c.thread.open, c)
	c.thread.load.Add(-1)
	c.t.forget(c)
}
