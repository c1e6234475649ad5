package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

type execOptions struct {
	container  string
	stdin, tty bool
	quiet      bool
}

func execCommand(c *cli) *cobra.Command {
	var o execOptions
	command := &cobra.Command{
		Use:   "exec (POD | pod/POD) [-c CONTAINER] [-i] [-t] -- COMMAND [ARG...]",
		Short: "Run a command in a container",
		Long: `Run a command in a container of a pod that runs.

The exit code is the command's; 127 when there is no such command, 126 when it
cannot be executed.`,
		Example: `  podrun exec web -- date
  podrun exec -it web -c nginx -- sh`,
		ValidArgsFunction: c.completePodThenContainer,
		RunE: func(command *cobra.Command, args []string) error {
			dash := command.ArgsLenAtDash()
			switch {
			case len(args) == 0 || dash == 0:
				return &usageError{message: "pod, type/name or --filename must be specified", noHelp: true}
			case dash < 0 && len(args) > 1:
				return usagef("exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead")
			case dash > 1:
				return usagef("one pod is needed before --, got %q", args[:dash])
			case len(args) == 1:
				return &usageError{message: "you must specify at least one command for the container", noHelp: true}
			}
			return c.exec(command.Context(), args[0], args[1:], &o)
		},
	}
	f := command.Flags()
	f.StringVarP(&o.container, "container", "c", "", "run it in this container; the first when none is given")
	f.BoolVarP(&o.stdin, "stdin", "i", false, "pass standard input to it")
	f.BoolVarP(&o.tty, "tty", "t", false, "give it a terminal (with -i)")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print only what the command prints")
	_ = command.RegisterFlagCompletionFunc("container", c.completeContainerFlag)
	return command
}

func (c *cli) exec(ctx context.Context, target string, argv []string, o *execOptions) error {
	name, err := podName(target)
	if err != nil {
		return err
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	if o.container == "" {
		p, err := client.GetPod(ctx, c.ns(), name)
		if err != nil {
			return err
		}
		o.container = c.pickContainer(p)
	}
	request := node.ExecRequest{ID: rand.Text(), Container: o.container, Command: argv}
	stdin := c.in
	if !o.stdin {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return err
		}
		defer func() { _ = null.Close() }()
		stdin = null
	}
	var result node.ExecResult
	if c.wantsTerminal(o) {
		result, err = execTerminal(ctx, client, c.ns(), name, request, stdin, c.out)
	} else {
		result, err = client.Exec(ctx, c.ns(), name, request, stdin, c.out, c.err)
	}
	switch {
	case err != nil:
		return err
	case result.Error != "":
		fmt.Fprintf(c.err, "podrun: cannot exec in container %q of pod %q: %s\n", o.container, name, result.Error)
	case result.ExitCode != 0 && !o.quiet:
		fmt.Fprintf(c.err, "command terminated with exit code %d\n", result.ExitCode)
	}
	if result.ExitCode != 0 {
		return exitCode(result.ExitCode)
	}
	return nil
}

// wantsTerminal tells whether the program gets a terminal: as with kubectl, if
// there is one here to join it with.
func (c *cli) wantsTerminal(o *execOptions) bool {
	if !o.tty || !o.stdin {
		return false
	}
	if !isTerminal(c.in) {
		if !o.quiet {
			fmt.Fprintln(c.err, "Unable to use a TTY - input is not a terminal or the right kind of file")
		}
		return false
	}
	return true
}
