package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func imagesCommand(c *cli) *cobra.Command {
	var quiet, whole, digests bool
	var output string
	command := &cobra.Command{
		Use:     "images",
		Short:   "List images",
		Example: "  podrun images --digests",
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return usagef("unknown output format %q; json is the one there is", output)
			}
			return c.images(command.Context(), quiet, whole, digests, output)
		},
	}
	command.Flags().BoolVarP(&quiet, "quiet", "q", false, "only the ids")
	command.Flags().BoolVar(&whole, "no-trunc", false, "whole ids")
	command.Flags().BoolVar(&digests, "digests", false, "with what the names stand for in their registry")
	command.Flags().StringVarP(&output, "output", "o", "", "output format: json")
	return command
}

func (c *cli) images(ctx context.Context, quiet, whole, digests bool, output string) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	list, err := client.ListImages(ctx)
	if err != nil {
		return err
	}
	switch {
	case output == "json":
		data, err := json.MarshalIndent(list, "", "    ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "%s\n", data)
		return err
	case quiet:
		for _, img := range list {
			id := string(img.ID)
			if !whole {
				id = cut(img.ID.Hex(), idDigits, false)
			}
			fmt.Fprintln(c.out, id)
		}
		return nil
	}
	return dockerTable(c.out, imageTable(list, whole, digests, time.Now()), true)
}
