package cni

import (
	"net/netip"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inboxSize is how many datagrams are received by one system call.
const inboxSize = 16

// inbox takes several datagrams of a socket at once (recvmmsg(2)), each where
// the headers of a packet have room before it.
type inbox struct {
	buffers  [inboxSize][vnetHeader + ipv6Header + maxPacket]byte
	vectors  [inboxSize]unix.Iovec
	messages [inboxSize]mmsghdr
	// Of receiveFrom: who sent each, and the control message that came with it.
	senders  [inboxSize]unix.RawSockaddrInet6
	controls [inboxSize][64]byte
}

// inboxes are for those that do not keep one while they wait.
var inboxes = sync.Pool{New: func() any { return newInbox() }}

// mmsghdr is the kernel's structure of this name.
type mmsghdr struct {
	header unix.Msghdr
	size   uint32
}

func newInbox() *inbox {
	in := &inbox{}
	for i := range in.messages {
		in.messages[i].header.Iov = &in.vectors[i]
		in.messages[i].header.SetIovlen(1)
	}
	return in
}

// receive takes what a socket has, each behind so many bytes. It returns how
// many datagrams that were, and does not wait.
func (in *inbox) receive(fd, behind int) (int, error) {
	for i := range in.vectors {
		in.vectors[i].Base = &in.buffers[i][behind]
		in.vectors[i].SetLen(len(in.buffers[i]) - behind)
	}
	for {
		n, _, err := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&in.messages)), inboxSize, unix.MSG_DONTWAIT, 0, 0)
		switch err {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, unix.EAGAIN
		default:
			return 0, os.NewSyscallError("recvmmsg", err)
		}
	}
}

// receiveFrom is receive that tells senders and control messages, too.
func (in *inbox) receiveFrom(fd, behind int) (int, error) {
	for i := range in.messages {
		h := &in.messages[i].header
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&in.senders[i])), unix.SizeofSockaddrInet6
		h.Control = &in.controls[i][0]
		h.SetControllen(len(in.controls[i]))
	}
	return in.receive(fd, behind)
}

// sender is who sent the i-th that receiveFrom took.
func (in *inbox) sender(i int) netip.AddrPort {
	return readAddrPort(&in.senders[i])
}

// control is the control message of the i-th that receiveFrom took.
func (in *inbox) control(i int) []byte {
	return in.controls[i][:in.messages[i].header.Controllen]
}

// datagram is the i-th that receive took: the whole buffer and the payload's
// size.
func (in *inbox) datagram(i int) (buffer []byte, size int) {
	return in.buffers[i][:], int(in.messages[i].size)
}

// join puts datagrams that came one after the other behind the i-th, as long as
// they are of its size, but for the last, which may be smaller, and fit into a
// packet behind so many bytes of headers. It returns how many these are, with
// the i-th, and how long they are together.
func (in *inbox) join(i, got, behind int) (count, bytes int) {
	size := int(in.messages[i].size)
	count, bytes = 1, size
	for j := i + 1; j < got; j++ {
		k := int(in.messages[j].size)
		if k == 0 || k > size || behind+bytes+k > vnetHeader+maxPacket {
			break
		}
		bytes += copy(in.buffers[i][behind+bytes:], in.buffers[j][behind:behind+k])
		count++
		if k < size {
			break
		}
	}
	return count, bytes
}
