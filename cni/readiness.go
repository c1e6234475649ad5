package cni

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// patience is how long the kernel may take to do what it was told of a link,
	// and pause how long it is left alone in between.
	patience = 10 * time.Second
	pause    = time.Millisecond
)

// awaitUp waits until a link passes packets on. The kernel tells a link's queue
// and the bridge of a carrier later, by a work queue that may rest for a second
// (linkwatch), and until then what a pod sends is lost. Since Linux 6.8 it does
// so when it is asked for the link.
func awaitUp(h *netlink.Handle, name string) error {
	return await(func() (string, error) {
		link, err := h.LinkByName(name)
		if err != nil {
			return "", fmt.Errorf("find %s: %w", name, err)
		}
		if state := link.Attrs().OperState; state != netlink.OperUp {
			return fmt.Sprintf("%s is %s", name, state), nil
		}
		return "", nil
	})
}

// awaitLocal waits until the kernel takes what is sent to ip for its own. From
// an IPv6 address it sends at once, but the group in which neighbours ask for it
// and the route by which answers arrive come later, by a work queue
// (addrconf_dad_work), without duplicate address detection too. Until then it
// drops the answers. IPv4 is ready at once.
func awaitLocal(h *netlink.Handle, ip net.IP) error {
	if ip.To4() != nil {
		return nil
	}
	return await(func() (string, error) {
		routes, err := h.RouteGet(ip)
		if err != nil && !errors.Is(err, unix.ENETUNREACH) {
			return "", fmt.Errorf("find the route to %s: %w", ip, err)
		}
		if len(routes) != 1 || routes[0].Type != unix.RTN_LOCAL {
			return fmt.Sprintf("nothing takes what is sent to %s", ip), nil
		}
		return "", nil
	})
}

// await waits until what is looked at is ready: look says in which state it is
// until then.
func await(look func() (state string, err error)) error {
	for began := time.Now(); ; {
		state, err := look()
		if err != nil || state == "" {
			return err
		}
		if time.Since(began) > patience {
			return fmt.Errorf("%s after %s", state, patience)
		}
		<-time.After(pause)
	}
}
