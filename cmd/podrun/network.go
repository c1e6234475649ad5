package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/node"
)

func networkCommand(c *cli) *cobra.Command {
	command := &cobra.Command{
		Use:   "network",
		Short: "Show the networks that pods may be joined to",
		Long: `Show the networks that pods may be joined to.

A pod is in the built-in network podrun, or in the one that its annotation
podrun.dev/network names: a CNI network list in ~/.config/podrun/cni/net.d or
/etc/cni/net.d.`,
		Example: `  podrun network ls
  podrun network inspect podrun
  podrun network check web`,
		Args: cobra.ArbitraryArgs,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(command, args[0])
			}
			return usagef("say what: podrun network ls, inspect or check")
		},
	}
	command.AddCommand(networkListCommand(c), networkInspectCommand(c), networkCheckCommand(c))
	return command
}

func networkListCommand(c *cli) *cobra.Command {
	var quiet bool
	var output string
	command := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List networks",
		Example: "  podrun network ls -o json",
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return usagef("unknown output format %q; json is the one there is", output)
			}
			return c.networks(command.Context(), quiet, output)
		},
	}
	command.Flags().BoolVarP(&quiet, "quiet", "q", false, "only the names")
	command.Flags().StringVarP(&output, "output", "o", "", "output format: json")
	return command
}

func (c *cli) networks(ctx context.Context, quiet bool, output string) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	list, err := client.Networks(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("cannot list networks: %w", err)
	case output == "json":
		return c.networkJSON(list)
	case quiet:
		for _, n := range list {
			fmt.Fprintln(c.out, n.Name)
		}
		return nil
	}
	return dockerTable(c.out, networkTable(list), true)
}

func (c *cli) networkJSON(list []node.Network) error {
	data, err := json.MarshalIndent(list, "", "    ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.out, "%s\n", data)
	return err
}

// networkTable is "podrun network ls". What is wrong stands where the status of
// a container would.
func networkTable(list []node.Network) grid {
	t := grid{headers: []string{"NETWORK", "PLUGINS", "CNI", "PODS", "FILE", "STATUS"}}
	for _, n := range list {
		file, status := n.File, "ready"
		if file == "" {
			file = "built-in"
		}
		if n.Problem != "" {
			status = "not usable: " + n.Problem
		}
		t.rows = append(t.rows, []string{n.Name, orNone(strings.Join(n.Plugins, ",")), orNone(n.CNIVersion), fmt.Sprint(len(n.Pods)), file, status})
	}
	return t
}

func networkInspectCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "inspect [NAME...]",
		Short:             "Show all of networks: their lists, and who is in them",
		Example:           "  podrun network inspect podrun",
		ValidArgsFunction: c.completeFrom(networkNames),
		RunE: func(command *cobra.Command, args []string) error {
			return c.inspectNetworks(command.Context(), args)
		},
	}
}

func (c *cli) inspectNetworks(ctx context.Context, names []string) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	list, err := client.Networks(ctx)
	if err != nil {
		return fmt.Errorf("cannot list networks: %w", err)
	}
	if len(names) == 0 {
		return c.networkJSON(list)
	}
	var failed errorList
	found := []node.Network{}
	for _, name := range names {
		before := len(found)
		for _, n := range list {
			if n.Name == name {
				found = append(found, n)
			}
		}
		if len(found) == before {
			failed = append(failed, hint.Wrap(fmt.Errorf("cannot inspect network %q: no such network", name), `"podrun network ls" lists them`))
		}
	}
	if len(found) > 0 {
		if err := c.networkJSON(found); err != nil {
			return err
		}
	}
	return failed.err()
}

// networkNames are those that may be completed.
func networkNames(command *cobra.Command, client *node.Client) []string {
	list, err := client.Networks(command.Context())
	if err != nil {
		return nil
	}
	var names []string
	for _, n := range list {
		names = append(names, n.Name)
	}
	return names
}

func networkCheckCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "check POD",
		Short: "Ask the plugins of a pod's network whether all is as they made it",
		Long: `Ask the plugins of a pod's network whether all is as they made it (CNI's CHECK).

The exit code is 1 when something is not, and when the plugins cannot tell: CHECK came
with CNI 0.4.0.`,
		Example:           "  podrun network check web",
		ValidArgsFunction: c.completeResource(podKind),
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("network check needs a pod")
			}
			return c.checkNetwork(command.Context(), args[0])
		},
	}
}

func (c *cli) checkNetwork(ctx context.Context, name string) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	err = client.CheckNetwork(ctx, c.ns(), name)
	switch {
	case apierrors.IsNotFound(err):
		return hint.Wrap(fmt.Errorf("cannot check the network of pod %q: no such pod in namespace %q", name, c.ns()), `"podrun get pods -A" lists all`)
	case err != nil:
		return fmt.Errorf("cannot check the network of pod %q: %w", name, cause(err))
	}
	_, err = fmt.Fprintf(c.out, "pod/%s: its network is as it was made\n", name)
	return err
}
