package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"

	"get.podrun.dev/podrun/node"
	"get.podrun.dev/podrun/pod"
)

// metadataVerb is what label and annotate differ in.
type metadataVerb struct {
	noun, field string // label, labels
	done        string // labeled
	of          func(pod.Value) map[string]string
	valid       func(value string) []string
	taken       func(taken []string) error // the keys that have a value already
}

var labelVerb = &metadataVerb{
	noun: "label", field: "labels", done: "labeled",
	of:    func(v pod.Value) map[string]string { return v.GetLabels() },
	valid: validation.IsValidLabelValue,
	taken: func(taken []string) error {
		for i, t := range taken {
			taken[i] = t + ", and --overwrite is false"
		}
		if len(taken) == 1 {
			return plainError(taken[0])
		}
		return plainf("[%s]", strings.Join(taken, ", "))
	},
}

var annotateVerb = &metadataVerb{
	noun: "annotation", field: "annotations", done: "annotated",
	of:    func(v pod.Value) map[string]string { return v.GetAnnotations() },
	valid: func(string) []string { return nil },
	taken: func(taken []string) error {
		return plainf("--overwrite is false but found the following declared annotation(s): %s", strings.Join(taken, "; "))
	},
}

func labelCommand(c *cli) *cobra.Command {
	return metadataCommand(c, labelVerb, &cobra.Command{
		Use:   "label (TYPE NAME... | TYPE/NAME... | -f FILENAME) KEY=VALUE... KEY-...",
		Short: "Set or remove labels of objects",
		Long: `Set or remove labels of objects. KEY- removes a label.

A label that has another value already is changed only with --overwrite.`,
		Example: `  podrun label pod web tier=front
  podrun label --overwrite pod/web tier=back
  podrun label pods --all tier-
  podrun label pod web --list`,
	})
}

func annotateCommand(c *cli) *cobra.Command {
	return metadataCommand(c, annotateVerb, &cobra.Command{
		Use:   "annotate (TYPE NAME... | TYPE/NAME... | -f FILENAME) KEY=VALUE... KEY-...",
		Short: "Set or remove annotations of objects",
		Long: `Set or remove annotations of objects. KEY- removes an annotation.

An annotation that has another value already is changed only with --overwrite.`,
		Example: `  podrun annotate pod web description='my frontend'
  podrun annotate --overwrite pod/web description='our frontend'
  podrun annotate pods --all description-`,
	})
}

// metadataOptions are the flags of label and annotate.
type metadataOptions struct {
	files                           manifestFlags
	selector, fieldSelector, output string
	resourceVersion                 string
	all, allNamespaces              bool
	overwrite, list                 bool
	dryRun                          dryRun
}

func metadataCommand(c *cli, verb *metadataVerb, command *cobra.Command) *cobra.Command {
	var o metadataOptions
	command.ValidArgsFunction = c.completeResource(storedKinds...)
	command.RunE = func(command *cobra.Command, args []string) error {
		return c.changeMetadata(command.Context(), verb, args, &o)
	}
	f := command.Flags()
	o.files.declare(command, verb.noun)
	o.dryRun.declare(command)
	f.StringVarP(&o.selector, "selector", "l", "", "the objects with these labels (KEY=VALUE,...)")
	f.StringVar(&o.fieldSelector, "field-selector", "", "the objects with these fields (status.phase=Running)")
	f.BoolVar(&o.all, "all", false, "all objects of the type in the namespace")
	f.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "with -l or --all: in all namespaces")
	f.BoolVar(&o.overwrite, "overwrite", false, "change what has a value already")
	f.BoolVar(&o.list, "list", false, "show the "+verb.field+" of the objects")
	f.StringVar(&o.resourceVersion, "resource-version", "", "only if the object is of this version; of a single object")
	f.StringVarP(&o.output, "output", "o", "", outputHelp)
	return command
}

// metadataChange is the changes that the arguments ask for.
type metadataChange struct {
	set    map[string]string
	remove []string
}

// parsePairs takes the arguments of a metadata verb apart: objects first, then
// KEY=VALUE and KEY-.
func parsePairs(verb *metadataVerb, args []string) (objects []string, p metadataChange, err error) {
	p.set = map[string]string{}
	for i, arg := range args {
		key, value, sets := strings.Cut(arg, "=")
		removed, removes := strings.CutSuffix(arg, "-")
		switch {
		case !sets && !removes:
			if len(p.set)+len(p.remove) > 0 {
				return nil, p, plainf("all resources must be specified before %s changes: %s", verb.noun, arg)
			}
			objects = args[:i+1]
		case sets && key == "" || !sets && removed == "":
			return nil, p, plainf("invalid %s format: %s", verb.noun, arg)
		case sets:
			if problems := verb.valid(value); len(problems) > 0 {
				return nil, p, plainf("invalid %s value: %q: %s", verb.noun, arg, strings.Join(problems, ";"))
			}
			p.set[key] = value
		default:
			p.remove = append(p.remove, removed)
		}
	}
	for _, key := range p.remove {
		if _, both := p.set[key]; both {
			return nil, p, plainf("can not both modify and remove the following %s(s) in the same command: %s", verb.noun, key)
		}
	}
	return objects, p, nil
}

