package cni

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxTogether is how many datagrams the kernel takes as one (UDP_MAX_SEGMENTS).
	maxTogether = 64
	// maxTogetherBytes is how long they may be together, with the largest headers.
	maxTogetherBytes = maxPacket - ipv6Header - udpHeader
)

// outbox gathers datagrams of one conversation that a pod sent one after the
// other, so that one system call sends them all and the kernel carries them as
// one, up to where they part (UDP_SEGMENT, udp(7)). All are of one size but the
// last, which may be smaller. It is empty again before its conversations looks
// for something else to do: nothing waits in it.
type outbox struct {
	of    *conversation // nil: it is empty
	size  int           // of the first datagram
	count int
	buf   []byte
}

// takes tells whether a datagram can go with what is there.
func (o *outbox) takes(n *conversation, datagram []byte) bool {
	return o.of == n && o.count < maxTogether && len(datagram) > 0 && len(datagram) <= o.size &&
		len(o.buf)+len(datagram) <= maxTogetherBytes
}

// gather has a datagram sent with those that come next.
func (c *conversations) gather(n *conversation, datagram []byte) {
	o := &c.out
	if !o.takes(n, datagram) {
		c.flush()
		o.of, o.size = n, len(datagram)
	}
	o.buf = append(o.buf, datagram...)
	o.count++
	if len(datagram) < o.size {
		c.flush() // a smaller one is the last
	}
}

// flush sends what was gathered.
func (c *conversations) flush() {
	o := &c.out
	n := o.of
	if n == nil {
		return
	}
	err := sendDatagrams(n.fd, o.buf, o.size, o.count)
	o.of, o.count, o.buf = nil, 0, o.buf[:0]
	c.tell(n.key.outside.Addr(), n.head, err)
}

// sendDatagrams sends count datagrams of size bytes, the last of what is left
// of b, to where a socket is connected. What is lost on the way is lost.
func sendDatagrams(fd int, b []byte, size, count int) error {
	// Some devices, and datagrams near the path's MTU, want them one by one.
	if count > 1 && sendDatagram(fd, b, segmentControl(size)) == nil {
		return nil
	}
	var err error
	for range count {
		k := min(size, len(b))
		err = sendDatagram(fd, b[:k], nil)
		b = b[k:]
	}
	return err
}

func sendDatagram(fd int, b, control []byte) (err error) {
	for range 2 {
		// The first may return what became of an earlier one.
		_, err = unix.SendmsgN(fd, b, control, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err == nil || err == unix.EAGAIN {
			break
		}
	}
	return err
}

// segmentControl is the control message that says how long each datagram is.
func segmentControl(size int) []byte {
	control := make([]byte, unix.CmsgSpace(2))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	header.Level, header.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	header.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(control[unix.CmsgLen(0):], uint16(size))
	return control
}
