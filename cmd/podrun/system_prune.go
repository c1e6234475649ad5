package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/node"
	"get.podrun.dev/podrun/pod"
)

// pruneOptions are the flags of "system prune".
type pruneOptions struct {
	all, force, volumes bool
}

func systemPruneCommand(c *cli) *cobra.Command {
	var o pruneOptions
	command := &cobra.Command{
		Use:   "prune [-a] [-f] [--volumes]",
		Short: "Remove finished pods and images that nothing uses",
		Long: `Remove finished pods (Completed, Error), in all namespaces, and images that have
no name and no pod uses; with -a those with names too, with --volumes also
PersistentVolumeClaims, and what is in them, that no pod uses.`,
		Example: "  podrun system prune -a -f",
		Args:    noArguments("prune"),
		RunE: func(command *cobra.Command, _ []string) error {
			if !o.force && !c.confirm(o.question()) {
				return nil
			}
			return c.systemPrune(command.Context(), o)
		},
	}
	f := command.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "all images that no pod uses, not only those without a name")
	f.BoolVarP(&o.force, "force", "f", false, "do not ask")
	f.BoolVar(&o.volumes, "volumes", false, "PersistentVolumeClaims that no pod uses, too")
	return command
}

func (o pruneOptions) question() string {
	lines := []string{"WARNING! This will remove:", "  - all finished pods"}
	if o.volumes {
		lines = append(lines, "  - all persistent volume claims not used by at least one pod, with their files")
	}
	if o.all {
		lines = append(lines, "  - all images without at least one container associated to them")
	} else {
		lines = append(lines, "  - all dangling images")
	}
	return strings.Join(append(lines, ""), "\n")
}

// systemPrune removes pods first: what they used is free then.
func (c *cli) systemPrune(ctx context.Context, o pruneOptions) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	usage, err := client.DiskUsage(ctx)
	if err != nil {
		return fmt.Errorf("cannot measure the disk: %w", cause(err))
	}
	var reclaimed int64
	names, err := prunePods(ctx, client)
	if err != nil {
		return fmt.Errorf("cannot prune pods: %w", cause(err))
	}
	for _, ctr := range usage.Containers {
		if names[ctr.Namespace+"/"+ctr.Pod] {
			reclaimed += ctr.Size
		}
	}
	c.printPruned("Deleted Pods:", names)
	if o.volumes {
		if usage, err = client.DiskUsage(ctx); err != nil {
			return fmt.Errorf("cannot measure the disk: %w", cause(err))
		}
		gone := map[string]bool{}
		for _, claim := range usage.Claims {
			if len(claim.Pods) > 0 {
				continue
			}
			if err := remove(ctx, client, "PersistentVolumeClaim", claim.Namespace, claim.Name); err != nil {
				return fmt.Errorf("cannot prune volumes: %w", cause(err))
			}
			gone[claim.Namespace+"/"+claim.Name] = true
			reclaimed += claim.Size
		}
		c.printPruned("Deleted Volumes:", gone)
	}
	pruned, err := client.PruneImages(ctx, node.PruneRequest{All: o.all})
	if err != nil {
		return fmt.Errorf("cannot prune images: %w", cause(err))
	}
	c.printPrunedImages(pruned, reclaimed)
	return nil
}

// prunePods deletes the finished pods and returns them by NAMESPACE/NAME.
func prunePods(ctx context.Context, client *node.Client) (map[string]bool, error) {
	list, err := client.ListPods(ctx, "", metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	gone := map[string]bool{}
	for _, p := range list.Items {
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			continue
		}
		if err := remove(ctx, client, "Pod", p.Namespace, p.Name); err != nil {
			return nil, err
		}
		gone[p.Namespace+"/"+p.Name] = true
	}
	return gone, nil
}

// remove deletes an object and waits until it is gone. One that is gone already
// is no error.
func remove(ctx context.Context, client *node.Client, kind, namespace, name string) error {
	v, err := client.Delete(ctx, pod.KindNamed(kind), namespace, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return waitGone(ctx, client, v)
}
