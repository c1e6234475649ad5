package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/pod"
)

type eventsOptions struct {
	about            string
	types            []string
	allNamespaces    bool
	watch, noHeaders bool
	output           string

	kind, name string // of what they are about, by the object's own spelling
}

func eventsCommand(c *cli) *cobra.Command {
	var o eventsOptions
	command := &cobra.Command{
		Use:   "events [--for TYPE/NAME] [--types=Warning,Normal] [-w]",
		Short: "List events",
		Example: `  podrun events
  podrun events --for pod/web --watch
  podrun events -A --types=Warning`,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) > 0 {
				return plainf("unknown command %q for \"podrun events\"", args[0])
			}
			if err := o.check(); err != nil {
				return err
			}
			return c.events(command.Context(), &o)
		},
	}
	f := command.Flags()
	f.StringVar(&o.about, "for", "", "only events about this object, such as pod/web")
	f.StringSliceVar(&o.types, "types", nil, "only events of these types: Normal, Warning")
	f.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "of all namespaces")
	f.BoolVarP(&o.watch, "watch", "w", false, "then show events as they come")
	f.BoolVar(&o.noHeaders, "no-headers", false, "without the headers of the table")
	f.StringVarP(&o.output, "output", "o", "", "output format: json|yaml|name|jsonpath=TEMPLATE|...")
	_ = command.RegisterFlagCompletionFunc("types", cobra.FixedCompletions([]string{"Normal", "Warning"}, cobra.ShellCompDirectiveNoFileComp))
	_ = command.RegisterFlagCompletionFunc("for", func(command *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return c.completeResource(podKind)(command, nil, prefix)
	})
	return command
}

func (o *eventsOptions) check() error {
	for _, t := range o.types {
		if !strings.EqualFold(t, corev1.EventTypeNormal) && !strings.EqualFold(t, corev1.EventTypeWarning) {
			return plainf("valid --types are Normal or Warning")
		}
	}
	if o.about == "" {
		return nil
	}
	typeName, name, ok := strings.Cut(o.about, "/")
	if !ok || name == "" || strings.Contains(name, "/") {
		return plainf("--for must be in resource/name form")
	}
	k, err := kindOf(typeName)
	if err != nil {
		return err
	}
	o.kind, o.name = k.Name, name
	return nil
}

// wants tells whether an event is asked for.
func (o *eventsOptions) wants(e *corev1.Event) bool {
	if o.name != "" && (e.InvolvedObject.Kind != o.kind || e.InvolvedObject.Name != o.name) {
		return false
	}
	return len(o.types) == 0 || slices.ContainsFunc(o.types, func(t string) bool { return strings.EqualFold(t, e.Type) })
}

func (c *cli) events(ctx context.Context, o *eventsOptions) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	namespace := c.ns()
	if o.allNamespaces {
		namespace = ""
	}
	list, err := client.List(ctx, eventKind.Kind, namespace, metav1.ListOptions{})
	if err != nil {
		return err
	}
	events := slices.DeleteFunc(slices.Clone(list.Items), func(v pod.Value) bool { return !o.wants(v.(*corev1.Event)) })
	slices.SortStableFunc(events, func(a, b pod.Value) int {
		return a.(*corev1.Event).LastTimestamp.Compare(b.(*corev1.Event).LastTimestamp.Time)
	})
	lines := newLines(c.out, !o.noHeaders)
	switch {
	case len(events) == 0 && o.watch:
	case len(events) == 0 && o.allNamespaces:
		fmt.Fprintln(c.err, "No events found.")
	case len(events) == 0:
		fmt.Fprintf(c.err, "No events found in %s namespace.\n", namespace)
	default:
		if err := c.printEvents(lines, events, o, o.watch); err != nil {
			return err
		}
	}
	if !o.watch {
		return nil
	}
	f := follower{
		client: client, kind: eventKind, namespace: namespace, known: knowing(list.Items...),
		options: metav1.ListOptions{ResourceVersion: list.ResourceVersion},
	}
	defer f.close()
	for {
		change, err := f.next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case change.gone || !o.wants(change.object.(*corev1.Event)):
			continue
		}
		if err := c.printEvents(lines, []pod.Value{change.object}, o, true); err != nil {
			return err
		}
	}
}

// printEvents prints events, with each one by itself in other formats than a
// table: a watch has no list around them.
func (c *cli) printEvents(lines *lines, events []pod.Value, o *eventsOptions, each bool) error {
	if !formatted(o.output) {
		return lines.print(kubectlEvents(events, o.allNamespaces, time.Now()))
	}
	items, err := toObjects(events)
	if err != nil {
		return err
	}
	if !each {
		return printFormatted(c.out, items, false, o.output, !o.noHeaders)
	}
	for i := range items {
		if err := printFormatted(c.out, items[i:i+1], true, o.output, !o.noHeaders); err != nil {
			return err
		}
	}
	return nil
}

// kubectlEvents is the table of "kubectl events", which differs from that of
// "kubectl get events".
func kubectlEvents(events []pod.Value, namespace bool, now time.Time) grid {
	t := grid{headers: []string{"LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"}}
	if namespace {
		t.headers = append([]string{"NAMESPACE"}, t.headers...)
	}
	for _, v := range events {
		e := v.(*corev1.Event)
		row := []string{lastSeen(e, now), e.Type, e.Reason, e.InvolvedObject.Kind + "/" + e.InvolvedObject.Name, strings.TrimSpace(e.Message)}
		if namespace {
			row = append([]string{e.Namespace}, row...)
		}
		t.rows = append(t.rows, row)
	}
	return t
}
