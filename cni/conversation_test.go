package cni

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/eventloop"
)

// TestConversationEnds: a conversation ends when it was silent for as long as it
// may be, and not before: not one that was only just opened either.
func TestConversationEnds(t *testing.T) {
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	host := netip.MustParseAddr("169.254.1.2")
	rule := rules{hosts: map[netip.Addr]netip.Addr{host: netip.MustParseAddr("127.0.0.1")}}
	loop, err := eventloop.New()
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close()
	key := conversationKey{
		ends{netip.MustParseAddrPort("10.88.0.2:4000"), netip.AddrPortFrom(host, server.LocalAddr().(*net.UDPAddr).AddrPort().Port())}, unix.IPPROTO_UDP,
	}
	done := make(chan struct{})
	loop.Do(func() {
		defer close(done)
		c := newConversations(loop, slog.New(slog.DiscardHandler), rule, func([]byte) error { return nil })
		defer c.close()
		for _, tt := range []struct {
			name     string
			answered bool
			silent   time.Duration
			ends     bool
		}{
			{"just opened", false, 0, false},
			{"unanswered", false, unansweredTimeout - time.Second, false},
			{"answered", true, unansweredTimeout + time.Second, false},
			{"answered, silent for long", true, conversationTimeout + time.Second, true},
			{"unanswered, silent for long", false, unansweredTimeout + time.Second, true},
		} {
			n, err := c.find(key)
			if err != nil {
				t.Error(err)
				return
			}
			n.answered = tt.answered
			c.endSilent(n.last.Add(tt.silent))
			if ended := n.place == nil; ended != tt.ends {
				t.Errorf("%s: ended %v, want %v", tt.name, ended, tt.ends)
			}
			if len(c.byPod) != len(c.known) {
				t.Errorf("%s: %d pods of %d conversations", tt.name, len(c.byPod), len(c.known))
			}
		}
		// One beside those that may be silent for longer is looked at in time.
		for _, answered := range []bool{true, false} {
			n, err := c.find(key)
			if err != nil {
				t.Error(err)
				return
			}
			if after := c.look.Sub(n.last); after > unansweredTimeout+time.Second {
				t.Errorf("a new conversation is looked at after %v, want %v", after, unansweredTimeout)
			}
			n.answered = answered
			c.endSilent(n.last)
			key.pod = netip.AddrPortFrom(key.pod.Addr(), key.pod.Port()+1)
		}
	})
	<-done
}
