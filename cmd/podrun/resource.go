package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/node"
)

// kind is a kind of object that the command line can name.
type kind struct {
	plural string
	names  []string // all that a user may write
}

var (
	podKind   = kind{"pods", []string{"pods", "pod", "po"}}
	eventKind = kind{"events", []string{"events", "event", "ev"}}
	kinds     = []kind{podKind, eventKind}
)

func kindOf(name string) (kind, error) {
	for _, k := range kinds {
		if slices.Contains(k.names, strings.ToLower(name)) {
			return k, nil
		}
	}
	return kind{}, plainf("the server doesn't have a resource type %q", name)
}

// parseResources reads kubectl's TYPE [NAME...] or TYPE/NAME...; no names mean
// all objects.
func parseResources(args []string) (kind, []string, error) {
	if !strings.Contains(args[0], "/") {
		k, err := kindOf(args[0])
		if err != nil {
			return kind{}, nil, err
		}
		for _, name := range args[1:] {
			if strings.Contains(name, "/") {
				return kind{}, nil, plainf("there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'podrun get resource/<resource_name>' instead of 'podrun get resource resource/<resource_name>'")
			}
		}
		return k, args[1:], nil
	}
	var names []string
	var all kind
	for _, arg := range args {
		typeName, name, ok := strings.Cut(arg, "/")
		if !ok {
			return kind{}, nil, plainf("there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'podrun get resource/<resource_name>' instead of 'podrun get resource resource/<resource_name>'")
		}
		if typeName == "" || name == "" || strings.Contains(name, "/") {
			return kind{}, nil, plainf("arguments in resource/name form may not have more than one slash and neither part may be empty: %q", arg)
		}
		k, err := kindOf(typeName)
		if err != nil {
			return kind{}, nil, err
		}
		if all.plural != "" && all.plural != k.plural {
			return kind{}, nil, plainf("one command is about one type: %q and %q were given", all.plural, k.plural)
		}
		all = k
		names = append(names, name)
	}
	return all, names, nil
}

// podName reads POD or pod/POD.
func podName(arg string) (string, error) {
	typeName, name, ok := strings.Cut(arg, "/")
	if !ok {
		return arg, nil
	}
	k, err := kindOf(typeName)
	if err != nil {
		return "", err
	}
	if k.plural != podKind.plural {
		return "", plainf("%s have no containers: a pod is needed", k.plural)
	}
	return name, nil
}

// completePods completes the names of pods. It never starts a node.
func (c *cli) completePods(command *cobra.Command, prefix string) []string {
	client, err := c.dial(command.Context(), false)
	if err != nil {
		return nil
	}
	list, err := client.ListPods(command.Context(), c.ns(), metav1.ListOptions{})
	if err != nil {
		return nil
	}
	var names []string
	for _, p := range list.Items {
		if strings.HasPrefix(p.Name, prefix) {
			names = append(names, p.Name)
		}
	}
	return names
}

// completeResource completes TYPE [NAME...].
func (c *cli) completeResource(types ...string) cobra.CompletionFunc {
	return func(command *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if typeName, name, ok := strings.Cut(prefix, "/"); ok {
			var out []string
			for _, p := range c.completePods(command, name) {
				out = append(out, typeName+"/"+p)
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		}
		if len(args) == 0 {
			return types, cobra.ShellCompDirectiveNoFileComp
		}
		if k, err := kindOf(args[0]); err != nil || k.plural != podKind.plural {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.completePods(command, prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

// completePodThenContainer completes POD [CONTAINER].
func (c *cli) completePodThenContainer(command *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return c.completePods(command, prefix), cobra.ShellCompDirectiveNoFileComp
	case 1:
		return c.completeContainersOf(command, args[0]), cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// completeContainerFlag completes -c by the containers of the pod that the
// arguments name.
func (c *cli) completeContainerFlag(command *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.completeContainersOf(command, args[0]), cobra.ShellCompDirectiveNoFileComp
}

func (c *cli) completeContainersOf(command *cobra.Command, arg string) []string {
	name, err := podName(arg)
	if err != nil {
		return nil
	}
	client, err := c.dial(command.Context(), false)
	if err != nil {
		return nil
	}
	p, err := client.GetPod(command.Context(), c.ns(), name)
	if err != nil {
		return nil
	}
	return containerNames(p)
}

// completeFrom completes by what list returns of a node that runs.
func (c *cli) completeFrom(list func(*cobra.Command, *node.Client) []string) cobra.CompletionFunc {
	return func(command *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		client, err := c.dial(command.Context(), false)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return list(command, client), cobra.ShellCompDirectiveNoFileComp
	}
}
