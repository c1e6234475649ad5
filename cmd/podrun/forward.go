package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/relay"
	"get.podrun.dev/podrun/node"
)

type forwardOptions struct {
	addresses []string
	timeout   time.Duration
}

func portForwardCommand(c *cli) *cobra.Command {
	var o forwardOptions
	command := &cobra.Command{
		Use:   "port-forward (POD | pod/POD) [LOCAL_PORT:]REMOTE_PORT...",
		Short: "Forward local ports to a pod",
		Long: `Forward one or more local ports to a pod, until it is interrupted or the pod is gone.

The connections are made from inside the pod: a server that listens on 127.0.0.1
there is reached too. After a restart of the pod new connections go to the new
containers.`,
		Example: `  podrun port-forward web 8080:80
  podrun port-forward web 8080:http 9090     http is the name of a port of the pod
  podrun port-forward web :80                any local port that is free
  podrun port-forward --address 0.0.0.0 web 8080:80`,
		ValidArgsFunction: c.completePodThenPorts,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("TYPE/NAME and list of ports are required for port-forward")
			}
			return c.portForward(command.Context(), args[0], args[1:], &o)
		},
	}
	f := command.Flags()
	f.StringSliceVar(&o.addresses, "address", []string{"localhost"}, "the addresses to listen on; localhost is 127.0.0.1 and ::1")
	f.DurationVar(&o.timeout, "pod-running-timeout", 0, "how long to wait until the pod is running (5s, 2m, 3h)")
	return command
}

func (c *cli) portForward(ctx context.Context, target string, ports []string, o *forwardOptions) error {
	addresses, err := listenAddresses(o.addresses)
	if err != nil {
		return err
	}
	client, p, err := c.findPod(ctx, target)
	if err != nil {
		return err
	}
	forwards, err := parseForwards(ports, p)
	if err != nil {
		return err
	}
	if o.timeout > 0 {
		if p, err = awaitRunning(ctx, client, p, o.timeout); err != nil {
			return err
		}
	}
	if p.Status.Phase != corev1.PodRunning {
		return plainf("unable to forward port because pod is not running. Current status=%s", p.Status.Phase)
	}
	w := &forwarder{c: c, client: client, pod: p}
	defer w.close()
	listening := false
	for i := range forwards {
		if err := w.listen(ctx, &forwards[i], addresses); err != nil {
			fmt.Fprintf(c.err, "Unable to listen on port %d: %v\n", forwards[i].local, err)
			continue
		}
		listening = true
	}
	if !listening {
		return plainf("unable to listen on any of the requested ports: %v", forwards)
	}
	return w.serve(ctx)
}

// forward is a pair of ports.
type forward struct{ local, remote uint16 }

// parseForwards reads [LOCAL:]REMOTE of each port; what is said about a wrong
// one is kubectl's.
func parseForwards(ports []string, p *corev1.Pod) ([]forward, error) {
	var forwards []forward
	for _, port := range ports {
		parts := strings.Split(port, ":")
		if len(parts) > 2 {
			return nil, plainf("invalid port format '%s'", port)
		}
		local, remote := parts[0], parts[len(parts)-1]
		if remote == "" {
			return nil, plainf("remote port cannot be empty")
		}
		to, err := remotePort(remote, p)
		if err != nil {
			return nil, err
		}
		switch {
		case len(parts) == 1:
			local = strconv.Itoa(int(to))
		case local == "":
			local = "0"
		}
		from, err := strconv.ParseUint(local, 10, 16)
		if err != nil {
			return nil, plainf("error parsing local port '%s': %v", local, err)
		}
		forwards = append(forwards, forward{uint16(from), to})
	}
	return forwards, nil
}

// remotePort is the number of a port of p, which may be named by a name that p
// gives it.
func remotePort(text string, p *corev1.Pod) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if _, numeric := strconv.Atoi(text); numeric == nil {
		if err != nil {
			return 0, plainf("error parsing remote port '%s': %v", text, err)
		}
		if n == 0 {
			return 0, plainf("remote port must be > 0")
		}
	}
	var protocols []corev1.Protocol
	for _, container := range p.Spec.Containers {
		for _, port := range container.Ports {
			if port.Name == text {
				n, err = uint64(port.ContainerPort), nil
			}
			if port.Name == text || strconv.Itoa(int(port.ContainerPort)) == text {
				protocols = append(protocols, port.Protocol)
			}
		}
	}
	switch {
	case err != nil:
		return 0, plainf("Pod '%s' does not have a named port '%s'", p.Name, text)
	case slices.Contains(protocols, corev1.ProtocolUDP) && !slices.ContainsFunc(protocols, func(p corev1.Protocol) bool { return p != corev1.ProtocolUDP }):
		return 0, plainf("UDP protocol is not supported for %s", text)
	}
	return uint16(n), nil
}

