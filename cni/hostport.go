package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/hint"
)

// HostPort is a port of the host that leads to a port of a pod.
type HostPort struct {
	Protocol string     // "tcp" or "udp"
	HostIP   netip.Addr // of the host; zero for all it has, IPv4 and IPv6
	Port     uint16     // of the host
	PodPort  uint16     // of the pod, whatever address its server listens on
}

// String names the host's end, as in "127.0.0.1:8080/TCP".
func (p HostPort) String() string {
	port := strconv.Itoa(int(p.Port))
	if p.HostIP.IsValid() {
		port = net.JoinHostPort(p.HostIP.String(), port)
	}
	return port + "/" + strings.ToUpper(p.Protocol)
}

// Overlaps tells whether no two programs could have both ports.
func (p HostPort) Overlaps(o HostPort) bool {
	if p.Protocol != o.Protocol || p.Port != o.Port {
		return false
	}
	for _, a := range p.addresses() {
		for _, b := range o.addresses() {
			if a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified()) {
				return true
			}
		}
	}
	return false
}

// addresses are what is listened on: 0.0.0.0 and [::] by default.
func (p HostPort) addresses() []netip.Addr {
	if p.HostIP.IsValid() {
		return []netip.Addr{p.HostIP.Unmap()}
	}
	return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
}

// bindHostPort takes a port of the host. It does not listen yet: a client is
// refused until there is a pod to go to. A nil file without an error means that
// the host has no IPv6, which nobody asked for by name.
func bindHostPort(p HostPort, addr netip.Addr) (*os.File, error) {
	kind := unix.SOCK_STREAM
	if p.Protocol == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family(addr), kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		if !p.HostIP.IsValid() && addr.Is6() && errors.Is(err, unix.EAFNOSUPPORT) {
			return nil, nil
		}
		return nil, fmt.Errorf("host port %s: %w", p, os.NewSyscallError("socket", err))
	}
	set := func(level, option int) {
		err = errors.Join(err, os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, 1)))
	}
	if addr.Is6() {
		set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	}
	switch {
	case p.Protocol == "tcp":
		// Connections of an earlier pod that wait for their last packets do
		// not hold the port. Two UDP sockets would share it.
		set(unix.SOL_SOCKET, unix.SO_REUSEADDR)
	case addr.Is4():
		set(unix.IPPROTO_IP, unix.IP_PKTINFO)
	default:
		set(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO)
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, sockaddr(netip.AddrPortFrom(addr, p.Port))))
	}
	if err == nil {
		return os.NewFile(uintptr(fd), p.String()), nil
	}
	_ = unix.Close(fd)
	if !p.HostIP.IsValid() && addr.Is6() && errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil, nil // net.ipv6.conf.all.disable_ipv6
	}
	return nil, explainBind(p, addr, err)
}

// explainBind says why a port cannot be had, and what to do about it.
func explainBind(p HostPort, addr netip.Addr, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return hint.Wrap(fmt.Errorf("host port %s is in use by %s", p, holder(p, addr)), `"ss -lntup" lists who has which; it is tried again until it is free`)
	case errors.Is(err, unix.EACCES):
		first := unprivilegedPort()
		return hint.Wrap(fmt.Errorf("host port %s: permission denied: ports below %d are root's", p, first),
			fmt.Sprintf(`"sysctl net.ipv4.ip_unprivileged_port_start=%d", as root, lets everybody have it`, p.Port))
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return hint.Wrap(fmt.Errorf("host port %s: the host has no address %s", p, addr), `"ip address" lists what it has`)
	}
	return fmt.Errorf("host port %s: %w", p, err)
}

// unprivilegedPort is the first port that everybody may listen on.
func unprivilegedPort() int {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if n, parseErr := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && parseErr == nil {
		return n
	}
	return 1024
}
