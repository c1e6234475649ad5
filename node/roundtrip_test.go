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

// A node that dies over a request that only reads is asked again in its next
// life, and not for ever; one that may have acted is not asked again.
func TestReadsAreAskedAgain(t *testing.T) {
	for _, tt := range []struct {
		name   string
		method string
		deaths int32 // of the node over the first requests
		asked  int32
		fails  bool
	}{
		{"read", http.MethodGet, 0, 1, false},
		{"read, one death", http.MethodGet, 1, 2, false},
		{"read, a death each time", http.MethodGet, 100, maxReads, true},
		{"write", http.MethodPost, 0, 1, false},
		{"write, one death", http.MethodPost, 1, 1, true},
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
					if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil && asked.Add(1) > tt.deaths {
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
