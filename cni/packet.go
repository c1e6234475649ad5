package cni

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// vnetHeader is how much the TUN device puts before each packet: a
// virtio_net_hdr, which says what of the checksum is yet to be done.
const vnetHeader = 10

// maxPacket is the largest IP packet.
const maxPacket = 65535

const (
	ipv4Header = 20
	ipv6Header = 40
	udpHeader  = 8
	tcpHeader  = 20
	icmpHeader = 8
	// hopLimit is that of packets which we make.
	hopLimit = 64
)

// packet is an IP packet as it came out of the TUN device.
type packet struct {
	raw       []byte // with the vnetHeader
	from, to  netip.Addr
	protocol  byte
	hops      byte   // how far it may still go
	transport []byte // TCP, UDP or ICMP header and what follows
}

// parsePacket reads what a pod sent. A fragment is no packet: the kernel puts
// them together before they come here, where it can.
func parsePacket(raw []byte) (p packet, ok bool) {
	if len(raw) < vnetHeader+ipv4Header {
		return packet{}, false
	}
	ip := raw[vnetHeader:]
	switch ip[0] >> 4 {
	case 4:
		head, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
		const moreOrOffset = 0x3fff
		if head < ipv4Header || total < head || total > len(ip) || binary.BigEndian.Uint16(ip[6:])&moreOrOffset != 0 {
			return packet{}, false
		}
		p.from, p.to = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		p.raw, p.protocol, p.hops, p.transport = raw[:vnetHeader+total], ip[9], ip[8], ip[head:total]
		return p, true
	case 6:
		if len(ip) < ipv6Header {
			return packet{}, false
		}
		total := ipv6Header + int(binary.BigEndian.Uint16(ip[4:]))
		if total > len(ip) {
			return packet{}, false
		}
		p.from, p.to = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		p.raw, p.hops = raw[:vnetHeader+total], ip[7]
		p.protocol, p.transport = skipExtensions(ip[6], ip[ipv6Header:total])
		return p, p.transport != nil
	}
	return packet{}, false
}

// skipExtensions returns what follows the extension headers of an IPv6 packet;
// nil for a fragment and for headers that end too early.
func skipExtensions(next byte, rest []byte) (byte, []byte) {
	for next == unix.IPPROTO_HOPOPTS || next == unix.IPPROTO_DSTOPTS || next == unix.IPPROTO_ROUTING {
		if len(rest) < 8 {
			return 0, nil
		}
		size := 8 + int(rest[1])*8
		if size > len(rest) {
			return 0, nil
		}
		next, rest = rest[0], rest[size:]
	}
	if next == unix.IPPROTO_FRAGMENT {
		return 0, nil
	}
	return next, rest
}

// ports of a TCP or UDP packet with a whole header.
func (p packet) ports() (from, to netip.AddrPort) {
	return netip.AddrPortFrom(p.from, binary.BigEndian.Uint16(p.transport)),
		netip.AddrPortFrom(p.to, binary.BigEndian.Uint16(p.transport[2:]))
}

// build writes the headers of an IP packet into b, whose transport is of size
// bytes, and returns the whole packet and the transport, which is yet to be
// written. b must have room for maxPacket and a vnetHeader.
func build(b []byte, from, to netip.Addr, protocol byte, size int) (whole, transport []byte) {
	head := ipv4Header
	if from.Is6() {
		head = ipv6Header
	}
	whole = b[:vnetHeader+head+size]
	clear(whole[:vnetHeader+head])
	ip := whole[vnetHeader:]
	if from.Is6() {
		ip[0] = 6 << 4
		binary.BigEndian.PutUint16(ip[4:], uint16(size))
		ip[6], ip[7] = protocol, hopLimit
		f, t := from.As16(), to.As16()
		copy(ip[8:], f[:])
		copy(ip[24:], t[:])
		return whole, ip[head:]
	}
	ip[0] = 4<<4 | ipv4Header/4
	binary.BigEndian.PutUint16(ip[2:], uint16(head+size))
	ip[8], ip[9] = hopLimit, protocol
	f, t := from.As4(), to.As4()
	copy(ip[12:], f[:])
	copy(ip[16:], t[:])
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(0, ip[:head])))
	return whole, ip[head:]
}

// checksum writes the checksum of a packet's transport at offset.
func checksum(whole, transport []byte, offset int) {
	transport[offset], transport[offset+1] = 0, 0
	binary.BigEndian.PutUint16(transport[offset:], ^fold(sum(pseudoHeader(whole, transport), transport)))
}

// checksumLater leaves the checksum to whoever needs it: a pod on this machine
// does not.
func checksumLater(whole, transport []byte, offset int) {
	binary.BigEndian.PutUint16(transport[offset:], fold(pseudoHeader(whole, transport)))
	whole[0] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
	binary.NativeEndian.PutUint16(whole[6:], uint16(len(whole)-vnetHeader-len(transport)))
	binary.NativeEndian.PutUint16(whole[8:], uint16(offset))
}

