package image

import (
	"net"
	"strings"
	"testing"
)

// TestDialsNotThisMachine: a registry elsewhere leads to no server of this
// machine, by whatever name or address; one that is this machine is reached.
func TestDialsNotThisMachine(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NO_PROXY", "*")
	for _, host := range []string{"localhost", "127.0.0.1", "127.1.2.3", "::ffff:127.0.0.1", "0.0.0.0", "169.254.169.254"} {
		c, err := newDial("registry.example")(t.Context(), "tcp", net.JoinHostPort(host, port))
		if err == nil {
			_ = c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "which is not its to give") {
			t.Errorf("%s: got %v", host, err)
		}
	}
	for _, registry := range []string{"localhost:" + port, "127.0.0.1:" + port} {
		c, err := newDial(registry)(t.Context(), "tcp", registry)
		if err != nil {
			t.Errorf("%s: %v", registry, err)
			continue
		}
		_ = c.Close()
	}
}

// TestDialsTheProxy: the user's own proxy may be on this machine.
func TestDialsTheProxy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dial := newDialBy("registry.example", map[string]bool{"127.0.0.1": true})
	c, err := dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}
