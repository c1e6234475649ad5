package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

func psCommand(c *cli) *cobra.Command {
	var all, quiet, whole bool
	var filters []string
	command := &cobra.Command{
		Use:   "ps",
		Short: "List containers",
		Example: `  podrun ps
  podrun ps -a --filter pod=web`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			keep, err := containerFilter(filters)
			if err != nil {
				return err
			}
			return c.ps(command.Context(), all, quiet, whole, keep)
		},
	}
	command.Flags().BoolVarP(&all, "all", "a", false, "with those that have ended")
	command.Flags().BoolVarP(&quiet, "quiet", "q", false, "only the ids")
	command.Flags().BoolVar(&whole, "no-trunc", false, "whole ids and commands")
	command.Flags().StringArrayVarP(&filters, "filter", "f", nil, "only those that match: pod=NAME, name=NAME, status=running|exited")
	return command
}

// containerFilter reads --filter; a container must match all of them.
func containerFilter(filters []string) (func(node.Container) bool, error) {
	var tests []func(node.Container) bool
	for _, f := range filters {
		key, value, ok := strings.Cut(f, "=")
		switch {
		case ok && key == "pod":
			tests = append(tests, func(c node.Container) bool { return c.Pod == value || c.Namespace+"/"+c.Pod == value })
		case ok && key == "name":
			tests = append(tests, func(c node.Container) bool { return c.Name == value })
		case ok && key == "status":
			tests = append(tests, func(c node.Container) bool { return c.State == value })
		default:
			return nil, usagef("invalid filter %q: use pod=NAME, name=NAME or status=STATE", f)
		}
	}
	return func(c node.Container) bool {
		for _, test := range tests {
			if !test(c) {
				return false
			}
		}
		return true
	}, nil
}

func (c *cli) ps(ctx context.Context, all, quiet, whole bool, keep func(node.Container) bool) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	list, err := client.ListContainers(ctx, all)
	if err != nil {
		return err
	}
	var kept []node.Container
	for _, container := range list {
		if keep(container) && (c.namespace == "" || container.Namespace == c.namespace) {
			kept = append(kept, container)
		}
	}
	if quiet {
		for _, container := range kept {
			fmt.Fprintln(c.out, cut(container.ID, idDigits, whole))
		}
		return nil
	}
	return dockerTable(c.out, containerTable(kept, whole, time.Now()), true)
}
