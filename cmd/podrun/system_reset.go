package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

const resetWarning = `WARNING! This will remove, at once and for good:
  - all pods, and the objects beside them
  - all volumes and persistent volume claims, with their files
  - all images
  - all that the node keeps: networks, logs, events
`

func systemResetCommand(c *cli) *cobra.Command {
	var force bool
	command := &cobra.Command{
		Use:   "reset [-f]",
		Short: "Kill all pods and remove everything that podrun keeps",
		Long: `Kill all pods and remove everything that podrun keeps: as before its first use.

Pods get no time to end. Your configuration and credentials stay, and so does
podrun.service. It works also when the node cannot start.`,
		Args: noArguments("reset"),
		RunE: func(command *cobra.Command, _ []string) error {
			if !force && !c.confirm(resetWarning) {
				return nil
			}
			return c.systemReset(command.Context())
		},
	}
	command.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return command
}

func (c *cli) systemReset(ctx context.Context) error {
	paths, err := node.LocatePaths()
	if err == nil {
		err = node.Reset(ctx, paths)
	}
	if err != nil {
		return fmt.Errorf("cannot reset: %w", err)
	}
	fmt.Fprintln(c.out, "all that podrun kept is removed")
	return nil
}
