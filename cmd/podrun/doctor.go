package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

func doctorCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Try what podrun needs of this machine, and say how to mend what is missing",
		Long: `Try what podrun needs of this machine, and say how to mend what is missing.

Needs no node; one that runs is asked for what it has found. The exit code is 1
when something is missing.`,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("doctor takes no arguments")
			}
			return c.doctor(command.Context())
		},
	}
}

func (c *cli) doctor(ctx context.Context) error {
	checks := node.Probe(ctx)
	client, err := c.dial(ctx, false)
	if err == nil {
		var found []node.Check
		if found, err = client.Doctor(ctx); err == nil {
			checks = mergeChecks(checks, found)
		}
	}
	missing := false
	for _, check := range checks {
		word := "ok"
		if !check.OK {
			word, missing = "MISSING", true
		}
		line := fmt.Sprintf("%-8s %-16s %s", word, check.Name, check.Detail)
		if check.Mend != "" && !check.OK {
			line += "; " + check.Mend
		}
		fmt.Fprintln(c.out, line)
	}
	switch {
	case errors.Is(err, node.ErrNotRunning):
		fmt.Fprintf(c.out, "%-8s %-16s %s\n", "-", "node", "none is running; the first command that needs one starts it")
	case err != nil:
		return fmt.Errorf("cannot ask the node: %w", err)
	}
	if missing {
		return exitCode(exitFailed)
	}
	return nil
}

// mergeChecks adds to what was tried here what only a node can know, and takes
// its word for what it has.
func mergeChecks(here, node []node.Check) []node.Check {
	at := map[string]int{}
	for i, check := range here {
		at[check.Name] = i
	}
	for _, check := range node {
		i, tried := at[check.Name]
		switch {
		case !tried:
			here = append(here, check)
		case check.OK || here[i].OK:
			here[i] = check
		}
	}
	return here
}
