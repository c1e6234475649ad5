package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

func systemEnableCommand(c *cli) *cobra.Command {
	var now bool
	command := &cobra.Command{
		Use:   "enable [--now]",
		Short: "Have systemd start the node, and with it the pods, with the machine",
		Long: `Have systemd start the node, and with it the pods, with the machine.

Writes a unit, podrun.service: yours, or as root the machine's. Yours starts at
your first login and ends with your last session, unless you linger:
sudo loginctl enable-linger $USER.

Pods that run are not touched. What the environment says of podrun, of proxies
without a password and of certificates is written into the unit; call it again
when that has changed.`,
		Example: "  podrun system enable --now",
		Args:    noArguments("enable"),
		RunE: func(command *cobra.Command, _ []string) error {
			return c.systemEnable(command.Context(), now)
		},
	}
	command.Flags().BoolVar(&now, "now", false, "start it at once, too")
	return command
}

func (c *cli) systemEnable(ctx context.Context, now bool) error {
	u, err := node.EnableUnit(ctx, now)
	if err != nil {
		return fmt.Errorf("cannot enable %s: %w", u.Name, err)
	}
	does := "enabled"
	if now {
		does = "enabled and started"
	}
	fmt.Fprintf(c.out, "%s %s (%s)\n", u.Name, does, u.Path)
	if u.Linger != "" {
		fmt.Fprintf(c.err, "podrun: it starts at your first login and ends with your last session; to have it from the machine's start to its end, run: %s\n", u.Linger)
	}
	return nil
}

func systemDisableCommand(c *cli) *cobra.Command {
	var now bool
	command := &cobra.Command{
		Use:   "disable [--now]",
		Short: "Undo enable",
		Long: `Undo enable: no longer start the node with the machine, and remove the unit.

Pods that run go on. With --now the node is ended, too; the next command starts
it again.`,
		Args: noArguments("disable"),
		RunE: func(command *cobra.Command, _ []string) error {
			u, err := node.DisableUnit(command.Context(), now)
			if err != nil {
				return fmt.Errorf("cannot disable %s: %w", u.Name, err)
			}
			if u.Path == "" {
				fmt.Fprintf(c.out, "%s is not there\n", u.Name)
				return nil
			}
			fmt.Fprintf(c.out, "%s disabled, %s removed\n", u.Name, u.Path)
			return nil
		},
	}
	command.Flags().BoolVar(&now, "now", false, "end the node, too")
	return command
}

// systemServiceCommand is what the unit runs.
func systemServiceCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "service",
		Short:  "Keep a node running, for a service manager",
		Hidden: true,
		Args:   noArguments("service"),
		RunE: func(command *cobra.Command, _ []string) error {
			paths, err := node.LocatePaths()
			if err == nil {
				err = node.Keep(command.Context(), paths)
			}
			if err != nil {
				return fmt.Errorf("cannot keep a node running: %w", err)
			}
			return nil
		},
	}
}

func systemStopCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "stop",
		Short: "End the node and leave the pods running",
		Long: `End the node and leave the pods running.

Nobody watches them then: what ends stays ended, probes rest, and ports of the
host are closed. The next command that needs a node starts one, which takes them
up; that is also how a new podrun takes over from an older one. To end pods,
delete them.`,
		Args: noArguments("stop"),
		RunE: func(command *cobra.Command, _ []string) error {
			return c.systemStop(command.Context())
		},
	}
}

func (c *cli) systemStop(ctx context.Context) error {
	paths, err := node.LocatePaths()
	if err != nil {
		return err
	}
	running := -1
	if client, err := c.dial(ctx, false); err == nil {
		if list, err := client.ListContainers(ctx, false); err == nil {
			running = len(list)
		}
	}
	err = node.StopNode(ctx, paths)
	switch {
	case errors.Is(err, node.ErrNotRunning):
		fmt.Fprintln(c.out, "no node is running")
		return nil
	case err != nil:
		return fmt.Errorf("cannot stop the node: %w", err)
	case running > 0:
		fmt.Fprintf(c.out, "node stopped; %s on without it, and the next command takes them up\n", count(running, "container goes", "containers go"))
		return nil
	}
	fmt.Fprintln(c.out, "node stopped")
	return nil
}

// count is a number with its noun.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// noArguments refuses words after a verb that takes none.
func noArguments(verb string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("%s takes no arguments", verb)
		}
		return nil
	}
}
