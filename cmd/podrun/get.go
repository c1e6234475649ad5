package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"get.podrun.dev/podrun/node"
	"get.podrun.dev/podrun/pod"
)

// getFlags are the flags of "get".
type getFlags struct {
	output, selector, fields, sortBy string
	all, watch, watchOnly            bool
	noHeaders, labels, ignoreMissing bool
	labelColumns                     []string
	titles                           bool // names as pod/web: several kinds were asked for
}

func getCommand(c *cli) *cobra.Command {
	var f getFlags
	command := &cobra.Command{
		Use:   "get TYPE[,TYPE...] [NAME...] | TYPE/NAME...",
		Short: "List pods and what is stored beside them",
		Long: `List objects: pods (po), configmaps (cm), secrets, persistentvolumeclaims (pvc), namespaces (ns)
and events (ev).`,
		Example: `  podrun get pods
  podrun get pods -o wide
  podrun get pod web -o yaml
  podrun get pods,configmaps,pvc
  podrun get pods -w
  podrun get pods -l app=web --sort-by .metadata.creationTimestamp
  podrun get pods -o jsonpath='{range .items[*]}{.metadata.name}{"\n"}{end}'`,
		ValidArgsFunction: c.completeResource(kinds...),
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("You must specify the type of resource to get: pods, configmaps, secrets, persistentvolumeclaims, namespaces or events")
			}
			targets, err := parseTargets(args)
			if err != nil {
				return err
			}
			if named(targets) && (f.selector != "" || f.all) {
				return plainf("a resource cannot be retrieved by name across all namespaces or with a selector")
			}
			f.titles = len(targets) > 1 || args[0] == "all"
			return c.get(command.Context(), targets, f)
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
	flags.StringSliceVarP(&f.labelColumns, "label-columns", "L", nil, "with a column for each of these labels")
	flags.BoolVar(&f.ignoreMissing, "ignore-not-found", false, "what is not there is no error")
	return command
}

// found is what a target stands for.
type found struct {
	kind    *kind
	objects []pod.Value
	options metav1.ListOptions // with which a watch goes on
}

func (c *cli) get(ctx context.Context, targets []target, f getFlags) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	namespace := c.ns()
	if f.all {
		namespace = ""
	}
	var groups []found
	var failed errorList
	wanted, single := 0, named(targets) && len(targets) == 1 && len(targets[0].names) == 1
	for _, t := range targets {
		g, errs := fetch(ctx, client, t, namespace, f)
		groups, failed = append(groups, g), append(failed, errs...)
		wanted += max(len(t.names), 1)
	}
	watching := f.watch || f.watchOnly
	if watching && wanted > 1 {
		return plainf("watch is only supported on individual resources and resource collections - %d resources were found", wanted)
	}
	if len(failed) > 0 && !named(targets) {
		return failed.err()
	}
	if !f.watchOnly {
		if err := c.printFound(groups, single, len(failed) == 0, namespace, f); err != nil {
			return err
		}
	}
	if !watching || len(failed) > 0 {
		return failed.err()
	}
	return c.watch(ctx, client, groups[0], namespace, f)
}

// fetch asks the node for a target.
func fetch(ctx context.Context, client *node.Client, t target, namespace string, f getFlags) (found, []error) {
	g := found{kind: t.kind, options: metav1.ListOptions{LabelSelector: f.selector, FieldSelector: f.fields}}
	if len(t.names) == 0 {
		list, err := client.List(ctx, t.kind.Kind, namespace, g.options)
		if err != nil {
			return g, []error{err}
		}
		g.objects, g.options.ResourceVersion = list.Items, list.ResourceVersion
		return g, nil
	}
	var failed []error
	for _, name := range t.names {
		v, err := client.Get(ctx, t.kind.Kind, namespace, name)
		switch {
		case apierrors.IsNotFound(err) && f.ignoreMissing:
		case err != nil:
			failed = append(failed, err)
		default:
			g.objects = append(g.objects, v)
			g.options.ResourceVersion, g.options.FieldSelector = v.GetResourceVersion(), "metadata.name="+name
		}
	}
	return g, failed
}

