package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

func imageImportCommand(c *cli) *cobra.Command {
	var changes []string
	var message string
	command := &cobra.Command{
		Use:   "import FILE|- [NAME[:TAG]]",
		Short: "Make an image of a root filesystem",
		Long: `Make an image of a root filesystem in a tar archive, which may be compressed with
gzip or zstd. "-" is standard input.

-c sets what the image says of its containers, in the words of a Dockerfile: CMD,
ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR.`,
		Example: `  podrun image import rootfs.tar.gz base:v1
  docker export web | podrun image import -c 'CMD ["nginx"]' - web`,
		Args: cobra.ArbitraryArgs,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usagef("import needs a file, and may have a name for the image")
			}
			request := node.ImportRequest{Changes: changes, Message: message}
			if len(args) == 2 {
				request.Reference = args[1]
			}
			return c.importImage(command.Context(), args[0], request)
		},
	}
	command.Flags().StringArrayVarP(&changes, "change", "c", nil, "an instruction of a Dockerfile to apply")
	command.Flags().StringVarP(&message, "message", "m", "", "what the image's history says")
	return command
}

func (c *cli) importImage(ctx context.Context, input string, request node.ImportRequest) error {
	if strings.HasPrefix(input, "http://") || strings.HasPrefix(input, "https://") {
		return usagef("import reads files and standard input; fetch %s first: curl -L %s | podrun image import -", input, input)
	}
	if request.Message == "" {
		request.Message = "Imported from " + filepath.Base(input)
	}
	if request.Reference != "" {
		if _, err := node.ImageName(request.Reference); err != nil {
			return fmt.Errorf("cannot import an image: %w", err)
		}
	}
	pack, err := c.archiveInput(input, "import", false)
	if err != nil {
		return err
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	what := "import an image"
	if input != "-" {
		request.Archive, what = input, fmt.Sprintf("import %q", input)
	}
	img, err := client.Import(ctx, request, pack)
	if err != nil {
		return sayOnce(what, err)
	}
	fmt.Fprintln(c.out, img.ID)
	return nil
}
