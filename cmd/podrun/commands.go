package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"get.podrun.dev/podrun/node"
)

// The groups of verbs. What a user knows of a verb decides how it fails: as
// kubectl does, or as docker does.
const (
	groupKubectl = "kubectl"
	groupDocker  = "docker"
	groupPodrun  = "podrun"
)

// table is the whole command line.
var table = []struct {
	group string
	build func(*cli) *cobra.Command
}{
	{groupKubectl, applyCommand},
	{groupKubectl, createCommand},
	{groupKubectl, replaceCommand},
	{groupKubectl, diffCommand},
	{groupKubectl, getCommand},
	{groupKubectl, describeCommand},
	{groupKubectl, labelCommand},
	{groupKubectl, annotateCommand},
	{groupKubectl, logsCommand},
	{groupKubectl, topCommand},
	{groupKubectl, execCommand},
	{groupKubectl, attachCommand},
	{groupKubectl, cpCommand},
	{groupKubectl, portForwardCommand},
	{groupKubectl, waitCommand},
	{groupKubectl, eventsCommand},
	{groupKubectl, explainCommand},
	{groupKubectl, runCommand},
	{groupKubectl, deleteCommand},
	{groupDocker, psCommand},
	{groupDocker, portCommand},
	{groupDocker, stopCommand},
	{groupDocker, pullCommand},
	{groupDocker, pushCommand},
	{groupDocker, imagesCommand},
	{groupDocker, imageCommand},
	{groupDocker, tagCommand},
	{groupDocker, rmiCommand},
	{groupDocker, loadCommand},
	{groupDocker, saveCommand},
	{groupDocker, loginCommand},
	{groupDocker, logoutCommand},
	{groupDocker, networkCommand},
	{groupDocker, systemCommand},
	{groupPodrun, versionCommand},
	{groupPodrun, doctorCommand},
}

// cli is one use of the command line.
type cli struct {
	in, out, err *os.File
	namespace    string // -n; "" when it was not given
	client       *node.Client
}

// run does what args ask for and returns the exit code.
func (c *cli) run(ctx context.Context, args []string) int {
	root := c.root()
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	if c.client != nil {
		_ = c.client.Close()
	}
	return c.report(ctx, command, err)
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "podrun",
		Short: "Run Kubernetes pods on this machine, without a cluster and without root",
		Example: `  podrun apply -f pod.yml      start the pods of a manifest
  podrun get pods              READY, STATUS, RESTARTS, AGE
  podrun logs -f POD           what a pod prints
  podrun exec -it POD -- sh    a shell in it
  podrun delete pod POD        stop and remove it`,
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          runRoot,
	}
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{message: err.Error()} })
	root.PersistentFlags().StringVarP(&c.namespace, "namespace", "n", "", "the namespace that the command is about (default \"default\")")
	root.AddGroup(
		&cobra.Group{ID: groupKubectl, Title: "Pods and what they need, as kubectl has them:"},
		&cobra.Group{ID: groupDocker, Title: "Containers and images, as docker has them:"},
		&cobra.Group{ID: groupPodrun, Title: "podrun itself:"},
	)
	root.SetHelpCommandGroupID(groupPodrun)
	root.SetCompletionCommandGroupID(groupPodrun)
	for _, entry := range table {
		command := entry.build(c)
		command.GroupID = entry.group
		if command.ValidArgsFunction == nil {
			command.ValidArgsFunction = cobra.NoFileCompletions
		}
		root.AddCommand(command)
	}
	return root
}

// runRoot is podrun without a verb, or with one that it does not have.
func runRoot(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return root.Help()
	}
	return unknownCommand(root, args[0])
}

// connect returns the client of the node, which it starts when none runs.
func (c *cli) connect(ctx context.Context) (*node.Client, error) {
	return c.dial(ctx, true)
}

func (c *cli) dial(ctx context.Context, start bool) (*node.Client, error) {
	if c.client != nil {
		return c.client, nil
	}
	paths, err := node.LocatePaths()
	if err != nil {
		return nil, err
	}
	c.client, err = node.Connect(ctx, paths, start)
	return c.client, err
}

// ns is the namespace that the command is about.
func (c *cli) ns() string {
	if c.namespace == "" {
		return "default"
	}
	return c.namespace
}
