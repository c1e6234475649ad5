package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"get.podrun.dev/podrun/node"
)

// getFlags are the flags of "get".
type getFlags struct {
	output, selector, fields, sortBy string
	all, watch, watchOnly            bool
	noHeaders, labels, ignoreMissing bool
}

func getCommand(c *cli) *cobra.Command {
	var f getFlags
	command := &cobra.Command{
		Use:   "get pods|events [NAME...]",
		Short: "List pods or events",
		Example: `  podrun get pods
  podrun get pods -o wide
  podrun get pod web -o yaml
  podrun get pods -w
  podrun get pods -l app=web --sort-by .metadata.creationTimestamp
  podrun get pods -o jsonpath='{range .items[*]}{.metadata.name}{"\n"}{end}'`,
		ValidArgsFunction: c.completeResource("pods", "events"),
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("You must specify the type of resource to get: pods or events")
			}
			k, names, err := parseResources(args)
			if err != nil {
				return err
			}
			if len(names) > 0 && (f.selector != "" || f.all) {
				return plainf("a resource cannot be retrieved by name across all namespaces or with a selector")
			}
			if k.plural == eventKind.plural {
				return c.getEvents(command.Context(), f)
			}
			return c.getPods(command.Context(), names, f)
		},
	}
	flags := command.Flags()
	flags.StringVarP(&f.output, "output", "o", "", outputHelp)
	flags.StringVarP(&f.selector, "selector", "l", "", "only objects whose labels match, such as app=web,tier!=db")
	flags.StringVar(&f.fields, "field-selector", "", "only objects whose fields match, such as status.phase=Running")
	flags.StringVar(&f.sortBy, "sort-by", "", "order by this JSONPath, such as .metadata.name")
	flags.BoolVarP(&f.all, "all-namespaces", "A", false, "of all namespaces")
	flags.BoolVarP(&f.watch, "watch", "w", false, "then show changes as they come")
	flags.BoolVar(&f.watchOnly, "watch-only", false, "show changes as they come, without the list first")
	flags.BoolVar(&f.noHeaders, "no-headers", false, "without the headers of the table")
	flags.BoolVar(&f.labels, "show-labels", false, "with the labels as the last column")
	flags.BoolVar(&f.ignoreMissing, "ignore-not-found", false, "what is not there is no error")
	return command
}

func (c *cli) getPods(ctx context.Context, names []string, f getFlags) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	namespace := c.ns()
	if f.all {
		namespace = ""
	}
	options := metav1.ListOptions{LabelSelector: f.selector, FieldSelector: f.fields}
	var pods []corev1.Pod
	var failed errorList
	if len(names) == 0 {
		list, err := client.ListPods(ctx, namespace, options)
		if err != nil {
			return err
		}
		pods, options.ResourceVersion = list.Items, list.ResourceVersion
	}
	for _, name := range names {
		p, err := client.GetPod(ctx, namespace, name)
		switch {
		case apierrors.IsNotFound(err) && f.ignoreMissing:
		case err != nil:
			failed = append(failed, err)
		default:
			pods = append(pods, *p)
			options.ResourceVersion, options.FieldSelector = p.ResourceVersion, "metadata.name="+name
		}
	}
	watching := f.watch || f.watchOnly
	if watching && len(names) > 1 {
		return plainf("watch is only supported on individual resources and resource collections - %d resources were found", len(names))
	}
	if !f.watchOnly {
		if err := c.printPods(pods, len(names) == 1, namespace, f); err != nil {
			return err
		}
	}
	if !watching || len(failed) > 0 {
		return failed.err()
	}
	return c.watchPods(ctx, client, namespace, options, pods, f)
}