// listenAddress is an address to listen on. Of those that stand for localhost
// one is enough.
type listenAddress struct {
	netip.Addr
	localhost bool
}

func listenAddresses(texts []string) ([]listenAddress, error) {
	var list []listenAddress
	add := func(a listenAddress) {
		if !slices.ContainsFunc(list, func(b listenAddress) bool { return a.Addr == b.Addr }) {
			list = append(list, a)
		}
	}
	for _, text := range texts {
		if text == "localhost" {
			add(listenAddress{netip.AddrFrom4([4]byte{127, 0, 0, 1}), true})
			add(listenAddress{netip.IPv6Loopback(), true})
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, plainf("%s is not a valid IP", text)
		}
		add(listenAddress{a, false})
	}
	if len(list) == 0 {
		return nil, plainf("you must specify at least 1 address")
	}
	return list, nil
}

// forwarder hands what it accepts to a pod.
type forwarder struct {
	c         *cli
	client    *node.Client
	pod       *corev1.Pod
	listeners []listener
}

type listener struct {
	*net.TCPListener
	forward
}

// listen begins to listen for f on the addresses. A free port that the first
// one picked is everybody's.
func (w *forwarder) listen(ctx context.Context, f *forward, addresses []listenAddress) error {
	var errs []error
	fatal, localhost := false, false
	for _, a := range addresses {
		network := "tcp4"
		if a.Is6() {
			network = "tcp6"
		}
		var config net.ListenConfig
		l, err := config.Listen(ctx, network, netip.AddrPortFrom(a.Addr, f.local).String())
		if err != nil {
			errs = append(errs, fmt.Errorf("unable to create listener: Error %w", err))
			fatal = fatal || !a.localhost
			continue
		}
		localhost = localhost || a.localhost
		f.local = l.Addr().(*net.TCPAddr).AddrPort().Port()
		w.listeners = append(w.listeners, listener{l.(*net.TCPListener), *f})
		fmt.Fprintf(w.c.out, "Forwarding from %s -> %d\n", netip.AddrPortFrom(a.Addr, f.local), f.remote)
	}
	if fatal || len(errs) > 0 && !localhost {
		return plainf("Listeners failed to create with the following errors: %v", errs)
	}
	return nil
}

func (w *forwarder) close() {
	for _, l := range w.listeners {
		_ = l.Close()
	}
}

// serve forwards until ctx ends, which is no error, or the pod does.
func (w *forwarder) serve(ctx context.Context) error {
	during, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	defer group.Wait()
	defer w.close()
	defer cancel()
	for _, l := range w.listeners {
		group.Go(func() {
			for {
				conn, err := l.AcceptTCP()
				if err != nil {
					return // closed
				}
				group.Go(func() { w.handle(during, conn, l.forward) })
			}
		})
	}
	_, err := awaitPod(ctx, w.client, w.pod, func(p *corev1.Pod) bool {
		return p.Status.Phase != corev1.PodRunning && p.Status.Phase != corev1.PodPending
	})
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil || errors.Is(err, errPodGone):
		return plainf("lost connection to pod")
	}
	return err
}

// handle forwards one connection to its end.
func (w *forwarder) handle(ctx context.Context, conn *net.TCPConn, f forward) {
	fmt.Fprintf(w.c.out, "Handling connection for %d\n", f.local)
	remote, err := w.dial(ctx, f.remote)
	if err != nil {
		_ = conn.Close()
		if ctx.Err() == nil {
			fmt.Fprintf(w.c.err, "error: an error occurred forwarding %d -> %d: %v\n", f.local, f.remote, err)
		}
		return
	}
	relay.Join(ctx, conn, remote)
}

// dial asks the node again when it died over the question.
func (w *forwarder) dial(ctx context.Context, port uint16) (*net.TCPConn, error) {
	const tries = 3
	for try := 1; ; try++ {
		conn, err := w.client.DialPod(ctx, w.pod.Namespace, w.pod.Name, port)
		var interrupted *node.InterruptedError
		if try < tries && errors.As(err, &interrupted) {
			continue
		}
		return conn, err
	}
}

// completePodThenPorts completes POD and then the ports that the pod tells of.
func (c *cli) completePodThenPorts(command *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return c.completePods(command, prefix), cobra.ShellCompDirectiveNoFileComp
	}
	var ports []string
	name, err := podName(args[0])
	client, cerr := c.dial(command.Context(), false)
	if err != nil || cerr != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	p, err := client.GetPod(command.Context(), c.ns(), name)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for _, container := range p.Spec.Containers {
		for _, port := range container.Ports {
			if port.Protocol != corev1.ProtocolUDP {
				ports = append(ports, strconv.Itoa(int(port.ContainerPort)))
			}
		}
	}
	return ports, cobra.ShellCompDirectiveNoFileComp
}