// printFound prints the answer of "get". whole tells that nothing failed.
func (c *cli) printFound(groups []found, single, whole bool, namespace string, f getFlags) error {
	var all []pod.Value
	clustered := true
	for _, g := range groups {
		all = append(all, g.objects...)
		clustered = clustered && !g.kind.Namespaced
	}
	if formatted(f.output) {
		if single && len(all) == 0 {
			return nil
		}
		items, err := toObjects(all)
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
	if len(all) == 0 {
		if clustered {
			namespace = ""
		}
		if whole && !f.watch && !single && !f.ignoreMissing {
			c.nothing(namespace)
		}
		return nil
	}
	printed := 0
	for _, g := range groups {
		if len(g.objects) == 0 {
			continue
		}
		sorted, err := sortObjects(g.objects, f.sortBy)
		if err != nil {
			return err
		}
		if printed++; printed > 1 {
			fmt.Fprintln(c.out)
		}
		if err := kubectlTable(c.out, f.table(g.kind, sorted), !f.noHeaders); err != nil {
			return err
		}
	}
	return nil
}

// table is the lines of objects of one kind.
func (f getFlags) table(k *kind, objects []pod.Value) grid {
	t := k.table(objects, columns{namespace: f.all, wide: f.output == "wide", labels: f.labels, kind: f.titles}, time.Now())
	return t.withLabels(objects, f.labelColumns, f.labels)
}

// withLabels adds a column for each of the labels; last tells that the last
// column shows all of them, and stays the last.
func (t grid) withLabels(objects []pod.Value, labels []string, last bool) grid {
	at := len(t.headers)
	if last {
		at--
	}
	for i, label := range labels {
		t.headers = slices.Insert(t.headers, at+i, strings.ToUpper(label[strings.LastIndex(label, "/")+1:]))
		for row, v := range objects {
			value, ok := v.GetLabels()[label]
			if !ok {
				value = none
			}
			t.rows[row] = slices.Insert(t.rows[row], at+i, value)
		}
	}
	return t
}

// nothing says that a list is empty, as kubectl does.
func (c *cli) nothing(namespace string) {
	if namespace == "" {
		fmt.Fprintln(c.err, "No resources found")
		return
	}
	fmt.Fprintf(c.err, "No resources found in %s namespace.\n", namespace)
}

// sortObjects orders objects by a JSONPath; "" leaves them as they are.
func sortObjects(objects []pod.Value, path string) ([]pod.Value, error) {
	if path == "" {
		return objects, nil
	}
	items, err := toObjects(objects)
	if err != nil {
		return nil, err
	}
	byKey := map[string]pod.Value{}
	for i, v := range objects {
		byKey[objectKey(items[i])] = v
	}
	if err := sortBy(items, path); err != nil {
		return nil, err
	}
	sorted := make([]pod.Value, 0, len(objects))
	for _, o := range items {
		sorted = append(sorted, byKey[objectKey(o)])
	}
	return sorted, nil
}

// watch prints changes of objects until ctx ends, which is no error.
func (c *cli) watch(ctx context.Context, client *node.Client, g found, namespace string, f getFlags) error {
	w := &follower{client: client, kind: g.kind, namespace: namespace, options: g.options, known: knowing(g.objects...)}
	defer w.close()
	lines := newLines(c.out, !f.noHeaders)
	shown := map[types.UID]string{}
	for _, v := range g.objects {
		shown[v.GetUID()] = face(v)
	}
	if !f.watchOnly && len(g.objects) > 0 {
		lines.seen(f.table(g.kind, g.objects))
	}
	for {
		changed, err := w.next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		v := changed.object
		if formatted(f.output) {
			items, err := toObjects([]pod.Value{v})
			if err == nil {
				err = printFormatted(c.out, items, true, f.output, !f.noHeaders)
			}
			if err != nil {
				return err
			}
			continue
		}
		// A change that the line does not show is not shown.
		now := face(v)
		if before, ok := shown[v.GetUID()]; ok && before == now && now != "" && !changed.gone && !f.labels && f.output == "" {
			continue
		}
		shown[v.GetUID()] = now
		if err := lines.print(f.table(g.kind, []pod.Value{v})); err != nil {
			return err
		}
	}
}

// face is what the line of an object shows but its age, "" where every change
// is worth a line.
func face(v pod.Value) string {
	if p, is := v.(*corev1.Pod); is {
		s := summarize(p)
		return strings.Join([]string{s.status, fmt.Sprint(s.ready, s.restarts, s.lastRestart)}, " ")
	}
	return ""
}
