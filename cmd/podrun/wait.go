package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/internal/jsonpath"
	"get.podrun.dev/podrun/node"
	"get.podrun.dev/podrun/pod"
)

type waitOptions struct {
	files                   manifestFlags
	condition               string
	selector, fieldSelector string
	all, allNamespaces      bool
	timeout                 time.Duration
	output                  string
}

func waitCommand(c *cli) *cobra.Command {
	var o waitOptions
	command := &cobra.Command{
		Use:   "wait (TYPE/NAME... | TYPE NAME... | TYPE -l SELECTOR | TYPE --all | -f FILENAME) --for=CONDITION",
		Short: "Wait for a condition of objects",
		Long: `Wait until objects are as --for says:

  condition=NAME[=VALUE]     status.conditions has NAME with VALUE, which is true when it is not given
  delete                     they are gone
  create                     they are there
  jsonpath='{PATH}'[=VALUE]  PATH selects VALUE, or anything when no value is given`,
		Example: `  podrun wait --for=condition=Ready pod/web
  podrun wait --for=condition=Ready=false pod/web --timeout=1m
  podrun wait --for=jsonpath='{.status.phase}'=Succeeded pods -l app=job
  podrun wait --for=delete pods --all`,
		ValidArgsFunction: c.completeResource(kinds...),
		RunE: func(command *cobra.Command, args []string) error {
			return c.wait(command.Context(), args, &o)
		},
	}
	f := command.Flags()
	o.files.declare(command, "wait for")
	f.StringVar(&o.condition, "for", "", "condition=NAME[=VALUE], delete, create or jsonpath='{PATH}'[=VALUE]")
	f.StringVarP(&o.selector, "selector", "l", "", "wait for the objects with these labels (KEY=VALUE,...)")
	f.StringVar(&o.fieldSelector, "field-selector", "", "wait for the objects with these fields (status.phase=Running)")
	f.BoolVar(&o.all, "all", false, "wait for all objects of the type in the namespace")
	f.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "with -l or --all: in all namespaces")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "how long to wait; 0 looks once, negative is a week")
	f.StringVarP(&o.output, "output", "o", "", outputHelp)
	_ = command.RegisterFlagCompletionFunc("for", cobra.FixedCompletions([]string{"condition=Ready", "delete", "create", "jsonpath="}, cobra.ShellCompDirectiveNoSpace))
	return command
}

// expectation is what --for says.
type expectation struct {
	deleted, created bool
	met              func(pod.Value) (bool, error) // of an object that is there; nil with the others
}

// is tells whether an object that is there is as wanted.
func (e expectation) is(v pod.Value) (bool, error) {
	if e.met == nil {
		return e.created, nil
	}
	return e.met(v)
}

// parseExpectation reads --for; what is said about a wrong one is kubectl's.
func parseExpectation(text string) (expectation, error) {
	switch {
	case strings.EqualFold(text, "delete"):
		return expectation{deleted: true}, nil
	case strings.EqualFold(text, "create"):
		return expectation{created: true}, nil
	}
	if condition, ok := strings.CutPrefix(text, "condition="); ok {
		name, value, ok := strings.Cut(condition, "=")
		if !ok {
			value = "true"
		}
		return expectation{met: func(v pod.Value) (bool, error) { return hasCondition(v, name, value) }}, nil
	}
	if path, ok := strings.CutPrefix(text, "jsonpath="); ok {
		return parsePathExpectation(path)
	}
	return expectation{}, plainf("unrecognized condition: %q", text)
}

// hasCondition tells whether status.conditions has name with value, by the
// object's JSON: not every kind has conditions.
func hasCondition(v pod.Value, name, value string) (bool, error) {
	o, err := toObject(v, pod.KindOf(v).Name)
	if err != nil {
		return false, err
	}
	conditions, _ := lookup(o, "status", "conditions").([]any)
	for _, c := range conditions {
		if c, ok := c.(object); ok && strings.EqualFold(jsonpath.Text(c["type"]), name) {
			return strings.EqualFold(jsonpath.Text(c["status"]), value), nil
		}
	}
	return false, nil
}

// parsePathExpectation reads {PATH}[=VALUE]. A path may have an equals sign in
// it, as {.a[?(@.b=="c")]}: that of the value is the first one outside brackets.
func parsePathExpectation(text string) (expectation, error) {
	path, value, valued := text, "", false
	depth := 0
	for i, r := range text {
		switch r {
		case '{', '[', '(':
			depth++
		case '}', ']', ')':
			depth--
		case '=':
			if depth == 0 {
				path, value, valued = text[:i], strings.Trim(text[i+1:], `'"`), true
			}
		}
		if valued {
			break
		}
	}
	switch {
	case path == "":
		return expectation{}, plainf("jsonpath wait format must be --for=jsonpath='{.status.readyReplicas}'=3 or --for=jsonpath='{.status.readyReplicas}'")
	case valued && value == "":
		return expectation{}, plainf("jsonpath wait has to have a value after equal sign, like --for=jsonpath='{.status.readyReplicas}'=3")
	}
	t, err := jsonpath.Parse(braced(path))
	if err != nil {
		return expectation{}, plainError(err.Error())
	}
	t.AllowMissing = true
	return expectation{met: func(v pod.Value) (bool, error) {
		o, err := toObject(v, pod.KindOf(v).Name)
		if err != nil {
			return false, err
		}
		values, err := t.Find(o)
		switch {
		case err != nil:
			return false, plainError(err.Error())
		case len(values) == 0:
			return false, nil
		case len(values) > 1:
			return false, plainf("given jsonpath expression matches more than one value")
		case !valued:
			return true, nil
		}
		switch values[0].(type) {
		case object, []any:
			return false, plainf("jsonpath leads to a nested object or list which is not supported")
		}
		return strings.TrimSpace(jsonpath.Text(values[0])) == value, nil
	}}, nil
}

