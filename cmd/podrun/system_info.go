package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"get.podrun.dev/podrun/node"
)

func systemInfoCommand(c *cli) *cobra.Command {
	var output, format string
	command := &cobra.Command{
		Use:     "info [-o json|yaml]",
		Short:   "Show the node, its machine and what it holds",
		Example: "  podrun system info -o json",
		Args:    noArguments("info"),
		RunE: func(command *cobra.Command, _ []string) error {
			if output != "" && output != "json" && output != "yaml" {
				return &usageError{message: "--output must be 'yaml' or 'json'", noHelp: true}
			}
			return c.systemInfo(command.Context(), output, format)
		},
	}
	f := command.Flags()
	f.StringVarP(&output, "output", "o", "", "json or yaml")
	f.StringVar(&format, "format", "", `json, or a template such as "{{.host.kernelVersion}}"`)
	command.MarkFlagsMutuallyExclusive("output", "format")
	return command
}

func (c *cli) systemInfo(ctx context.Context, output, format string) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	info, err := client.Info(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask the node: %w", cause(err))
	}
	switch {
	case output == "yaml":
		text, err := yaml.Marshal(info)
		fmt.Fprintf(c.out, "%s", text)
		return err
	case output == "json":
		text, err := json.MarshalIndent(info, "", "  ")
		fmt.Fprintf(c.out, "%s\n", text)
		return err
	case format != "":
		data, err := json.Marshal(info)
		if err != nil {
			return err
		}
		var row object
		if err := json.Unmarshal(data, &row); err != nil {
			return err
		}
		return records{rows: []object{row}}.print(c.out, format)
	}
	fmt.Fprint(c.out, infoText(info))
	return nil
}

// infoText is docker's layout: a name and a value a line, parts indented.
func infoText(i *node.Info) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%s: %s\n", name, fmt.Sprintf(format, args...))
	}
	line("Client Version", "%s", node.Version)
	line("Node Version", "%s (pid %d)", versionText(i.Version), i.Version.PID)
	line("Pods", "%d", i.Counts.Pods)
	for _, phase := range []string{"Pending", "Running", "Succeeded", "Failed"} {
		line(" "+phase, "%d", i.Counts.Phases[phase])
	}
	line("Containers", "%d", i.Counts.Containers)
	line(" Running", "%d", i.Counts.ContainersRunning)
	line("Images", "%d", i.Counts.Images)
	line("Persistent Volume Claims", "%d", i.Counts.Claims)
	line("Storage Driver", "%s", i.Storage.Driver)
	line(" Data Dir", "%s", i.Storage.Data)
	line(" Free", "%s of %s", size(int64(i.Storage.Free)), size(int64(i.Storage.Size)))
	line("State Dir", "%s", i.Storage.State)
	line(" Log", "%s", i.Storage.Log)
	line("Cgroup Version", "%d", i.Cgroup.Version)
	if i.Cgroup.Limits {
		line(" Limits", "cpu, memory, pids")
	} else {
		line(" Limits", "none (%s)", i.Cgroup.Problem)
	}
	line("Network", "%s", i.Network.Addresses)
	line(" Networks", "%s", strings.Join(i.Network.Networks, " "))
	for _, p := range i.Network.Problems {
		line(" Problem", "%s", p)
	}
	line("Rootless", "%t", i.Host.Rootless)
	line(" Mapped IDs", "%d", i.Host.IDs)
	line("Name", "%s", i.Host.Name)
	line("Operating System", "%s", i.Host.System)
	line("Kernel Version", "%s", i.Host.Kernel)
	line("Architecture", "%s", i.Host.Arch)
	line("CPUs", "%d", i.Host.CPUs)
	line("Total Memory", "%s", size(int64(i.Host.Memory)))
	return b.String()
}
