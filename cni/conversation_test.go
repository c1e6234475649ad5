package cni

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestConversationWaitsForItsFirstWord: a conversation that was opened is not
// taken for one that has been silent for ever, however late it is first used.
func TestConversationWaitsForItsFirstWord(t *testing.T) {
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	host := netip.MustParseAddr("169.254.1.2")
	rule := rules{hosts: map[netip.Addr]netip.Addr{host: netip.MustParseAddr("127.0.0.1")}}
	c := newConversations(t.Context(), slog.New(slog.DiscardHandler), rule, func([]byte) {})
	defer c.close()
	key := conversationKey{
		ends{netip.MustParseAddrPort("10.88.0.2:4000"), netip.AddrPortFrom(host, server.LocalAddr().(*net.UDPAddr).AddrPort().Port())}, unix.IPPROTO_UDP,
	}
	n, err := c.find(key)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	again, err := c.find(key)
	if err != nil || again != n {
		t.Errorf("it had ended before anything was sent (%v)", err)
	}
}
