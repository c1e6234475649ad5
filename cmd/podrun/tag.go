package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

func tagCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "tag IMAGE NAME[:TAG]",
		Short:             "Give an image one more name",
		Example:           "  podrun tag app registry.example:5000/team/app:v2",
		ValidArgsFunction: c.completeFrom(imageNames),
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("tag needs an image and a name for it")
			}
			if _, err := node.ImageName(args[1]); err != nil {
				return fmt.Errorf("cannot tag image %q: %w", args[0], err)
			}
			client, err := c.connect(command.Context())
			if err != nil {
				return err
			}
			if err := client.TagImage(command.Context(), args[0], args[1]); err != nil {
				return imageError("tag", args[0], err)
			}
			return nil
		},
	}
}
