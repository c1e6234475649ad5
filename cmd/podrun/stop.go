package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/node"
)

func stopCommand(c *cli) *cobra.Command {
	var seconds int
	command := &cobra.Command{
		Use:        "stop [-t SECONDS] CONTAINER...",
		SuggestFor: []string{"kill", "restart"}, // docker's
		Short:      "Stop containers; their pods restart by their restart policy",
		Long: `Stop containers: the stop signal, then SIGKILL when they have not ended in time.

CONTAINER is an id, the beginning of one, POD/CONTAINER or NAMESPACE/POD/CONTAINER.
A pod is one unit: unless its restart policy says otherwise all its containers
are made again when one has stopped. To stop a pod for good, delete it.`,
		Example: `  podrun stop d94598b7f826
  podrun stop -t 1 web/nginx`,
		ValidArgsFunction: c.completeFrom(containerIDs),
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 || slices.Contains(args, "") {
				return usagef("stop needs a container")
			}
			if seconds < 0 {
				return usagef("--time: %d is not a number of seconds", seconds)
			}
			return c.stop(command.Context(), args, time.Duration(seconds)*time.Second)
		},
	}
	command.Flags().IntVarP(&seconds, "time", "t", 10, "seconds before the container is killed")
	return command
}

func containerIDs(command *cobra.Command, client *node.Client) []string {
	list, err := client.ListContainers(command.Context(), false)
	if err != nil {
		return nil
	}
	var ids []string
	for _, ctr := range list {
		name := ctr.Pod + "/" + ctr.Name
		if ctr.Namespace != "default" {
			name = ctr.Namespace + "/" + name
		}
		ids = append(ids, shortID(ctr.ID)+"\t"+name, name)
	}
	return ids
}

// shortID is as much of an id as people read.
func shortID(id string) string { return id[:min(12, len(id))] }

// stop stops the containers side by side, and tells in the order they were
// named.
func (c *cli) stop(ctx context.Context, refs []string, grace time.Duration) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	ids := make([]string, len(refs))
	errs := make([]error, len(refs))
	var group sync.WaitGroup
	for i, ref := range refs {
		group.Go(func() {
			path := ref
			if strings.Count(ref, "/") == 1 {
				path = c.ns() + "/" + ref
			}
			ids[i], errs[i] = client.StopContainer(ctx, path, grace)
		})
	}
	group.Wait()
	var failed errorList
	for i, ref := range refs {
		switch err := errs[i]; {
		case err == nil && strings.HasPrefix(ids[i], ref):
			fmt.Fprintln(c.out, ref) // what was typed, as docker prints it
		case err == nil:
			fmt.Fprintln(c.out, shortID(ids[i]))
		case apierrors.IsNotFound(err):
			failed = append(failed, hint.Wrap(fmt.Errorf("cannot stop container %q: no such container", ref), `"podrun ps" lists those that run`))
		default:
			failed = append(failed, fmt.Errorf("cannot stop container %q: %w", ref, cause(err)))
		}
	}
	return failed.err()
}

// cause is what a node's answer says without what it repeats: of a conflict
// the reason alone.
func cause(err error) error {
	var status *apierrors.StatusError
	if !errors.As(err, &status) {
		return err
	}
	message := status.ErrStatus.Message
	if _, reason, ok := strings.Cut(message, "cannot be fulfilled on "); ok && apierrors.IsConflict(err) {
		if _, reason, ok = strings.Cut(reason, ": "); ok {
			message = reason
		}
	}
	return hint.Wrap(errors.New(message), hint.Of(err))
}
