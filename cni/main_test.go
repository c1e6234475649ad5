package cni_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/internal/need"
)

// TestMain runs the tests of this package as root of namespaces of their own,
// among them a network namespace in the place of the host's.
func TestMain(m *testing.M) {
	need.AsRoot(m, unix.CLONE_NEWNET, func() error {
		if op := os.Getenv(stepVariable); op != "" {
			os.Exit(step(op))
		}
		return prepareHost()
	})
}

// prepareHost sets up what stands for the host: its loopback.
func prepareHost() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

// openNetwork opens a network below dir; it is closed with the test, unless
// the test has done so.
func openNetwork(t *testing.T, dir string, change func(*cni.Options)) *cni.Network {
	t.Helper()
	o := cni.Options{StateDir: dir, Uplink: true}
	if change != nil {
		change(&o)
	}
	n, err := cni.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	for _, p := range n.Problems() {
		t.Fatalf("the network has a problem: %s; %s", p.Summary, p.Mend)
	}
	return n
}

// stateDir is a directory whose pinned namespace goes with the test.
func stateDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "netns"), unix.MNT_DETACH) })
	return dir
}

// podNetNS makes a network namespace as a pod's sandbox has one. It ends with
// the test.
func podNetNS(t *testing.T) (path string) {
	t.Helper()
	ready, end := make(chan string), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the thread, and with it the namespace, ends here
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		ready <- fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		<-end
	}()
	t.Cleanup(func() { close(end) })
	return <-ready
}

// in calls fn in a network namespace.
func in(t *testing.T, path string, fn func() error) error {
	t.Helper()
	return ns.WithNetNSPath(path, func(ns.NetNS) error { return fn() })
}

func add(t *testing.T, n *cni.Network, p cni.Pod) netip.Addr {
	t.Helper()
	r, err := n.Add(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return r.IPs[0].Addr()
}

// serve answers each connection to address with text, in a namespace ("" for
// the host's).
func serve(t *testing.T, netns, address, text string) net.Addr {
	t.Helper()
	var l net.Listener
	listen := func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	}
	err := listen
	if netns != "" {
		err = func() error { return in(t, netns, listen) }
	}
	if err := err(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go acceptAll(l, func(c net.Conn) {
		_, _ = io.Copy(io.Discard, c) // until the client has ended its side
		_, _ = io.WriteString(c, text)
		_ = c.Close()
	})
	return l.Addr()
}

// acceptAll calls f for each connection, on a goroutine of its own, until l is
// closed.
func acceptAll(l net.Listener, f func(c net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go f(c)
	}
}

// ask connects from a namespace, sends something, ends its side, and returns
// the answer.
func ask(t *testing.T, netns, address string) (string, error) {
	t.Helper()
	var answer []byte
	err := in(t, netns, func() error {
		c, err := net.DialTimeout("tcp4", address, 30*time.Second)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(c, strings.Repeat("question ", 20_000)); err != nil {
			return err
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		answer, err = io.ReadAll(c)
		return err
	})
	return string(answer), err
}

func at(ip netip.Addr, port int) string { return netip.AddrPortFrom(ip, uint16(port)).String() }
