package image

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// newDial returns how a registry is connected to, and what it leads to: other
// hosts, by redirects and by where it says that tokens are to be had. Of these,
// none may be this machine or on its link, where a cloud's metadata service is,
// by whatever name: checkRedirect sees addresses only when they are in the URL.
func newDial(registry string) dialFunc { return newDialBy(registry, proxies(registry)) }

// newDialBy is newDial with the hosts of the user's proxies.
func newDialBy(registry string, trusted map[string]bool) dialFunc {
	own := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	if isLoopback(registry) {
		return own.DialContext
	}
	elsewhere := *own
	elsewhere.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if ip := to.Addr().Unmap(); ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() {
			return fmt.Errorf("registry leads to %s, which is not its to give", ip)
		}
		return nil
	}
	trusted[hostOf(registry)] = true
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if trusted[hostOf(address)] {
			return own.DialContext(ctx, network, address)
		}
		return elsewhere.DialContext(ctx, network, address)
	}
}

// impatient is dial with connections that the kernel ends when the other end has
// taken nothing of what was sent for so long: what is written is on its way for us
// when the kernel has it, and that may be megabytes.
func impatient(dial dialFunc, after time.Duration) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err == nil {
			control := raw.Control(func(fd uintptr) {
				// tcp(7). A receiver that answers, but takes nothing, counts since Linux 5.11.
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds()))
			})
			err = errors.Join(control, err)
		}
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return c, nil
	}
}

// proxies are the hosts of the user's proxies.
func proxies(registry string) map[string]bool {
	found := map[string]bool{}
	for _, scheme := range []string{"http", "https"} {
		for _, host := range []string{registry, "registry.invalid"} {
			u, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: scheme, Host: host}})
			if err == nil && u != nil {
				found[u.Hostname()] = true
			}
		}
	}
	return found
}

// hostOf is an address without its port, if it has one.
func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}
