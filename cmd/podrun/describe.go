package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func describeCommand(c *cli) *cobra.Command {
	var selector string
	var all bool
	command := &cobra.Command{
		Use:   "describe pod [NAME...]",
		Short: "Show everything about pods, with their events",
		Example: `  podrun describe pod web
  podrun describe pods -l app=web`,
		ValidArgsFunction: c.completeResource("pod"),
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("You must specify the type of resource to describe: pod")
			}
			k, names, err := parseResources(args)
			if err != nil {
				return err
			}
			if k.plural != podKind.plural {
				return plainf("only pods can be described")
			}
			return c.describe(command.Context(), names, selector, all)
		},
	}
	command.Flags().StringVarP(&selector, "selector", "l", "", "only pods whose labels match, such as app=web")
	command.Flags().BoolVarP(&all, "all-namespaces", "A", false, "of all namespaces")
	return command
}

func (c *cli) describe(ctx context.Context, names []string, selector string, all bool) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	namespace := c.ns()
	if all {
		namespace = ""
	}
	var pods []corev1.Pod
	var failed errorList
	for _, name := range names {
		p, err := client.GetPod(ctx, namespace, name)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		pods = append(pods, *p)
	}
	if len(names) == 0 {
		list, err := client.ListPods(ctx, namespace, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return err
		}
		if pods = list.Items; len(pods) == 0 {
			c.nothing(namespace)
		}
	}
	for i := range pods {
		p := &pods[i]
		events, err := client.ListEvents(ctx, p.Namespace, metav1.ListOptions{
			FieldSelector: "involvedObject.name=" + p.Name + ",involvedObject.uid=" + string(p.UID),
		})
		if err != nil {
			return err
		}
		if i > 0 {
			fmt.Fprint(c.out, "\n\n")
		}
		if err := describePod(c.out, p, events.Items, time.Now()); err != nil {
			return err
		}
	}
	return failed.err()
}
