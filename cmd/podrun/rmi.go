package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/internal/hint"
)

func rmiCommand(c *cli) *cobra.Command {
	var force bool
	command := &cobra.Command{
		Use:   "rmi [-f] IMAGE...",
		Short: "Remove images",
		Long: `Remove images by name or id. An image goes with its last name.

An image that a pod uses is not removed. With -f it is no failure that an image
is not there.`,
		ValidArgsFunction: c.completeFrom(imageNames),
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("rmi needs an image")
			}
			return c.rmi(command.Context(), args, force)
		},
	}
	command.Flags().BoolVarP(&force, "force", "f", false, "remove an image with all its names")
	return command
}

func (c *cli) rmi(ctx context.Context, names []string, force bool) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	var failed errorList
	missing := 0
	for _, name := range names {
		lines, err := client.RemoveImage(ctx, name, force)
		for _, line := range lines {
			fmt.Fprintln(c.out, line)
		}
		switch {
		case apierrors.IsNotFound(err):
			missing++
			failed = append(failed, hint.Wrap(fmt.Errorf("cannot remove image %q: no such image", name), `"podrun images" lists them`))
		case err != nil:
			failed = append(failed, fmt.Errorf("cannot remove image %q: %w", name, cause(err)))
		}
	}
	if force && missing == len(failed) { // as docker has it: they are gone, which was wanted
		for _, err := range failed {
			fmt.Fprintln(c.err, errorLine(err, false))
		}
		return nil
	}
	return failed.err()
}
