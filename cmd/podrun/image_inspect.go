package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/node"
)

func imageInspectCommand(c *cli) *cobra.Command {
	var format string
	command := &cobra.Command{
		Use:   "inspect [-f FORMAT] IMAGE...",
		Short: "Tell all of images",
		Example: `  podrun image inspect busybox
  podrun image inspect -f '{{json .Config.Env}}' busybox`,
		ValidArgsFunction: c.completeFrom(imageNames),
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("inspect needs an image")
			}
			return c.inspectImages(command.Context(), args, format)
		},
	}
	command.Flags().StringVarP(&format, "format", "f", "", `output format: json, or a template such as "{{.Id}}"`)
	return command
}

func (c *cli) inspectImages(ctx context.Context, names []string, format string) error {
	var t template
	if format != "" && format != "json" {
		var err error
		if t, err = parseTemplate(format); err != nil {
			return err
		}
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	var failed errorList
	all := []*inspection{}
	for _, name := range names {
		d, err := client.InspectImage(ctx, name)
		if err != nil {
			failed = append(failed, imageError("inspect", name, err))
			continue
		}
		i, err := inspectImage(d)
		if err != nil {
			failed = append(failed, imageError("inspect", name, err))
			continue
		}
		all = append(all, i)
	}
	if t == nil {
		data, err := json.MarshalIndent(all, "", "    ")
		if err != nil {
			return err
		}
		fmt.Fprintf(c.out, "%s\n", data)
		return failed.err()
	}
	for _, i := range all {
		v, err := decoded(i)
		if err == nil {
			err = t.execute(c.out, v)
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(c.out)
	}
	return failed.err()
}

// decoded is v as decoded JSON.
func decoded(v any) (out any, err error) {
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	return out, err
}

func imageHistoryCommand(c *cli) *cobra.Command {
	var quiet, whole, humans bool
	var format string
	command := &cobra.Command{
		Use:               "history IMAGE",
		Short:             "Show how an image was made",
		Example:           "  podrun image history --no-trunc busybox",
		ValidArgsFunction: c.completeFrom(imageNames),
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("history needs one image")
			}
			return c.imageHistory(command.Context(), args[0], func(d *node.ImageDetail) error {
				r, err := historyRecords(d, d.Sizes, whole, humans, time.Now())
				switch {
				case err != nil:
					return err
				case quiet:
					format = "{{.ID}}"
				case format == "" || format == "table":
					format = `table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}`
				}
				return r.print(c.out, format)
			})
		},
	}
	f := command.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "only the ids")
	f.BoolVar(&whole, "no-trunc", false, "whole commands and ids")
	f.BoolVarP(&humans, "human", "H", true, "sizes and times for people")
	f.StringVar(&format, "format", "", formatHelp)
	return command
}

func (c *cli) imageHistory(ctx context.Context, name string, show func(*node.ImageDetail) error) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	d, err := client.InspectImage(ctx, name)
	if err != nil {
		return imageError("show the history of", name, err)
	}
	if d.Raw == nil {
		return hint.Wrap(fmt.Errorf("cannot show the history of image %q: its config is not kept here", name), "pull it again")
	}
	return show(d)
}
