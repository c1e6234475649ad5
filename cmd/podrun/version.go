package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"get.podrun.dev/podrun/node"
)

func versionCommand(c *cli) *cobra.Command {
	var clientOnly bool
	var output string
	command := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of this program and of the node that runs",
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("extra arguments: %v", args)
			}
			if output != "" && output != "json" && output != "yaml" {
				return &usageError{message: "--output must be 'yaml' or 'json'", noHelp: true}
			}
			return c.version(command.Context(), clientOnly, output)
		},
	}
	command.Flags().BoolVar(&clientOnly, "client", false, "of this program only")
	command.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return command
}

// versions is both ends of the socket; Node is nil when none runs.
type versions struct {
	Client node.VersionInfo  `json:"clientVersion"`
	Node   *node.VersionInfo `json:"nodeVersion,omitempty"`
}

func (c *cli) version(ctx context.Context, clientOnly bool, output string) error {
	v := versions{Client: node.VersionInfo{
		Version: node.Version, Commit: node.Commit, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
	}}
	if !clientOnly {
		client, err := c.dial(ctx, false)
		if err == nil {
			v.Node = new(node.VersionInfo)
			*v.Node, err = client.Version(ctx)
		}
		if err != nil && !errors.Is(err, node.ErrNotRunning) {
			return fmt.Errorf("cannot ask the node for its version: %w", err)
		}
	}
	switch output {
	case "json":
		text, err := json.MarshalIndent(v, "", "  ")
		fmt.Fprintf(c.out, "%s\n", text)
		return err
	case "yaml":
		text, err := yaml.Marshal(v)
		fmt.Fprintf(c.out, "%s", text)
		return err
	}
	fmt.Fprintf(c.out, "Client Version: %s\n", versionText(v.Client))
	switch {
	case v.Node != nil:
		fmt.Fprintf(c.out, "Node Version: %s\n", versionText(*v.Node))
	case !clientOnly:
		fmt.Fprintln(c.out, "Node Version: none, no node is running")
	}
	return nil
}

func versionText(v node.VersionInfo) string {
	return fmt.Sprintf("%s (commit %s, %s, %s/%s)", v.Version, v.Commit, v.Go, v.OS, v.Arch)
}
