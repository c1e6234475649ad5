package cni

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/eventloop"
)

// datagramsOf are datagrams of so many bytes, each told from the others.
func datagramsOf(sizes ...int) [][]byte {
	var all [][]byte
	for i, size := range sizes {
		all = append(all, bytes.Repeat([]byte{byte(i + 1)}, size))
	}
	return all
}

func same(n, size int) []int { return slices.Repeat([]int{size}, n) }

// received reads as many datagrams as are wanted and compares them.
func received(t *testing.T, c *net.UDPConn, want [][]byte) (from netip.AddrPort) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, maxPacket)
	for i, w := range want {
		var k int
		var err error
		if k, from, err = c.ReadFromUDPAddrPort(buf); err != nil {
			t.Errorf("datagram %d of %d: %v", i, len(want), err)
			return from
		}
		if !bytes.Equal(buf[:k], w) {
			t.Errorf("datagram %d of %d has %d bytes, want %d, or others", i, len(want), k, len(w))
		}
	}
	return from
}

// onLoop runs a test of conversations where they live. Their one, n, is with server.
func onLoop(t *testing.T, write func([]byte) error, test func(n *conversation, server *net.UDPConn)) {
	t.Helper()
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	host := netip.MustParseAddr("169.254.1.2")
	loop, err := eventloop.New()
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close()
	done := make(chan struct{})
	loop.Do(func() {
		defer close(done)
		c := newConversations(loop, slog.New(slog.DiscardHandler), rules{hosts: map[netip.Addr]netip.Addr{host: netip.MustParseAddr("127.0.0.1")}}, write)
		defer c.close()
		outside := netip.AddrPortFrom(host, server.LocalAddr().(*net.UDPAddr).AddrPort().Port())
		n, err := c.find(conversationKey{ends{netip.MustParseAddrPort("10.88.0.2:4000"), outside}, unix.IPPROTO_UDP})
		if err != nil {
			t.Error(err)
			return
		}
		test(n, server)
	})
	<-done
}

// TestGather: what is sent together arrives as it was sent.
func TestGather(t *testing.T) {
	for _, sizes := range [][]int{
		{5}, {0}, same(40, 1400), {1400, 1400, 700, 1400}, {10, 20, 20, 0, 0, 20, 1}, same(200, 10), {9000, 9000, 60000, 65507, 1, 1},
		append(same(7, 9000), same(7, 8999)...),
	} {
		t.Run(fmt.Sprint(len(sizes), " from ", sizes[0]), func(t *testing.T) {
			onLoop(t, func([]byte) error { return nil }, func(n *conversation, server *net.UDPConn) {
				all := datagramsOf(sizes...)
				for _, d := range all {
					n.c.gather(n, d)
				}
				n.c.flush()
				received(t, server, all)
				if n.c.out.of != nil || len(n.c.out.buf) != 0 {
					t.Error("something is left")
				}
			})
		})
	}
}

// TestSendDatagramsApart: what the kernel does not take together goes one by one.
func TestSendDatagramsApart(t *testing.T) {
	onLoop(t, func([]byte) error { return nil }, func(n *conversation, server *net.UDPConn) {
		all := datagramsOf(append(same(200, 10), 3)...) // more than UDP_MAX_SEGMENTS
		if err := sendDatagram(n.fd, bytes.Join(all, nil), segmentControl(10)); err != unix.EINVAL {
			t.Errorf("the kernel takes %d datagrams together: %v", len(all), err)
		}
		if err := sendDatagrams(n.fd, bytes.Join(all, nil), 10, len(all)); err != nil {
			t.Error(err)
		}
		received(t, server, all)
	})
}

// TestGatheredError: what became of datagrams is told to the pod, once.
func TestGatheredError(t *testing.T) {
	var told [][]byte
	write := func(b []byte) error { told = append(told, slices.Clone(b)); return nil }
	onLoop(t, write, func(n *conversation, _ *net.UDPConn) {
		if err := unix.Shutdown(n.fd, unix.SHUT_WR); err != nil {
			t.Error(err)
		}
		n.head = make([]byte, ipv4Header+quoted)
		n.head[0] = 4<<4 | ipv4Header/4
		for _, d := range datagramsOf(8, 8, 8) {
			n.c.gather(n, d)
		}
		n.c.flush()
	})
	if len(told) != 1 || told[0][vnetHeader+9] != unix.IPPROTO_ICMP {
		t.Errorf("the pod got %d packets: %x", len(told), told)
	}
}

// TestAnswersTogether: answers of one size go to the pod as one packet that says
// where they part; where the TUN device does not take that, one by one.
func TestAnswersTogether(t *testing.T) {
	sizes := append([]int{0, 300, 300, 300, 299, 299, 1, 1400}, same(10, 1400)...)
	for _, apart := range []bool{false, true} {
		t.Run(fmt.Sprint("apart ", apart), func(t *testing.T) {
			var got [][]byte
			packets, refused := 0, 0
			write := func(b []byte) error {
				payload := b[vnetHeader+ipv4Header+udpHeader:]
				size := len(payload)
				if b[1] == unix.VIRTIO_NET_HDR_GSO_UDP_L4 {
					if apart {
						refused++
						return unix.EINVAL
					}
					if size = int(binary.NativeEndian.Uint16(b[4:])); size >= len(payload) {
						t.Errorf("%d bytes are to part at %d", len(payload), size)
					}
				}
				packets++
				if size == 0 {
					got = append(got, nil)
				} else {
					for d := range slices.Chunk(payload, size) {
						got = append(got, slices.Clone(d))
					}
				}
				return nil
			}
			want := datagramsOf(sizes...)
			onLoop(t, write, func(n *conversation, server *net.UDPConn) {
				n.c.gather(n, []byte("?"))
				n.c.flush()
				from := received(t, server, [][]byte{[]byte("?")})
				for _, d := range want {
					if _, err := server.WriteToUDPAddrPort(d, from); err != nil {
						t.Error(err)
					}
				}
				for range 2 { // inboxSize at a time
					n.Ready(unix.EPOLLIN)
				}
			})
			if !slices.EqualFunc(got, want, bytes.Equal) {
				t.Errorf("got %d datagrams, want %d, or others", len(got), len(want))
			}
			if apart && (packets != len(want) || refused != 1) {
				t.Errorf("%d packets of %d datagrams, and %d refused", packets, len(want), refused)
			}
			if !apart && packets > 6 {
				t.Errorf("%d packets for %d datagrams", packets, len(want))
			}
		})
	}
}
