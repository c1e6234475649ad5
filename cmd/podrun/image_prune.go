package main

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

func imagePruneCommand(c *cli) *cobra.Command {
	var all, force bool
	var filters []string
	command := &cobra.Command{
		Use:   "prune [-a] [-f] [--filter FILTER]",
		Short: "Remove images that nothing uses",
		Long: `Remove images that have no name and no pod uses; with -a those with names too.

The filters are until=TIME, a duration before now or a time, label=NAME[=VALUE]
and label!=NAME[=VALUE].`,
		Example: "  podrun image prune -a -f --filter until=240h",
		Args:    cobra.ArbitraryArgs,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("prune takes no arguments")
			}
			request, err := parsePrune(all, filters, time.Now())
			if err != nil {
				return err
			}
			question := "WARNING! This will remove all dangling images."
			if all {
				question = "WARNING! This will remove all images without at least one container associated to them."
			}
			if !force && !c.confirm(question) {
				return nil
			}
			return c.pruneImages(command.Context(), request)
		},
	}
	f := command.Flags()
	f.BoolVarP(&all, "all", "a", false, "all images that no pod uses, not only those without a name")
	f.BoolVarP(&force, "force", "f", false, "do not ask")
	f.StringArrayVar(&filters, "filter", nil, "only images of which FILTER is true")
	return command
}

func parsePrune(all bool, filters []string, now time.Time) (node.PruneRequest, error) {
	request := node.PruneRequest{All: all}
	for _, f := range filters {
		name, value, ok := strings.Cut(f, "=")
		switch {
		case !ok:
			return request, usagef("filter %q is not NAME=VALUE", f)
		case name == "until":
			t, err := parseUntil(value, now)
			if err != nil {
				return request, err
			}
			request.Before = t
		case name == "label":
			request.Labels = append(request.Labels, value)
		case name == "label!":
			request.Unless = append(request.Unless, value)
		case name == "dangling":
			request.All = value == "false" || value == "0"
		default:
			return request, usagef("unknown filter %q; the filters are until, label and label!", name)
		}
	}
	return request, nil
}

// confirm asks as docker does.
func (c *cli) confirm(question string) bool {
	fmt.Fprintf(c.out, "%s\nAre you sure you want to continue? [y/N] ", question)
	answer, _ := bufio.NewReader(c.in).ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}

func (c *cli) pruneImages(ctx context.Context, request node.PruneRequest) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	pruned, err := client.PruneImages(ctx, request)
	if err != nil {
		return fmt.Errorf("cannot prune images: %w", cause(err))
	}
	c.printPrunedImages(pruned, 0)
	return nil
}

// printPrunedImages also sums up; other is what beside images was removed, in
// bytes.
func (c *cli) printPrunedImages(pruned node.Pruned, other int64) {
	if len(pruned.Removed) > 0 {
		fmt.Fprintln(c.out, "Deleted Images:")
		for _, line := range pruned.Removed {
			verb, what, _ := strings.Cut(line, ": ")
			fmt.Fprintf(c.out, "%s: %s\n", strings.ToLower(verb), what)
		}
		fmt.Fprintln(c.out)
	}
	fmt.Fprintf(c.out, "Total reclaimed space: %s\n", size(pruned.Reclaimed+other))
}

// printPruned prints what else was removed.
func (c *cli) printPruned(title string, names map[string]bool) {
	if len(names) == 0 {
		return
	}
	fmt.Fprintln(c.out, title)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintln(c.out, name)
	}
	fmt.Fprintln(c.out)
}
