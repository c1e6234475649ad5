package node

import (
	"net"
	"net/http"
	"sync"
)

// gauge counts the open connections of a server. changed has one slot and is
// filled after each change. Safe for concurrent use.
type gauge struct {
	changed chan struct{}
	mu      sync.Mutex
	n       int
}

func newGauge() *gauge { return &gauge{changed: make(chan struct{}, 1)} }

// count is an http.Server's ConnState hook.
func (g *gauge) count(_ net.Conn, s http.ConnState) {
	g.mu.Lock()
	switch s {
	case http.StateNew:
		g.n++
	case http.StateClosed, http.StateHijacked:
		g.n--
	}
	g.mu.Unlock()
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

func (g *gauge) open() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n
}