func (c *cli) changeMetadata(ctx context.Context, verb *metadataVerb, args []string, o *metadataOptions) error {
	objects, p, err := parsePairs(verb, args)
	if err == nil {
		err = o.dryRun.check()
	}
	switch {
	case err != nil:
		return err
	case o.all && o.selector != "":
		return plainf("cannot set --all and --selector at the same time")
	case o.all && o.fieldSelector != "":
		return plainf("cannot set --all and --field-selector at the same time")
	case o.list && o.output != "":
		return plainf("--list and --output may not be specified together")
	case len(objects) == 0 && len(o.files.sources) == 0:
		return plainf("one or more resources must be specified as <resource> <name> or <resource>/<name>")
	case len(p.set) == 0 && len(p.remove) == 0 && !o.list:
		return plainf("at least one %s update is required", verb.noun)
	}
	choice := selected{files: &o.files, selector: o.selector, fieldSelector: o.fieldSelector, all: o.all, allNamespaces: o.allNamespaces}
	targets, err := c.choose(ctx, objects, choice)
	if err != nil {
		return err
	}
	if o.resourceVersion != "" && len(targets) != 1 {
		return plainf("--resource-version may only be used with a single resource")
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	var changed []pod.Value
	var failed errorList
	for _, t := range targets {
		before, err := client.Get(ctx, t.kind.Kind, t.Namespace, t.Name)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if o.list {
			c.listMetadata(verb, before, len(targets) == 1)
			continue
		}
		after, err := c.patchMetadata(ctx, client, verb, before, p, o)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if o.output != "" {
			changed = append(changed, after)
			continue
		}
		c.printMetadata(verb, before, after, o)
	}
	if len(changed) > 0 {
		if err := c.printObjects(changed, o.output); err != nil {
			failed = append(failed, err)
		}
	}
	return failed.err()
}

// patchMetadata changes one object.
func (c *cli) patchMetadata(ctx context.Context, client *node.Client, verb *metadataVerb, v pod.Value, p metadataChange, o *metadataOptions) (pod.Value, error) {
	have := verb.of(v)
	if !o.overwrite {
		var taken []string
		for _, key := range slices.Sorted(maps.Keys(p.set)) {
			if value, ok := have[key]; ok && value != p.set[key] {
				taken = append(taken, fmt.Sprintf("'%s' already has a value (%s)", key, value))
			}
		}
		if len(taken) > 0 {
			return nil, verb.taken(taken)
		}
	}
	changes := map[string]any{}
	for key, value := range p.set {
		changes[key] = value
	}
	for _, key := range p.remove {
		if _, ok := have[key]; !ok && o.output == "" {
			fmt.Fprintf(c.out, "%s %q not found.\n", verb.noun, key)
		}
		changes[key] = nil
	}
	metadata := map[string]any{verb.field: changes}
	if o.resourceVersion != "" {
		metadata["resourceVersion"] = o.resourceVersion
	}
	patch := map[string]any{"metadata": metadata}
	if !o.dryRun.client() {
		return client.Patch(ctx, pod.KindOf(v), v.GetNamespace(), v.GetName(), patch, o.dryRun.write())
	}
	after := v.DeepCopyObject().(pod.Value)
	now := map[string]string{}
	maps.Copy(now, have)
	maps.Copy(now, p.set)
	for _, key := range p.remove {
		delete(now, key)
	}
	if verb == labelVerb {
		after.SetLabels(now)
	} else {
		after.SetAnnotations(now)
	}
	return after, nil
}

func (c *cli) printMetadata(verb *metadataVerb, before, after pod.Value, o *metadataOptions) {
	done := verb.done
	if verb == labelVerb {
		switch was, is := verb.of(before), verb.of(after); {
		case maps.Equal(was, is):
			done = "not labeled"
		case len(is) < len(was):
			done = "unlabeled"
		}
	}
	fmt.Fprintf(c.out, "%s %s%s\n", title(after), done, o.dryRun.suffix())
}

func (c *cli) listMetadata(verb *metadataVerb, v pod.Value, single bool) {
	indent := ""
	if !single {
		indent = " "
		fmt.Fprintf(c.out, "Listing %s for %s./%s:\n", verb.field, pod.KindOf(v).Name, v.GetName())
	}
	have := verb.of(v)
	for _, key := range slices.Sorted(maps.Keys(have)) {
		fmt.Fprintf(c.out, "%s%s=%s\n", indent, key, have[key])
	}
}
