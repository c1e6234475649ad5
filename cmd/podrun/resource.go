package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/node"
	"get.podrun.dev/podrun/pod"
)

// kind is a kind of object that the command line can name and show.
type kind struct {
	*pod.Kind
	names    []string // all that a user may write
	table    func(objects []pod.Value, o columns, now time.Time) grid
	describe func(d *description, v pod.Value, about surroundings) // nil: cannot be described
}

// The kinds, and "kinds", the table of them.
var (
	podKind       = &kind{pod.KindNamed("Pod"), []string{"pods", "pod", "po"}, podsTable, describePodValue}
	configMapKind = &kind{pod.KindNamed("ConfigMap"), []string{"configmaps", "configmap", "cm"}, configMapTable, describeConfigMap}
	secretKind    = &kind{pod.KindNamed("Secret"), []string{"secrets", "secret"}, secretTable, describeSecret}
	claimKind     = &kind{pod.KindNamed("PersistentVolumeClaim"), []string{"persistentvolumeclaims", "persistentvolumeclaim", "pvc"}, claimTable, describeClaim}
	namespaceKind = &kind{pod.KindNamed("Namespace"), []string{"namespaces", "namespace", "ns"}, namespaceTable, describeNamespace}
	eventKind     = &kind{pod.EventKind, []string{"events", "event", "ev"}, eventsTable, nil}

	kinds = []*kind{podKind, configMapKind, secretKind, claimKind, namespaceKind, eventKind}
)

func kindOf(name string) (*kind, error) {
	for _, k := range kinds {
		if slices.Contains(k.names, strings.ToLower(name)) {
			return k, nil
		}
	}
	return nil, plainf("the server doesn't have a resource type %q", name)
}

// kindOfValue is the kind of an object.
func kindOfValue(v pod.Value) *kind {
	of := pod.KindOf(v)
	return kinds[slices.IndexFunc(kinds, func(k *kind) bool { return k.Kind == of })]
}

// title names an object as kubectl's messages do: pod/web.
func title(v pod.Value) string {
	return strings.ToLower(pod.KindOf(v).Name) + "/" + v.GetName()
}

// noResources is what kubectl says to a verb without objects.
const noResources = `You must provide one or more resources by argument or filename.
Example resource specifications include:
   '-f rsrc.yaml'
   '--filename=rsrc.json'
   '<resource> <name>'
   '<resource>'`

// target is the objects of a kind that a user named; no names mean all.
type target struct {
	kind  *kind
	names []string
}

// everything is what "all" stands for: kubectl's category of what runs.
var everything = []*kind{podKind}

// parseTargets reads kubectl's TYPE[,TYPE...] [NAME...] or TYPE/NAME... .
// Neighbours of one kind are one target.
func parseTargets(args []string) ([]target, error) {
	if !strings.Contains(args[0], "/") {
		var targets []target
		for name := range strings.SplitSeq(args[0], ",") {
			if name == "all" {
				for _, k := range everything {
					targets = append(targets, target{k, args[1:]})
				}
				continue
			}
			k, err := kindOf(name)
			if err != nil {
				return nil, err
			}
			targets = append(targets, target{k, args[1:]})
		}
		for _, name := range args[1:] {
			if strings.Contains(name, "/") {
				return nil, plainf("there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'podrun get resource/<resource_name>' instead of 'podrun get resource resource/<resource_name>'")
			}
		}
		return targets, nil
	}
	var targets []target
	for _, arg := range args {
		typeName, name, ok := strings.Cut(arg, "/")
		if !ok {
			return nil, plainf("there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'podrun get resource/<resource_name>' instead of 'podrun get resource resource/<resource_name>'")
		}
		if typeName == "" || name == "" || strings.Contains(name, "/") {
			return nil, plainf("arguments in resource/name form may not have more than one slash and neither part may be empty: %q", arg)
		}
		k, err := kindOf(typeName)
		if err != nil {
			return nil, err
		}
		if n := len(targets); n > 0 && targets[n-1].kind == k {
			targets[n-1].names = append(targets[n-1].names, name)
			continue
		}
		targets = append(targets, target{k, []string{name}})
	}
	return targets, nil
}

// named tells whether the targets are objects by name, not whole kinds.
func named(targets []target) bool { return len(targets) > 0 && len(targets[0].names) > 0 }

// findPod connects to the node and gets the pod that arg names.
func (c *cli) findPod(ctx context.Context, arg string) (*node.Client, *corev1.Pod, error) {
	name, err := podName(arg)
	if err != nil {
		return nil, nil, err
	}
	client, err := c.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	p, err := client.GetPod(ctx, c.ns(), name)
	return client, p, err
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
	if k != podKind {
		return "", plainf("%s have no containers: a pod is needed", k.Resource)
	}
	return name, nil
}

// completePods completes the names of pods.
func (c *cli) completePods(command *cobra.Command, prefix string) []string {
	return c.completeNames(command, podKind, prefix)
}

// completeNames completes the names of objects. It never starts a node.
func (c *cli) completeNames(command *cobra.Command, k *kind, prefix string) []string {
	client, err := c.dial(command.Context(), false)
	if err != nil {
		return nil
	}
	list, err := client.List(command.Context(), k.Kind, c.ns(), metav1.ListOptions{})
	if err != nil {
		return nil
	}
	var names []string
	for _, v := range list.Items {
		if strings.HasPrefix(v.GetName(), prefix) {
			names = append(names, v.GetName())
		}
	}
	return names
}

// completeResource completes TYPE [NAME...] and TYPE/NAME... of some kinds.
func (c *cli) completeResource(of ...*kind) cobra.CompletionFunc {
	return func(command *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if typeName, name, ok := strings.Cut(prefix, "/"); ok {
			k, err := kindOf(typeName)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var out []string
			for _, n := range c.completeNames(command, k, name) {
				out = append(out, typeName+"/"+n)
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		}
		if len(args) == 0 {
			var types []string
			for _, k := range of {
				types = append(types, k.names[0])
			}
			return types, cobra.ShellCompDirectiveNoFileComp
		}
		k, err := kindOf(args[0])
		if err != nil || !slices.Contains(of, k) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.completeNames(command, k, prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

// storedKinds are the kinds that manifests have; not events.
var storedKinds = []*kind{podKind, configMapKind, secretKind, claimKind, namespaceKind}

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