// awaited is one object to wait for.
type awaited struct {
	kind            *kind
	namespace, name string
	found           pod.Value // what it was when it was looked up; nil when it was not there, or not yet looked up
	looked          bool
}

func (c *cli) wait(ctx context.Context, args []string, o *waitOptions) error {
	wanted, err := parseExpectation(o.condition)
	if err != nil {
		return err
	}
	targets, err := c.waitTargets(ctx, args, o, wanted)
	if err != nil {
		return err
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	timeout := o.timeout
	if timeout < 0 {
		timeout = 7 * 24 * time.Hour
	}
	during, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var failed errorList
	var met []pod.Value
	for _, t := range targets {
		// The look itself is not bounded: with --timeout=0 it is all there is.
		v, err := t.await(ctx, during, client, wanted)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			failed = append(failed, plainf("timed out waiting for the condition on %s/%s", t.kind.Resource, t.name))
		case err != nil:
			failed = append(failed, err)
		case v == nil: // to be deleted, and was not there
		case o.output == "":
			fmt.Fprintf(c.out, "%s condition met\n", title(v))
		default:
			met = append(met, v)
		}
	}
	if len(met) > 0 {
		if err := c.printObjects(met, o.output); err != nil {
			failed = append(failed, err)
		}
	}
	return failed.err()
}

// waitTargets names the objects to wait for.
func (c *cli) waitTargets(ctx context.Context, args []string, o *waitOptions, wanted expectation) ([]awaited, error) {
	selects := o.selector != "" || o.fieldSelector != "" || o.all
	var list []awaited
	switch {
	case len(args) == 0 && len(o.files.sources) == 0:
		return nil, &usageError{message: noResources, noHelp: true}
	case len(args) > 0 && len(o.files.sources) > 0:
		return nil, plainf("when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well")
	case o.all && (o.selector != "" || o.fieldSelector != ""):
		return nil, plainf("setting 'all' parameter but found a non empty selector. ")
	case len(o.files.sources) > 0:
		objects, err := o.files.read(ctx, c)
		if err != nil {
			return nil, err
		}
		for _, object := range objects {
			list = append(list, awaited{kind: kindOfValue(object.Value), namespace: object.Value.GetNamespace(), name: object.Value.GetName()})
		}
		return list, nil
	}
	targets, err := parseTargets(args)
	switch {
	case err != nil:
		return nil, err
	case named(targets) && selects:
		return nil, plainf("name cannot be provided when a selector is specified")
	case named(targets) && o.allNamespaces:
		return nil, plainf("a resource cannot be retrieved by name across all namespaces")
	case !named(targets) && !selects:
		return nil, plainf("resource(s) were provided, but no name was specified")
	case !named(targets) && wanted.created:
		return nil, plainf("--for=create waits for objects by name")
	}
	for _, t := range targets {
		for _, name := range t.names {
			list = append(list, awaited{kind: t.kind, namespace: c.ns(), name: name})
		}
		if len(t.names) > 0 {
			continue
		}
		client, err := c.connect(ctx)
		if err != nil {
			return nil, err
		}
		namespace := c.ns()
		if o.allNamespaces {
			namespace = ""
		}
		found, err := client.List(ctx, t.kind.Kind, namespace, metav1.ListOptions{LabelSelector: o.selector, FieldSelector: o.fieldSelector})
		if err != nil {
			return nil, err
		}
		for _, v := range found.Items {
			list = append(list, awaited{t.kind, v.GetNamespace(), v.GetName(), v, true})
		}
	}
	if len(list) == 0 && !wanted.deleted {
		return nil, plainf("no matching resources found")
	}
	return list, nil
}

// await returns the object as it is when it is as wanted; during ends the
// waiting.
func (t *awaited) await(ctx, during context.Context, client *node.Client, wanted expectation) (pod.Value, error) {
	options := metav1.ListOptions{FieldSelector: "metadata.name=" + t.name}
	if !t.looked {
		// A list, for the version to watch from when the object is not there.
		list, err := client.List(ctx, t.kind.Kind, t.namespace, options)
		if err != nil {
			return nil, err
		}
		options.ResourceVersion = list.ResourceVersion
		if len(list.Items) > 0 {
			t.found = list.Items[0]
		}
	} else {
		options.ResourceVersion = t.found.GetResourceVersion()
	}
	switch {
	case t.found == nil && wanted.deleted:
		return nil, nil
	case t.found == nil && !wanted.created:
		return nil, apierrors.NewNotFound(corev1.Resource(t.kind.Resource), t.name)
	}
	f := follower{client: client, kind: t.kind, namespace: t.namespace, options: options, known: knowing()}
	if t.found != nil {
		if met, err := wanted.is(t.found); met || err != nil {
			return t.found, err
		}
		f.known = knowing(t.found)
	}
	defer f.close()
	for {
		change, err := f.next(during)
		switch {
		case err != nil:
			return nil, err
		case wanted.deleted:
			// Another of its name is not what was waited for.
			if change.gone && change.object.GetUID() == t.found.GetUID() || !change.gone && change.object.GetUID() != t.found.GetUID() {
				return t.found, nil
			}
		case change.gone: // one of its name may come
		default:
			if met, err := wanted.is(change.object); met || err != nil {
				return change.object, err
			}
		}
	}
}
