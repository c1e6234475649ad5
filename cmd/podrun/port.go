package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/pod"
)

func portCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "port POD [PORT[/PROTOCOL]]",
		Short: "List the host ports of a pod, or where one of its ports is on the host",
		Long: `List the host ports of a pod: what its containers ask for by hostPort.

To reach another port of a pod for a while, use port-forward.`,
		Example: `  podrun port web
  podrun port web 80
  podrun port web 53/udp`,
		ValidArgsFunction: c.completePodThenPorts,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usagef("port needs a pod, and at most one port of it")
			}
			return c.port(command.Context(), args[0], args[1:])
		},
	}
}

func (c *cli) port(ctx context.Context, target string, args []string) error {
	_, p, err := c.findPod(ctx, target)
	if err != nil {
		return err
	}
	published := publishedPorts(p)
	if why := withoutPorts(p); why != "" && len(published) > 0 {
		return hint.Wrap(fmt.Errorf("pod %q %s", p.Name, why), fmt.Sprintf("\"podrun describe pod %s\" says more", p.Name))
	}
	if len(args) == 0 {
		for _, port := range published {
			fmt.Fprintf(c.out, "%s -> %s\n", port.inside, port.outside)
		}
		return nil
	}
	number, protocol, given := strings.Cut(args[0], "/")
	if !given {
		protocol = "tcp"
	}
	n, err := strconv.ParseUint(number, 10, 16)
	known := slices.Contains([]string{"tcp", "udp", "sctp"}, strings.ToLower(protocol))
	if err != nil || n == 0 || !known {
		return usagef("invalid port %q: use PORT or PORT/PROTOCOL, as in 53/udp", args[0])
	}
	inside := fmt.Sprintf("%d/%s", n, strings.ToLower(protocol))
	found := false
	for _, port := range published {
		if port.inside == inside {
			fmt.Fprintln(c.out, port.outside)
			found = true
		}
	}
	if !found {
		none := fmt.Errorf("no host port leads to port %s of pod %q", inside, p.Name)
		if inside != fmt.Sprintf("%d/tcp", n) { // port-forward is of TCP only
			return hint.Wrap(none, fmt.Sprintf("\"podrun port %s\" lists those that there are", p.Name))
		}
		return hint.Wrap(none, fmt.Sprintf("for a while \"podrun port-forward %s %d\" does", p.Name, n))
	}
	return nil
}

// withoutPorts says why a pod that asks for host ports has none; "" if it has
// them.
func withoutPorts(p *corev1.Pod) string {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return "has ended and has given its host ports back"
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status != corev1.ConditionTrue {
			return "waits for its host ports"
		}
	}
	return ""
}

// published is one host port: "80/tcp" is at "0.0.0.0:8080".
type published struct{ inside, outside string }

// publishedPorts are in the order of the manifest, sidecars first.
func publishedPorts(p *corev1.Pod) (list []published) {
	containers := slices.Clone(p.Spec.InitContainers)
	containers = slices.DeleteFunc(containers, func(c corev1.Container) bool { return !pod.IsSidecar(&c) })
	for _, c := range append(containers, p.Spec.Containers...) {
		for _, port := range c.Ports {
			if port.HostPort == 0 {
				continue
			}
			hosts := []string{port.HostIP}
			if port.HostIP == "" {
				hosts = []string{"0.0.0.0", "::"}
			}
			for _, host := range hosts {
				line := published{
					fmt.Sprintf("%d/%s", port.ContainerPort, strings.ToLower(string(port.Protocol))),
					net.JoinHostPort(host, strconv.Itoa(int(port.HostPort))),
				}
				if !slices.Contains(list, line) {
					list = append(list, line)
				}
			}
		}
	}
	return list
}
