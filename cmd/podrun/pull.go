package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

func pullCommand(c *cli) *cobra.Command {
	var quiet bool
	command := &cobra.Command{
		Use:   "pull IMAGE...",
		Short: "Fetch images from their registries",
		Long: `Fetch images from their registries, whether they are here already or not.

"busybox" means docker.io/library/busybox:latest. Credentials are those that
docker and podman have stored.`,
		Example: `  podrun pull busybox
  podrun pull registry.example:5000/app:v2 nginx@sha256:...`,
		ValidArgsFunction: c.completeFrom(imageNames),
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("pull needs an image")
			}
			return c.pull(command.Context(), args, quiet)
		},
	}
	command.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the names of the images only")
	return command
}

func imageNames(command *cobra.Command, client *node.Client) []string {
	images, err := client.ListImages(command.Context())
	if err != nil {
		return nil
	}
	var names []string
	for _, img := range images {
		names = append(names, img.References...)
	}
	return names
}

func (c *cli) pull(ctx context.Context, refs []string, quiet bool) error {
	names := make([]string, len(refs))
	for i, ref := range refs {
		var err error
		if names[i], err = node.ImageName(ref); err != nil {
			return fmt.Errorf("cannot pull %q: %w", ref, err)
		}
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	var failed errorList
	for i, ref := range refs {
		img, err := c.pullOne(ctx, client, ref, names[i], quiet)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			failed = append(failed, pullError(ref, err))
			continue
		case !quiet:
			fmt.Fprintf(c.out, "Digest: %s\n", img.Digest)
		}
		fmt.Fprintln(c.out, names[i])
	}
	return failed.err()
}

func (c *cli) pullOne(ctx context.Context, client *node.Client, ref, name string, quiet bool) (*node.Image, error) {
	if quiet {
		return client.Pull(ctx, ref, nil)
	}
	fmt.Fprintf(c.out, "Pulling %s\n", name)
	bars := newBars(c.out)
	img, err := client.Pull(ctx, ref, bars.show)
	bars.done()
	for _, w := range bars.warnings {
		fmt.Fprintln(c.err, "Warning:", w)
	}
	return img, err
}

// pullError says what failed, once: the node's own answer says it already.
func pullError(ref string, err error) error {
	err = cause(err)
	var interrupted *node.InterruptedError
	if !errors.As(err, &interrupted) && strings.HasPrefix(err.Error(), "cannot ") {
		return err
	}
	return fmt.Errorf("cannot pull %q: %w", ref, err)
}
