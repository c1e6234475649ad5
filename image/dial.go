package image

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
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
