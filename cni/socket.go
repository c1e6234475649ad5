package cni

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// family is the address family of addr.
func family(addr netip.Addr) int {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// readAddrPort reads what the kernel wrote: of either family, which begin alike.
func readAddrPort(a *unix.RawSockaddrInet6) netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&a.Port))[:])
	if a.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(a)).Addr), port)
	}
	addr := netip.AddrFrom16(a.Addr)
	if a.Scope_id != 0 {
		addr = addr.WithZone(strconv.Itoa(int(a.Scope_id)))
	}
	return netip.AddrPortFrom(addr, port)
}

// nameOf and peerOf are getsockname(2) and getpeername(2) of an IP socket, and
// acceptFrom accept4(2) of one. Those of package unix ask the kernel for the
// protocol, too, each time.
func nameOf(fd int) (netip.AddrPort, error) { return endOf(unix.SYS_GETSOCKNAME, fd) }
func peerOf(fd int) (netip.AddrPort, error) { return endOf(unix.SYS_GETPEERNAME, fd) }

func endOf(call uintptr, fd int) (netip.AddrPort, error) {
	var a unix.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(a))
	if _, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&size))); errno != 0 {
		return netip.AddrPort{}, errno
	}
	return unmapped(readAddrPort(&a)), nil
}

func acceptFrom(fd int) (accepted int, from netip.AddrPort, err error) {
	var a unix.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(a))
	n, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	return int(n), unmapped(readAddrPort(&a)), nil
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// connected tells whether a connect that was begun has come to its end.
func connected(fd int) (bool, error) {
	if _, err := peerOf(fd); err != nil { // it has failed, or goes on
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		return false, err
	}
	return true, nil
}

// setKeepAlive has the kernel notice peers that vanish without a word, after 4
// minutes, and send what there is at once. Sockets that a listening one accepts
// take it over.
func setKeepAlive(fd int) {
	sendAtOnce(fd)
	for _, o := range [][3]int{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.SOL_TCP, unix.TCP_KEEPIDLE, 120}, {unix.SOL_TCP, unix.TCP_KEEPINTVL, 30}, {unix.SOL_TCP, unix.TCP_KEEPCNT, 4},
	} {
		_ = unix.SetsockoptInt(fd, o[0], o[1], o[2])
	}
}

// sendAtOnce has the kernel not wait for more to send with what there is.
func sendAtOnce(fd int) { _ = unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NODELAY, 1) }
