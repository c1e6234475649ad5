package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

func pullCommand(c *cli) *cobra.Command {
	var quiet bool
	var platform, authfile string
	command := &cobra.Command{
		Use:   "pull IMAGE...",
		Short: "Fetch images from their registries",
		Long: `Fetch images from their registries, whether they are here already or not.

"busybox" means docker.io/library/busybox:latest, unless registries.conf says
otherwise. Credentials are those of "podrun login", docker and podman.

Of an image for several platforms, this machine's is fetched; --platform takes
another. Several images are fetched at once.`,
		Example: `  podrun pull busybox
  podrun pull registry.example:5000/app:v2 nginx@sha256:...
  podrun pull --platform linux/arm64/v8 busybox`,
		ValidArgsFunction: c.completeFrom(imageNames),
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("pull needs an image")
			}
			request := node.PullRequest{Platform: platform}
			if authfile != "" {
				var err error
				if request.Credentials, err = node.ReadCredentials(authfile); err != nil {
					return err
				}
			}
			return c.pull(command.Context(), args, request, quiet)
		},
	}
	command.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the names of the images only")
	command.Flags().StringVar(&platform, "platform", "", "os/architecture[/variant] that the image shall be for")
	command.Flags().StringVar(&authfile, "authfile", "", "a file of credentials that come before the others")
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

// pull fetches images side by side, and says in their order what became of each.
func (c *cli) pull(ctx context.Context, refs []string, request node.PullRequest, quiet bool) error {
	for _, ref := range refs {
		if _, err := node.ImageName(ref); err != nil {
			return fmt.Errorf("cannot pull %q: %w", ref, err)
		}
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	var bars *bars
	var show func(node.Progress)
	if !quiet {
		for _, ref := range refs {
			fmt.Fprintf(c.out, "Pulling %s\n", ref)
		}
		bars = newBars(c.out)
		show = bars.show
	}
	pulled, errs := make([]*node.Pulled, len(refs)), make([]error, len(refs))
	var all sync.WaitGroup
	for i, ref := range refs {
		request := request
		request.Reference = ref
		all.Go(func() { pulled[i], errs[i] = client.Pull(ctx, request, show) })
	}
	all.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if bars != nil {
		bars.done()
		for _, w := range bars.warnings {
			fmt.Fprintln(c.err, "Warning:", w)
		}
	}
	var failed errorList
	for i, ref := range refs {
		if errs[i] != nil {
			failed = append(failed, pullError(ref, errs[i]))
			continue
		}
		if !quiet {
			fmt.Fprintf(c.out, "Digest: %s\n", pulled[i].Image.Digest)
		}
		fmt.Fprintln(c.out, pulled[i].Name)
	}
	return failed.err()
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
