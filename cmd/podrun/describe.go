package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/node"
	"get.podrun.dev/podrun/pod"
)

func describeCommand(c *cli) *cobra.Command {
	var selector string
	var all bool
	command := &cobra.Command{
		Use:   "describe TYPE[,TYPE...] [NAME...] | TYPE/NAME...",
		Short: "Show everything about objects, with their events",
		Long: `Show everything about pods, configmaps, secrets, persistentvolumeclaims or namespaces, with their events.

Of a secret the sizes of its values are shown, never the values.`,
		Example: `  podrun describe pod web
  podrun describe pods -l app=web
  podrun describe pvc/data configmap/settings`,
		ValidArgsFunction: c.completeResource(storedKinds...),
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("You must specify the type of resource to describe: pod, configmap, secret, persistentvolumeclaim or namespace")
			}
			targets, err := parseTargets(args)
			if err != nil {
				return err
			}
			for _, t := range targets {
				if t.kind.describe == nil {
					return plainf("%s cannot be described", t.kind.Resource)
				}
			}
			return c.describe(command.Context(), targets, getFlags{selector: selector, all: all})
		},
	}
	command.Flags().StringVarP(&selector, "selector", "l", "", "only objects whose labels match, such as app=web")
	command.Flags().BoolVarP(&all, "all-namespaces", "A", false, "of all namespaces")
	return command
}

func (c *cli) describe(ctx context.Context, targets []target, f getFlags) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	namespace := c.ns()
	if f.all {
		namespace = ""
	}
	var failed errorList
	described := 0
	for _, t := range targets {
		g, errs := fetch(ctx, client, t, namespace, f)
		failed = append(failed, errs...)
		for _, v := range g.objects {
			about, err := surroundingsOf(ctx, client, v)
			if err != nil {
				return err
			}
			if described++; described > 1 {
				fmt.Fprint(c.out, "\n\n")
			}
			d := newDescription(c.out)
			t.kind.describe(d, v, about)
			if err := d.w.Flush(); err != nil {
				return err
			}
		}
	}
	if described == 0 && len(failed) == 0 {
		c.nothing(namespace)
	}
	return failed.err()
}

// surroundings are what a description tells beside the object itself.
type surroundings struct {
	events []corev1.Event
	users  []string // pods that refer to the object
	now    time.Time
}

func surroundingsOf(ctx context.Context, client *node.Client, v pod.Value) (surroundings, error) {
	about := surroundings{now: time.Now()}
	namespace := v.GetNamespace()
	if !pod.KindOf(v).Namespaced {
		namespace = v.GetName()
	}
	events, err := client.ListEvents(ctx, namespace, metav1.ListOptions{
		FieldSelector: "involvedObject.name=" + v.GetName() + ",involvedObject.uid=" + string(v.GetUID()),
	})
	if err != nil {
		return about, err
	}
	about.events = events.Items
	if pod.KindOf(v) == claimKind.Kind {
		pods, err := client.ListPods(ctx, v.GetNamespace(), metav1.ListOptions{})
		if err != nil {
			return about, err
		}
		for i := range pods.Items {
			if usesClaim(&pods.Items[i], v.GetName()) {
				about.users = append(about.users, pods.Items[i].Name)
			}
		}
	}
	return about, nil
}

func usesClaim(p *corev1.Pod, name string) bool {
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == name {
			return true
		}
	}
	return false
}
