package cni

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	echoReply4, echoRequest4 = 0, 8
	echoRequest6, echoReply6 = 128, 129
)

func isEchoRequest(p packet) bool {
	if len(p.transport) < icmpHeader {
		return false
	}
	return p.protocol == unix.IPPROTO_ICMP && p.to.Is4() && p.transport[0] == echoRequest4 ||
		p.protocol == unix.IPPROTO_ICMPV6 && p.to.Is6() && p.transport[0] == echoRequest6
}

// ping is what an echo conversation has beside its socket. The kernel's ping
// socket, for whom net.ipv4.ping_group_range allows it, needs no privilege: the
// kernel gives requests an identifier and brings their answers. Root has a raw
// socket where even root is not in that range; then both is ours to do.
type ping struct {
	raw        bool
	id         uint16
	ipv4Header bool // before what is received
}

// nextPing tells apart those that use raw sockets.
var nextPing atomic.Uint32

func (p *ping) open(to netip.Addr) (int, error) {
	protocol := unix.IPPROTO_ICMP
	if to.Is6() {
		protocol = unix.IPPROTO_ICMPV6
	}
	const flags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd, err := unix.Socket(family(to), unix.SOCK_DGRAM|flags, protocol)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		var rawErr error
		if fd, rawErr = unix.Socket(family(to), unix.SOCK_RAW|flags, protocol); rawErr == nil {
			p.raw, p.ipv4Header, p.id, err = true, to.Is4(), uint16(nextPing.Add(1)), nil
		}
	}
	return fd, os.NewSyscallError("ping socket", err)
}

// request returns the echo request to send. The kernel finishes it but on a raw
// socket of IPv4.
func (p *ping) request(message []byte) []byte {
	if !p.raw {
		return message
	}
	own := append([]byte(nil), message...)
	binary.BigEndian.PutUint16(own[4:], p.id)
	own[2], own[3] = 0, 0
	binary.BigEndian.PutUint16(own[2:], ^fold(sum(0, own)))
	return own
}

// pingAnswer passes on an echo reply of k bytes at head in buf.
func (n *conversation) pingAnswer(buf []byte, head, k int) {
	message := buf[head : head+k]
	if n.ping.ipv4Header && k > ipv4Header {
		size := min(int(message[0]&15)*4, k)
		copy(message, message[size:])
		message = message[:k-size]
	}
	v6 := n.key.pod.Addr().Is6()
	want := byte(echoReply4)
	if v6 {
		want = echoReply6
	}
	if len(message) < icmpHeader || message[0] != want || n.ping.raw && binary.BigEndian.Uint16(message[4:]) != n.ping.id {
		return
	}
	n.answered = true
	whole, t := build(buf, n.key.outside.Addr(), n.key.pod.Addr(), n.key.protocol, len(message))
	binary.BigEndian.PutUint16(t[4:], n.key.pod.Port())
	checksum(whole, t, 2)
	n.c.answer(whole)
}

// pingProblem says that pods cannot ping the outside, and how to mend it.
func pingProblem() (Problem, bool) {
	fd, err := new(ping).open(netip.IPv4Unspecified())
	if err == nil {
		_ = unix.Close(fd)
		return Problem{}, false
	}
	return Problem{
		Summary: "pods cannot ping the outside (" + err.Error() + "); TCP and UDP are not concerned",
		Mend:    `as root: sysctl -w net.ipv4.ping_group_range="0 2147483647"`,
	}, true
}
