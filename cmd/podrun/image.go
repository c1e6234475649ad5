package main

import (
	"fmt"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/internal/hint"
)

func imageCommand(c *cli) *cobra.Command {
	command := &cobra.Command{
		Use:   "image",
		Short: "Manage images",
		Long:  `Manage images: docker's names for the verbs that are there without "image" too, and what is only here.`,
		Example: `  podrun image ls
  podrun image inspect busybox
  podrun image prune -a --filter until=240h`,
		Args: cobra.ArbitraryArgs,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return command.Help()
			}
			return unknownCommand(command, args[0])
		},
	}
	ls := imagesCommand(c)
	ls.Use, ls.Aliases, ls.Example = "ls [NAME[:TAG]]", []string{"list"}, "  podrun image ls --digests"
	rm := rmiCommand(c)
	rm.Use, rm.Aliases = "rm [-f] IMAGE...", []string{"remove"}
	for _, sub := range []*cobra.Command{
		ls, rm, pullCommand(c), pushCommand(c), tagCommand(c), imageInspectCommand(c), imageHistoryCommand(c), imagePruneCommand(c),
		loadCommand(c), saveCommand(c), imageImportCommand(c),
	} {
		if sub.ValidArgsFunction == nil {
			sub.ValidArgsFunction = cobra.NoFileCompletions
		}
		command.AddCommand(sub)
	}
	return command
}

// imageError says what could not be done with an image.
func imageError(verb, name string, err error) error {
	if apierrors.IsNotFound(err) {
		return hint.Wrap(fmt.Errorf("cannot %s image %q: no such image", verb, name), `"podrun images" lists them`)
	}
	return fmt.Errorf("cannot %s image %q: %w", verb, name, cause(err))
}