// printPods prints the answer of "get pods".
func (c *cli) printPods(pods []corev1.Pod, single bool, namespace string, f getFlags) error {
	if !formatted(f.output) {
		if len(pods) == 0 {
			if f.watch || f.ignoreMissing && single {
				return nil
			}
			if !single {
				c.nothing(namespace)
			}
			return nil
		}
		sorted, err := sortPods(pods, f.sortBy)
		if err != nil {
			return err
		}
		return kubectlTable(c.out, podTable(sorted, f.columns(), time.Now()), !f.noHeaders)
	}
	if single && len(pods) == 0 {
		return nil
	}
	items, err := podObjects(pods)
	if err != nil {
		return err
	}
	if f.sortBy != "" {
		if err := sortBy(items, f.sortBy); err != nil {
			return err
		}
	}
	return printFormatted(c.out, items, single, f.output, !f.noHeaders)
}

func (f getFlags) columns() podColumns {
	return podColumns{namespace: f.all, wide: f.output == "wide", labels: f.labels}
}

// nothing says that a list is empty, as kubectl does.
func (c *cli) nothing(namespace string) {
	if namespace == "" {
		fmt.Fprintln(c.err, "No resources found")
		return
	}
	fmt.Fprintf(c.err, "No resources found in %s namespace.\n", namespace)
}

// sortPods orders pods by a JSONPath; "" leaves them as they are.
func sortPods(pods []corev1.Pod, path string) ([]corev1.Pod, error) {
	if path == "" {
		return pods, nil
	}
	items, err := podObjects(pods)
	if err != nil {
		return nil, err
	}
	byKey := map[string]corev1.Pod{}
	for _, p := range pods {
		byKey[p.Namespace+"/"+p.Name] = p
	}
	if err := sortBy(items, path); err != nil {
		return nil, err
	}
	sorted := make([]corev1.Pod, 0, len(pods))
	for _, o := range items {
		sorted = append(sorted, byKey[fmt.Sprint(lookup(o, "metadata", "namespace"), "/", lookup(o, "metadata", "name"))])
	}
	return sorted, nil
}

// watchPods prints changes of pods until ctx ends, which is no error.
func (c *cli) watchPods(ctx context.Context, client *node.Client, namespace string, options metav1.ListOptions, known []corev1.Pod, f getFlags) error {
	w := &follower{client: client, namespace: namespace, options: options, known: knowing(known...)}
	defer w.close()
	lines := newLines(c.out, !f.noHeaders)
	shown := map[types.UID]summary{}
	for i := range known {
		shown[known[i].UID] = summarize(&known[i])
	}
	if !f.watchOnly && len(known) > 0 {
		lines.seen(podTable(known, f.columns(), time.Now()))
	}
	for {
		changed, err := w.next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		pods := []corev1.Pod{*changed.pod}
		if formatted(f.output) {
			items, err := podObjects(pods)
			if err == nil {
				err = printFormatted(c.out, items, true, f.output, !f.noHeaders)
			}
			if err != nil {
				return err
			}
			continue
		}
		// A change that the line does not show is not shown.
		now := summarize(changed.pod)
		if before, ok := shown[changed.pod.UID]; ok && before == now && !changed.gone && !f.labels && f.output == "" {
			continue
		}
		shown[changed.pod.UID] = now
		if err := lines.print(podTable(pods, f.columns(), time.Now())); err != nil {
			return err
		}
	}
}

func (c *cli) getEvents(ctx context.Context, f getFlags) error {
	if f.watch || f.watchOnly {
		return plainf("events cannot be watched")
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	namespace := c.ns()
	if f.all {
		namespace = ""
	}
	list, err := client.ListEvents(ctx, namespace, metav1.ListOptions{FieldSelector: f.fields})
	if err != nil {
		return err
	}
	if formatted(f.output) {
		items := make([]object, len(list.Items))
		for i := range list.Items {
			if items[i], err = toObject(&list.Items[i], "Event"); err != nil {
				return err
			}
		}
		if f.sortBy != "" {
			if err := sortBy(items, f.sortBy); err != nil {
				return err
			}
		}
		return printFormatted(c.out, items, false, f.output, !f.noHeaders)
	}
	if len(list.Items) == 0 {
		c.nothing(namespace)
		return nil
	}
	return kubectlTable(c.out, eventTable(list.Items, f.all, time.Now()), !f.noHeaders)
}
