package cni

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/eventloop"
)

const (
	tunName = "uplink"
	// tunQueue is how many packets may wait for this process.
	tunQueue = 4096
)

// uplink is the pods' way out. Their gateway is the bridge, that is the kernel
// in the pod network; what it would send on comes to this process through a TUN
// device and goes on as connections of this process in the host's network
// namespace. Nothing is masqueraded, no packet filter of the host is touched.
//
//	TCP   a SYN is held until its destination has answered (connector); then
//	      the kernel's TCP speaks with the pod (diversion), or gVisor's where
//	      the kernel cannot (userStack)
//	UDP   each conversation has a socket of its own (conversations)
//	ICMP  echo requests likewise; errors of the outside are passed on
type uplink struct {
	tun     int // -1: none
	log     *slog.Logger
	loop    *eventloop.Loop
	buf     []byte // of the packet that is looked at
	senders sync.WaitGroup

	tcp       *connector
	diversion *diversion // or
	user      *userStack
	datagrams *conversations
}

// openUplink joins the pod network to the host's. What it has to do without
// goes to problems.
func (n *Network) openUplink() (_ *uplink, err error) {
	u := &uplink{log: n.log, tun: -1, buf: make([]byte, vnetHeader+maxPacket)}
	defer func() {
		if err != nil {
			u.close()
		}
	}()
	if u.loop, err = eventloop.New(); err != nil {
		return nil, err
	}
	var index int
	if u.tun, index, err = n.openTUN(); err != nil {
		return nil, err
	}
	if err := n.openGateway(index); err != nil {
		return nil, err
	}
	rule := n.reach()
	u.datagrams = newConversations(u.loop, n.log, rule, u.write)
	u.tcp = newConnector(u.loop, n.log, rule, u.send)
	if !n.o.Settings.UserTCP {
		if u.diversion, err = n.openDiversion(index); err != nil {
			n.log.Warn("no kernel TCP to the outside", "err", err)
			n.problems = append(n.problems, Problem{
				Summary: "pods' TCP to the outside is slower than it could be (" + err.Error() + ")",
				Mend:    "as root: modprobe -a nft_tproxy nft_socket",
			})
		}
	}
	if u.diversion != nil {
		u.tcp.release = u.write
		if err := u.diversion.serve(u.tcp); err != nil {
			return nil, err
		}
	} else {
		n.closeDiversion()
		if u.user, err = openUserStack(u); err != nil {
			return nil, err
		}
		u.tcp.release = u.user.take
	}
	if p, ok := pingProblem(); ok {
		n.problems = append(n.problems, p)
	}
	if err := u.loop.Add(u.tun, unix.EPOLLIN, u); err != nil {
		return nil, err
	}
	return u, nil
}

// reach says what pods reach: what the host reaches, and its loopback by names
// of its own.
func (n *Network) reach() rules {
	r := rules{hosts: map[netip.Addr]netip.Addr{}}
	loopback, loopback6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	if n.o.Settings.NoHost {
		loopback, loopback6 = netip.Addr{}, netip.Addr{}
	}
	r.hosts[n.plan.host] = loopback
	if n.plan.host6.IsValid() {
		r.hosts[n.plan.host6] = loopback6
	}
	return r
}

// atOnce is how many packets are taken before anything else has its turn.
const atOnce = 64

// Ready takes what pods send.
func (u *uplink) Ready(uint32) {
	defer u.datagrams.flush()
	for range atOnce {
		k, err := unix.Read(u.tun, u.buf)
		switch {
		case err == unix.EAGAIN:
			return
		case err == unix.EINTR:
			continue
		case err != nil:
			u.log.Error("the pods' way out ends", "err", err)
			u.loop.Remove(u.tun)
			return
		}
		if p, ok := parsePacket(u.buf[:k]); ok {
			u.packet(p)
		}
	}
}

func (u *uplink) packet(p packet) {
	if p.protocol != unix.IPPROTO_TCP || len(p.transport) < tcpHeader {
		u.datagrams.packet(p)
		return
	}
	switch {
	case p.transport[13]&(tcpSYN|tcpACK) == tcpSYN:
		u.tcp.syn(p)
	case u.user != nil:
		_ = u.user.take(p.raw)
	default:
		u.stray(p)
	}
}

// stray answers a segment of a connection that is not: its socket went with an
// earlier process. The pod is not to wait for its own timeout.
func (u *uplink) stray(p packet) {
	if p.transport[13]&(tcpRST|tcpACK) == tcpACK {
		u.send(resetStray(p))
	}
}

// send gives a packet to the pod network. One that is lost is lost.
func (u *uplink) send(packet []byte) {
	if err := u.write(packet); err != nil {
		u.log.Debug("to a pod", "err", err)
	}
}

func (u *uplink) write(packet []byte) error {
	_, err := unix.Write(u.tun, packet)
	return os.NewSyscallError("write to the TUN device", err)
}

// close ends the gateway and all connections through it.
func (u *uplink) close() {
	if u.loop != nil {
		u.loop.Do(func() {
			if u.tcp != nil {
				u.tcp.close()
			}
			if u.datagrams != nil {
				u.datagrams.close()
			}
		})
		u.loop.Close()
	}
	if u.diversion != nil {
		u.diversion.close()
	}
	if u.user != nil {
		u.user.close()
	}
	u.senders.Wait()
	if u.tun >= 0 {
		_ = unix.Close(u.tun)
	}
}

// openTUN makes the TUN device in the pod network and returns its index there.
// It goes when the descriptor is closed, and the routes to it with it.
func (n *Network) openTUN() (tun, index int, err error) {
	err = n.pods.Do(func(ns.NetNS) error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
		}
		if err := configureTUN(fd); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		tun = fd
		return nil
	})
	if err != nil {
		return -1, 0, err
	}
	h, err := handle(n.pods.Fd())
	if err != nil {
		return -1, 0, errors.Join(err, unix.Close(tun))
	}
	defer h.Close()
	link, err := h.LinkByName(tunName)
	if err != nil {
		return -1, 0, errors.Join(fmt.Errorf("find TUN device: %w", err), unix.Close(tun))
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"MTU", func() error { return h.LinkSetMTU(link, maxPacket) }},
		{"queue", func() error { return h.LinkSetTxQLen(link, tunQueue) }},
		{"up", func() error { return h.LinkSetUp(link) }},
	} {
		if err := step.do(); err != nil {
			return -1, 0, errors.Join(fmt.Errorf("set the TUN device's %s: %w", step.what, err), unix.Close(tun))
		}
	}
	return tun, link.Attrs().Index, nil
}

func configureTUN(fd int) error {
	request, err := unix.NewIfreq(tunName)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return &os.PathError{Op: "TUNSETIFF", Path: "/dev/net/tun", Err: err}
	}
	// Checksums of what never leaves this machine's memory are not made.
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM); err != nil {
		return &os.PathError{Op: "TUNSETOFFLOAD", Path: "/dev/net/tun", Err: err}
	}
	return nil
}

// uplinkProblem says what a missing uplink means and how to get one.
func uplinkProblem(err error) Problem {
	p := Problem{Summary: "no uplink: pods reach each other but nothing outside (" + err.Error() + ")"}
	switch {
	case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
		p.Mend = "as root: chmod 0666 /dev/net/tun"
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
		p.Mend = "as root: modprobe tun; if /dev/net/tun is still missing: mkdir -p /dev/net && mknod -m 0666 /dev/net/tun c 10 200"
	}
	return p
}
