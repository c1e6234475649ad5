package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

func loadCommand(c *cli) *cobra.Command {
	var input string
	var quiet bool
	command := &cobra.Command{
		Use:   "load [-i FILE]",
		Short: "Take in images from an archive",
		Long: `Take in images from an archive that "docker save", "podman save", "podrun save"
or skopeo made, or from an OCI image layout, in a tar archive or a directory.

Archives and their layers may be compressed with gzip or zstd. Without -i the
archive is read from standard input.`,
		Example: `  podrun load -i app.tar
  docker save app | podrun load`,
		Args: cobra.ArbitraryArgs,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("load takes no arguments; the archive is given with -i")
			}
			return c.load(command.Context(), input, quiet)
		},
	}
	command.Flags().StringVarP(&input, "input", "i", "", "the archive or the directory; standard input if none is given")
	command.Flags().BoolVarP(&quiet, "quiet", "q", false, "do not show the progress")
	_ = command.MarkFlagFilename("input")
	return command
}

func (c *cli) load(ctx context.Context, input string, quiet bool) error {
	pack, err := c.archiveInput(input, "load", true)
	if err != nil {
		return err
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	bars := newBars(c.out)
	show := bars.show
	if quiet || bars.width == 0 {
		show = nil // docker shows none either, where it could not draw
	}
	request := node.LoadRequest{}
	what := "load images"
	if input != "" && input != "-" {
		request.Archive, what = input, fmt.Sprintf("load %q", input)
	}
	loaded, err := client.Load(ctx, request, pack, show)
	bars.done()
	if err != nil {
		return sayOnce(what, err)
	}
	for _, l := range loaded {
		for _, name := range l.Names {
			repository, tag := splitName(name)
			fmt.Fprintf(c.out, "Loaded image: %s:%s\n", repository, tag)
		}
		if len(l.Names) == 0 {
			fmt.Fprintf(c.out, "Loaded image ID: %s\n", l.Image.ID)
		}
	}
	return nil
}

// archiveInput is how to send what a verb is given: a file, standard input, or a
// directory as a tar archive, where the owners of its files do not matter.
func (c *cli) archiveInput(input, verb string, directories bool) (pack func(io.Writer) error, err error) {
	if input == "" || input == "-" {
		if isTerminal(c.in) {
			return nil, usagef("%s reads an archive from standard input, which is a terminal; give a file", verb)
		}
		return func(w io.Writer) error { return copyTo(w, c.in) }, nil
	}
	info, err := os.Stat(input)
	if err != nil {
		return nil, fmt.Errorf("cannot %s %q: %w", verb, input, reason(err))
	}
	if info.IsDir() {
		dir, err := filepath.EvalSymlinks(input)
		if err == nil && !directories {
			err = errors.New("it is a directory; pack it with tar")
		}
		if err != nil {
			return nil, fmt.Errorf("cannot %s %q: %w", verb, input, err)
		}
		return func(w io.Writer) error { return c.pack(w, dir, ".") }, nil
	}
	f, err := os.Open(input)
	if err != nil {
		return nil, fmt.Errorf("cannot %s %q: %w", verb, input, reason(err))
	}
	return func(w io.Writer) error { return errors.Join(copyTo(w, f), f.Close()) }, nil
}

func copyTo(w io.Writer, r io.Reader) error {
	_, err := io.Copy(w, r)
	return err
}

// reason is the cause of an error that names its path again.
func reason(err error) error {
	var path *os.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}

// sayOnce says what cannot be done, unless the node's answer says it already.
func sayOnce(what string, err error) error {
	err = cause(err)
	var interrupted *node.InterruptedError
	if !errors.As(err, &interrupted) && strings.HasPrefix(err.Error(), "cannot ") {
		return err
	}
	return fmt.Errorf("cannot %s: %w", what, err)
}
