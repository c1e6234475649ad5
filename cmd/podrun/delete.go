package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"get.podrun.dev/podrun/node"
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
}

func deleteCommand(c *cli) *cobra.Command {
	var o deleteOptions
	command := &cobra.Command{
		Use:   "delete (pod NAME... | pod/NAME... | -f FILENAME | pods -l SELECTOR | pods --all)",
		Short: "Stop pods and remove them",
		Long: `Stop pods and remove them with all that belongs to them, and wait until they are gone.

The containers get their stop signal and the grace period to end, then they are killed.`,
		Example: `  podrun delete pod web
  podrun delete -f pod.yml --now
  podrun delete pods --all --grace-period=0`,
		ValidArgsFunction: c.completeResource("pod"),
		RunE: func(command *cobra.Command, args []string) error {
			if err := o.check(args); err != nil {
				return err
			}
			return c.delete(command.Context(), args, &o)
		},
	}
	f := command.Flags()
	o.files.declare(command, "delete")
	f.StringVarP(&o.selector, "selector", "l", "", "delete the pods with these labels (KEY=VALUE,...)")
	f.StringVar(&o.fieldSelector, "field-selector", "", "delete the pods with these fields (status.phase=Failed)")
	f.BoolVar(&o.all, "all", false, "delete all pods of the namespace")
	f.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "with -l or --all: in all namespaces")
	f.Int64Var(&o.grace, "grace-period", -1, "seconds that the containers get to end; 0 kills them at once, negative stands for the pod's own")
	f.BoolVar(&o.force, "force", false, "kill the containers at once")
	f.BoolVar(&o.now, "now", false, "the same as --grace-period=1")
	f.BoolVar(&o.wait, "wait", true, "wait until the pods are gone")
	f.DurationVar(&o.timeout, "timeout", 0, "how long to wait; 0 is without end")
	f.BoolVar(&o.ignoreNotFound, "ignore-not-found", false, "a pod that is not there is no error")
	f.StringVarP(&o.output, "output", "o", "", "\"name\" prints pod/NAME only")
	return command
}

// check refuses flags that contradict each other and settles the grace period.
func (o *deleteOptions) check(args []string) error {
	selects := o.selector != "" || o.fieldSelector != "" || o.all
	switch {
	case o.output != "" && o.output != "name":
		return &usageError{message: fmt.Sprintf("unexpected -o output mode: %v. We only support '-o name'", o.output), noHelp: true}
	case len(args) == 0 && len(o.files.sources) == 0:
		return &usageError{message: `You must provide one or more resources by argument or filename.
Example resource specifications include:
   '-f rsrc.yaml'
   '--filename=rsrc.json'
   '<resource> <name>'
   '<resource>'`, noHelp: true}
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
	if o.now {
		o.grace = 1
	}
	if o.force {
		o.grace = 0
	}
	return nil
}

func (c *cli) delete(ctx context.Context, args []string, o *deleteOptions) error {
	targets, err := c.deleteTargets(ctx, args, o)
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
	var failed errorList
	var going []*corev1.Pod
	for _, t := range targets {
		p, err := client.DeletePod(ctx, t.Namespace, t.Name, options)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case apierrors.IsNotFound(err) && (o.ignoreNotFound || o.all):
		case err != nil:
			failed = append(failed, err)
		default:
			c.printDeleted(p.Name, o)
			going = append(going, p)
		}
	}
	if o.wait {
		if o.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, o.timeout)
			defer cancel()
		}
		for _, p := range going {
			if err := waitGone(ctx, client, p); errors.Is(err, context.DeadlineExceeded) {
				failed = append(failed, plainf("timed out waiting for the condition on pods/%s", p.Name))
			} else if err != nil {
				failed = append(failed, err)
			}
		}
	}
	return failed.err()
}

func (c *cli) printDeleted(name string, o *deleteOptions) {
	switch {
	case o.output == "name":
		fmt.Fprintf(c.out, "pod/%s\n", name)
	case o.force:
		fmt.Fprintf(c.out, "pod %q force deleted\n", name)
	default:
		fmt.Fprintf(c.out, "pod %q deleted\n", name)
	}
}

// deleteTargets names the pods to delete.
func (c *cli) deleteTargets(ctx context.Context, args []string, o *deleteOptions) ([]types.NamespacedName, error) {
	var targets []types.NamespacedName
	if len(o.files.sources) > 0 {
		objects, err := o.files.read(ctx, c)
		if err != nil {
			return nil, err
		}
		for _, object := range objects {
			targets = append(targets, types.NamespacedName{Namespace: object.Pod.Namespace, Name: object.Pod.Name})
		}
		return targets, nil
	}
	k, names, err := parseResources(args)
	if err != nil {
		return nil, err
	}
	selects := o.selector != "" || o.fieldSelector != "" || o.all
	switch {
	case k.plural != podKind.plural:
		return nil, plainf("%s cannot be deleted: they go by themselves", k.plural)
	case len(names) > 0 && selects:
		return nil, &usageError{message: "name cannot be provided when a selector is specified", noHelp: true}
	case len(names) == 0 && !selects:
		return nil, &usageError{message: "resource(s) were provided, but no name was specified", noHelp: true}
	}
	for _, name := range names {
		targets = append(targets, types.NamespacedName{Namespace: c.ns(), Name: name})
	}
	if len(names) > 0 {
		return targets, nil
	}
	client, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	namespace := c.ns()
	if o.allNamespaces {
		namespace = ""
	}
	list, err := client.ListPods(ctx, namespace, metav1.ListOptions{LabelSelector: o.selector, FieldSelector: o.fieldSelector})
	if err != nil {
		return nil, err
	}
	for _, p := range list.Items {
		targets = append(targets, types.NamespacedName{Namespace: p.Namespace, Name: p.Name})
	}
	if len(targets) == 0 {
		fmt.Fprintln(c.out, "No resources found")
	}
	return targets, nil
}

// waitGone returns when the pod p, and not another of its name, is no more.
func waitGone(ctx context.Context, client *node.Client, p *corev1.Pod) error {
	f := follower{
		client: client, namespace: p.Namespace, known: knowing(*p),
		options: metav1.ListOptions{FieldSelector: "metadata.name=" + p.Name, ResourceVersion: p.ResourceVersion},
	}
	defer f.close()
	for {
		change, err := f.next(ctx)
		if err != nil {
			return err
		}
		if change.gone && change.pod.UID == p.UID || !change.gone && change.pod.UID != p.UID {
			return nil
		}
	}
}