// segments says of a packet with checksumLater that its UDP payload is datagrams
// of size bytes each, the last of what is left.
func segments(whole, transport []byte, size int) {
	whole[1] = unix.VIRTIO_NET_HDR_GSO_UDP_L4
	binary.NativeEndian.PutUint16(whole[2:], uint16(len(whole)-vnetHeader-len(transport)+udpHeader))
	binary.NativeEndian.PutUint16(whole[4:], uint16(size))
}

// pseudoHeader is the sum of what a transport's checksum covers beside it.
// ICMP has none.
func pseudoHeader(whole, transport []byte) uint32 {
	ip := whole[vnetHeader:]
	if ip[0]>>4 == 6 {
		return sum(uint32(ip[6])+uint32(len(transport)), ip[8:40])
	}
	if ip[9] == unix.IPPROTO_ICMP {
		return 0
	}
	return sum(uint32(ip[9])+uint32(len(transport)), ip[12:20])
}

// sum adds b to the Internet checksum n (RFC 1071).
func sum(n uint32, b []byte) uint32 {
	total := uint64(n)
	for ; len(b) >= 4; b = b[4:] {
		total += uint64(binary.BigEndian.Uint32(b))
	}
	if len(b) >= 2 {
		total += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		total += uint64(b[0]) << 8
	}
	for total>>32 != 0 {
		total = total&0xffffffff + total>>32
	}
	return uint32(total)
}

func fold(n uint32) uint16 {
	for n>>16 != 0 {
		n = n&0xffff + n>>16
	}
	return uint16(n)
}

const (
	tcpFIN = 1 << iota
	tcpSYN
	tcpRST
	_
	tcpACK
)

// reset is the answer to a SYN that says: connection refused.
func reset(syn packet) []byte {
	whole, t := build(make([]byte, vnetHeader+ipv6Header+tcpHeader), syn.to, syn.from, unix.IPPROTO_TCP, tcpHeader)
	copy(t, syn.transport[2:4])
	copy(t[2:], syn.transport[:2])
	binary.BigEndian.PutUint32(t[8:], binary.BigEndian.Uint32(syn.transport[4:])+1)
	t[12], t[13] = tcpHeader/4<<4, tcpRST|tcpACK
	checksum(whole, t, 16)
	return whole
}

// resetStray is the answer to a segment, with an acknowledgement, of a connection
// that there is not (RFC 9293 section 3.5.2).
func resetStray(p packet) []byte {
	whole, t := build(make([]byte, vnetHeader+ipv6Header+tcpHeader), p.to, p.from, unix.IPPROTO_TCP, tcpHeader)
	copy(t, p.transport[2:4])
	copy(t[2:], p.transport[:2])
	copy(t[4:], p.transport[8:12])
	t[12], t[13] = tcpHeader/4<<4, tcpRST
	checksum(whole, t, 16)
	return whole
}

// icmpError is a message about a packet that did not arrive.
type icmpError struct {
	by         netip.Addr // who says so; the zero Addr stands for the packet's destination
	kind, code byte       // of the address family of the packet
	info       uint32     // the MTU, of a packet that is too big
}

// quoted is how much of a packet an icmpError repeats: its IP header and what
// tells its sender the socket (RFC 792).
const quoted = 8

// maxQuoted bounds what an icmpError repeats of a packet whose IPv6 header has
// many extensions: with it, it goes over every link (RFC 4443 section 2.4).
const maxQuoted = 1280 - ipv6Header - icmpHeader

// about writes the message to the sender of the packet that begins with head:
// its IP header and quoted bytes, without a vnetHeader.
func (e icmpError) about(head []byte) []byte {
	var from, to netip.Addr
	protocol := byte(unix.IPPROTO_ICMP)
	if head[0]>>4 == 6 {
		to, from = netip.AddrFrom16([16]byte(head[8:24])), netip.AddrFrom16([16]byte(head[24:40]))
		protocol = unix.IPPROTO_ICMPV6
	} else {
		to, from = netip.AddrFrom4([4]byte(head[12:16])), netip.AddrFrom4([4]byte(head[16:20]))
	}
	if e.by.IsValid() && e.by.Is4() == from.Is4() {
		from = e.by
	}
	whole, t := build(make([]byte, vnetHeader+ipv6Header+icmpHeader+len(head)), from, to, protocol, icmpHeader+len(head))
	t[0], t[1] = e.kind, e.code
	binary.BigEndian.PutUint32(t[4:], e.info)
	copy(t[icmpHeader:], head)
	checksum(whole, t, 2)
	return whole
}

// head is what an icmpError about the packet needs of it.
func (p packet) head() []byte {
	ip := p.raw[vnetHeader:]
	return ip[:min(len(ip)-len(p.transport)+quoted, len(ip), maxQuoted)]
}
