package main

import "github.com/spf13/cobra"

func systemCommand(c *cli) *cobra.Command {
	command := &cobra.Command{
		Use:     "system",
		Short:   "Look after the node and what it keeps on disk",
		Example: "  podrun system df -v",
		Args:    cobra.ArbitraryArgs,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return command.Help()
			}
			return unknownCommand(command, args[0])
		},
	}
	command.AddCommand(
		systemDfCommand(c), systemInfoCommand(c), systemPruneCommand(c), systemResetCommand(c),
		systemEnableCommand(c), systemDisableCommand(c), systemServiceCommand(), systemStopCommand(c),
	)
	return command
}
