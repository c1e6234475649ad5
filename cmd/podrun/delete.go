package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/node"
	"get.podrun.dev/podrun/pod"
)

type deleteOptions struct {
	files          manifestFlags
	selector       string
	fieldSelector  string
	all            bool
	allNamespaces  bool
	grace          int64 // seconds; negative for the pod's own
	force, now     bool
	wait           bool
	timeout        time.Duration
	ignoreNotFound bool
	output         string
	dryRun         dryRun
}

func deleteCommand(c *cli) *cobra.Command {
	var o deleteOptions
	command := &cobra.Command{
		Use:        "delete (TYPE NAME... | TYPE/NAME... | -f FILENAME | TYPE -l SELECTOR | TYPE --all)",
		SuggestFor: []string{"rm"}, // docker's
		Short:      "Stop pods and remove them, or what is stored beside them",
		Long: `Stop pods and remove them with all that belongs to them, and wait until they are gone.

The containers get their stop signal and the grace period to end, then they are killed.
A persistentvolumeclaim goes with its files when no pod uses it any more. A namespace
goes with all that is in it.`,
		Example: `  podrun delete pod web
  podrun delete -f pod.yml --now
  podrun delete configmap/settings pvc/data
  podrun delete namespace staging
  podrun delete pods --all --grace-period=0`,
		ValidArgsFunction: c.completeResource(storedKinds...),
		RunE: func(command *cobra.Command, args []string) error {
			if err := o.check(args); err != nil {
				return err
			}
			return c.delete(command.Context(), args, &o)
		},
	}
	f := command.Flags()
	o.files.declare(command, "delete")
	o.dryRun.declare(command)
	f.StringVarP(&o.selector, "selector", "l", "", "delete the objects with these labels (KEY=VALUE,...)")
	f.StringVar(&o.fieldSelector, "field-selector", "", "delete the objects with these fields (status.phase=Failed)")
	f.BoolVar(&o.all, "all", false, "delete all objects of the type in the namespace")
	f.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "with -l or --all: in all namespaces")
	f.Int64Var(&o.grace, "grace-period", -1, "seconds that the containers get to end; 0 kills them at once, negative stands for the pod's own")
	f.BoolVar(&o.force, "force", false, "kill the containers at once")
	f.BoolVar(&o.now, "now", false, "the same as --grace-period=1")
	f.BoolVar(&o.wait, "wait", true, "wait until the objects are gone")
	f.DurationVar(&o.timeout, "timeout", 0, "how long to wait; 0 is without end")
	f.BoolVar(&o.ignoreNotFound, "ignore-not-found", false, "what is not there is no error")
	f.StringVarP(&o.output, "output", "o", "", "\"name\" prints TYPE/NAME only")
	return command
}

// check refuses flags that contradict each other and settles the grace period.
func (o *deleteOptions) check(args []string) error {
	selects := o.selector != "" || o.fieldSelector != "" || o.all
	switch {
	case o.output != "" && o.output != "name":
		return &usageError{message: fmt.Sprintf("unexpected -o output mode: %v. We only support '-o name'", o.output), noHelp: true}
	case len(args) == 0 && len(o.files.sources) == 0:
		return &usageError{message: noResources, noHelp: true}
	case len(args) > 0 && len(o.files.sources) > 0:
		return &usageError{message: "when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well", noHelp: true}
	case o.now && o.grace >= 0:
		return &usageError{message: "--now and --grace-period cannot be specified together", noHelp: true}
	case o.force && o.grace > 0:
		return &usageError{message: "--force and --grace-period greater than 0 cannot be specified together", noHelp: true}
	case o.all && (o.selector != "" || o.fieldSelector != ""):
		return &usageError{message: "setting 'all' parameter but found a non empty selector. ", noHelp: true}
	case o.allNamespaces && !selects:
		return &usageError{message: "a resource cannot be deleted by name across all namespaces", noHelp: true}
	}
	if err := o.dryRun.check(); err != nil {
		return err
	}
	if o.now {
		o.grace = 1
	}
	if o.force {
		o.grace = 0
	}
	return nil
}

func (c *cli) delete(ctx context.Context, args []string, o *deleteOptions) error {
	targets, err := c.choose(ctx, args, selected{
		files: &o.files, selector: o.selector, fieldSelector: o.fieldSelector, all: o.all, allNamespaces: o.allNamespaces,
	})
	if err != nil {
		return err
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	var options metav1.DeleteOptions
	if o.grace >= 0 {
		options.GracePeriodSeconds = &o.grace
	}
	if o.dryRun == "server" {
		options.DryRun = []string{metav1.DryRunAll}
	}
	var failed errorList
	var going []pod.Value
	for _, t := range targets {
		v, err := deleteOrGet(ctx, client, t, options, o.dryRun)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case apierrors.IsNotFound(err) && (o.ignoreNotFound || o.all):
		case err != nil:
			failed = append(failed, err)
		default:
			c.printDeleted(v, o)
			going = append(going, v)
		}
	}
	if o.wait && o.dryRun == "none" {
		if o.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, o.timeout)
			defer cancel()
		}
		for _, v := range going {
			if err := waitGone(ctx, client, v); errors.Is(err, context.DeadlineExceeded) {
				failed = append(failed, plainf("timed out waiting for the condition on %s/%s", pod.KindOf(v).Resource, v.GetName()))
			} else if err != nil {
				failed = append(failed, err)
			}
		}
	}
	return failed.err()
}

// deleteOrGet begins the deletion of an object; a client's dry run only looks
// whether it is there.
func deleteOrGet(ctx context.Context, client *node.Client, t chosen, options metav1.DeleteOptions, dry dryRun) (pod.Value, error) {
	if dry.client() {
		return client.Get(ctx, t.kind.Kind, t.Namespace, t.Name)
	}
	return client.Delete(ctx, t.kind.Kind, t.Namespace, t.Name, options)
}

func (c *cli) printDeleted(v pod.Value, o *deleteOptions) {
	kind := strings.ToLower(pod.KindOf(v).Name)
	switch {
	case o.output == "name":
		fmt.Fprintf(c.out, "%s/%s\n", kind, v.GetName())
	case o.force:
		fmt.Fprintf(c.out, "%s %q force deleted%s\n", kind, v.GetName(), o.dryRun.suffix())
	default:
		fmt.Fprintf(c.out, "%s %q deleted%s\n", kind, v.GetName(), o.dryRun.suffix())
	}
}

// waitGone returns when the object v, and not another of its name, is no more.
// Most are gone by now: a watch from v's revision, which is as old as the whole
// deletion, would have the node read all that happened since.
func waitGone(ctx context.Context, client *node.Client, v pod.Value) error {
	now, err := client.Get(ctx, kindOfValue(v).Kind, v.GetNamespace(), v.GetName())
	if apierrors.IsNotFound(err) || err == nil && now.GetUID() != v.GetUID() {
		return nil
	}
	f := follower{
		client: client, kind: kindOfValue(v), namespace: v.GetNamespace(), known: knowing(v),
		options: metav1.ListOptions{FieldSelector: "metadata.name=" + v.GetName(), ResourceVersion: v.GetResourceVersion()},
	}
	defer f.close()
	for {
		change, err := f.next(ctx)
		if err != nil {
			return err
		}
		if is := change.object.GetUID() == v.GetUID(); change.gone == is {
			return nil
		}
	}
}
