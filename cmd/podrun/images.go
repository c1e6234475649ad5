package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

type imagesOptions struct {
	quiet, whole, digests, all bool
	output, format             string
	filters                    []string
}

func imagesCommand(c *cli) *cobra.Command {
	var o imagesOptions
	command := &cobra.Command{
		Use:   "images [NAME[:TAG]]",
		Short: "List images",
		Long: `List images, the newest first.

The filters are dangling=true|false, reference=PATTERN, label=NAME[=VALUE],
before=IMAGE, since=IMAGE and until=TIME. Several references are alternatives.`,
		Example: `  podrun images --digests
  podrun images --filter 'reference=*/team/*:v2' --format '{{.Repository}}:{{.Tag}}'`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: c.completeFrom(imageNames),
		RunE: func(command *cobra.Command, args []string) error {
			switch {
			case o.output != "" && o.output != "json":
				return usagef("unknown output format %q; json is the one there is", o.output)
			case len(args) > 1:
				return usagef("images takes one name, got %d", len(args))
			case len(args) == 1:
				o.filters = append(o.filters, "reference="+args[0])
			}
			return c.images(command.Context(), &o)
		},
	}
	f := command.Flags()
	f.BoolVarP(&o.quiet, "quiet", "q", false, "only the ids")
	f.BoolVarP(&o.all, "all", "a", false, "all of them, as always: podrun has none that it hides")
	f.BoolVar(&o.whole, "no-trunc", false, "whole ids")
	f.BoolVar(&o.digests, "digests", false, "with what the names stand for in their registry")
	f.StringVarP(&o.output, "output", "o", "", "output format: json")
	f.StringVar(&o.format, "format", "", formatHelp)
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "only images of which FILTER is true")
	return command
}

// namedImage is one line of "podrun images".
type namedImage struct {
	*node.Image
	name string // whole; "" for an image without one
}

func (c *cli) images(ctx context.Context, o *imagesOptions) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	list, err := client.ListImages(ctx)
	if err != nil {
		return err
	}
	keep, err := parseImageFilters(o.filters, list, time.Now())
	if err != nil {
		return err
	}
	lines, shown := selectImages(list, keep)
	switch {
	case o.output == "json":
		data, err := json.MarshalIndent(shown, "", "    ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "%s\n", data)
		return err
	case o.quiet:
		for _, img := range shown {
			fmt.Fprintln(c.out, imageID(&img, o.whole))
		}
		return nil
	case o.format != "" && o.format != "table":
		return imageRecords(lines, o.whole, time.Now()).print(c.out, o.format)
	}
	return dockerTable(c.out, imageTable(lines, o.whole, o.digests, time.Now()), true)
}

// selectImages returns the lines to show, and the images that they are of. The
// lines point into list, which stays as it is.
func selectImages(list []node.Image, keep func(namedImage) bool) (lines []namedImage, shown []node.Image) {
	shown = []node.Image{}
	for i := range list {
		before := len(lines)
		names := list[i].References
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			if line := (namedImage{&list[i], name}); keep(line) {
				lines = append(lines, line)
			}
		}
		if len(lines) > before {
			shown = append(shown, list[i])
		}
	}
	return lines, shown
}

// parseImageFilters returns what tells whether a line is to be shown: each kind
// of filter must be true, of reference one of them.
func parseImageFilters(filters []string, list []node.Image, now time.Time) (func(namedImage) bool, error) {
	var checks []func(namedImage) bool
	var patterns []string
	for _, f := range filters {
		name, value, ok := strings.Cut(f, "=")
		if !ok {
			return nil, usagef("filter %q is not NAME=VALUE", f)
		}
		switch name {
		case "dangling":
			want, err := strconv.ParseBool(value)
			if err != nil {
				return nil, usagef("filter %q: want true or false", f)
			}
			checks = append(checks, func(l namedImage) bool { return (l.name == "") == want })
		case "label":
			checks = append(checks, func(l namedImage) bool { return l.HasLabel(value) })
		case "before", "since":
			of, err := findImage(list, value)
			if err != nil {
				return nil, err
			}
			checks = append(checks, func(l namedImage) bool {
				return name == "before" && l.Created.Before(of.Created) || name == "since" && l.Created.After(of.Created)
			})
		case "until":
			t, err := parseUntil(value, now)
			if err != nil {
				return nil, err
			}
			checks = append(checks, func(l namedImage) bool { return l.Created.Before(t) })
		case "reference":
			if _, err := path.Match(value, ""); err != nil {
				return nil, usagef("filter %q: %v", f, err)
			}
			patterns = append(patterns, value)
		default:
			return nil, usagef("unknown filter %q; the filters are dangling, reference, label, before, since and until", name)
		}
	}
	if len(patterns) > 0 {
		checks = append(checks, func(l namedImage) bool {
			return l.name != "" && slices.ContainsFunc(patterns, func(p string) bool { return matchName(p, l.name) })
		})
	}
	return func(l namedImage) bool {
		return !slices.ContainsFunc(checks, func(ok func(namedImage) bool) bool { return !ok(l) })
	}, nil
}

// matchName matches a pattern as docker does: with the name as it is shown, with
// the tag or without.
func matchName(pattern, name string) bool {
	repository, tag := splitName(name)
	for _, p := range []string{pattern, strings.TrimPrefix(strings.TrimPrefix(pattern, "docker.io/"), "library/")} {
		for _, s := range []string{repository, repository + ":" + tag} {
			if ok, _ := path.Match(p, s); ok {
				return true
			}
		}
	}
	return false
}

func findImage(list []node.Image, nameOrID string) (*node.Image, error) {
	full, _ := node.ImageName(nameOrID)
	for i := range list {
		if slices.Contains(list[i].References, full) || strings.HasPrefix(list[i].ID.Hex(), strings.TrimPrefix(nameOrID, "sha256:")) {
			return &list[i], nil
		}
	}
	return nil, fmt.Errorf("filter: no such image: %s", nameOrID)
}

// parseUntil reads a time as docker's filters have it: a duration before now, a
// date, a time, or seconds since 1970.
func parseUntil(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if seconds, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	return time.Time{}, usagef("until: %q is neither a duration such as 24h nor a time such as 2006-01-02T15:04:05", s)
}
