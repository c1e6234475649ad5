package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

func pushCommand(c *cli) *cobra.Command {
	var quiet bool
	var authfile string
	command := &cobra.Command{
		Use:   "push NAME[:TAG]...",
		Short: "Send images to their registries",
		Long: `Send images to the registries that their names begin with.

What a registry has already is not sent again. Credentials are those of
"podrun login", docker and podman.`,
		Example: `  podrun tag app registry.example:5000/team/app:v2
  podrun push registry.example:5000/team/app:v2`,
		ValidArgsFunction: c.completeFrom(imageNames),
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("push needs an image")
			}
			var request node.PushRequest
			if authfile != "" {
				var err error
				if request.Credentials, err = node.ReadCredentials(authfile); err != nil {
					return err
				}
			}
			return c.push(command.Context(), args, request, quiet)
		},
	}
	command.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the names of the images only")
	command.Flags().StringVar(&authfile, "authfile", "", "a file of credentials that come before the others")
	return command
}

func (c *cli) push(ctx context.Context, refs []string, request node.PushRequest, quiet bool) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	var failed errorList
	for _, ref := range refs {
		name, err := node.ImageName(ref)
		if err == nil {
			request.Reference = ref
			err = c.pushOne(ctx, client, request, name, quiet)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
		case strings.HasPrefix(cause(err).Error(), "cannot "): // the node says it all
			failed = append(failed, cause(err))
		default:
			failed = append(failed, fmt.Errorf("cannot push %q: %w", ref, cause(err)))
		}
	}
	return failed.err()
}

func (c *cli) pushOne(ctx context.Context, client *node.Client, request node.PushRequest, name string, quiet bool) error {
	if quiet {
		_, err := client.Push(ctx, request, nil)
		if err == nil {
			fmt.Fprintln(c.out, name)
		}
		return err
	}
	repository, tag := splitName(name)
	fmt.Fprintf(c.out, "The push refers to repository [%s]\n", repository)
	bars := newBars(c.out)
	pushed, err := client.Push(ctx, request, bars.show)
	bars.done()
	if err == nil {
		fmt.Fprintf(c.out, "%s: digest: %s size: %d\n", tag, pushed.Digest, pushed.Size)
	}
	return err
}
