package node

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// A node that dies over a request that only reads, or that it has not read, is
// asked again in its next life, and not for ever; one that may have acted is not
// asked again.
func TestAskedAgain(t *testing.T) {
	for _, tt := range []struct {
		name   string
		method string
		unread bool  // it dies before it has read the request
		deaths int32 // of the node over the first requests
		asked  int32
		fails  bool
	}{
		{"read", http.MethodGet, false, 0, 1, false},
		{"read, one death", http.MethodGet, false, 1, 2, false},
		{"read, a death each time", http.MethodGet, false, 100, maxTries, true},
		{"write", http.MethodPost, false, 0, 1, false},
		{"write, one death", http.MethodPost, false, 1, 1, true},
		{"unread write, one death", http.MethodPost, true, 1, 2, false},
		{"unread write, a death each time", http.MethodPost, true, 100, maxTries, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			paths := Paths{Socket: filepath.Join(t.TempDir(), "sock")}
			l, err := net.Listen("unix", paths.Socket)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			var asked atomic.Int32
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					if n := asked.Load(); tt.unread && n < tt.deaths {
						asked.Store(n + 1)
					} else if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil && asked.Add(1) > tt.deaths {
						_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"))
					}
					_ = conn.Close()
				}
			}()
			c := &Client{paths: paths, idle: make(chan *clientConn, 1)}
			defer func() { _ = c.Close() }()
			err = c.call(t.Context(), tt.method, "/", nil, nil, nil)
			var interrupted *InterruptedError
			if (err != nil) != tt.fails || tt.fails && !errors.As(err, &interrupted) || asked.Load() != tt.asked {
				t.Errorf("asked %d times, error %v; want %d times, failure %v", asked.Load(), err, tt.asked, tt.fails)
			}
		})
	}
}
