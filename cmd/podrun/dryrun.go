package main

import (
	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

// dryRun is --dry-run: what a verb would do is told, and not done.
type dryRun string

func (d *dryRun) declare(command *cobra.Command) {
	f := command.Flags()
	f.StringVar((*string)(d), "dry-run", "none", `"client" only tells what would be done, "server" has the node check it too; nothing is written`)
	f.Lookup("dry-run").NoOptDefVal = "unchanged"
	_ = command.RegisterFlagCompletionFunc("dry-run", cobra.FixedCompletions([]cobra.Completion{"none", "client", "server"}, cobra.ShellCompDirectiveNoFileComp))
}

func (d dryRun) check() error {
	switch d {
	case "none", "client", "server":
		return nil
	case "unchanged":
		return plainf("--dry-run flag without a value was specified. A value must be set: \"none\", \"server\", or \"client\".")
	}
	return plainf(`Invalid dry-run value (%v). Must be "none", "server", or "client".`, string(d))
}

func (d dryRun) client() bool { return d == "client" }

// write is how a verb writes: nothing in a dry run of either kind.
func (d dryRun) write() node.Write { return node.Write{DryRun: d != "none"} }

// suffix ends the line that tells what was done.
func (d dryRun) suffix() string {
	switch d {
	case "client":
		return " (dry run)"
	case "server":
		return " (server dry run)"
	}
	return ""
}
