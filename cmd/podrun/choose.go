package main

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// chosen names an object that a verb changes.
type chosen struct {
	kind *kind
	types.NamespacedName
}

// selected is how a verb that changes objects is told which: by manifests, by
// name, or all of a type that a selector matches.
type selected struct {
	files                   *manifestFlags
	selector, fieldSelector string
	all, allNamespaces      bool
}

// choose returns the objects that args and flags name.
func (c *cli) choose(ctx context.Context, args []string, s selected) ([]chosen, error) {
	var out []chosen
	if len(s.files.sources) > 0 {
		objects, err := s.files.read(ctx, c)
		if err != nil {
			return nil, err
		}
		for _, object := range objects {
			v := object.Value
			out = append(out, chosen{kindOfValue(v), types.NamespacedName{Namespace: v.GetNamespace(), Name: v.GetName()}})
		}
		return out, nil
	}
	targets, err := parseTargets(args)
	if err != nil {
		return nil, err
	}
	selects := s.selector != "" || s.fieldSelector != "" || s.all
	for _, t := range targets {
		switch {
		case t.kind == eventKind:
			return nil, plainf("%s cannot be changed or deleted: they go by themselves", t.kind.Resource)
		case len(t.names) > 0 && selects:
			return nil, &usageError{message: "name cannot be provided when a selector is specified", noHelp: true}
		case len(t.names) == 0 && !selects:
			return nil, &usageError{message: "resource(s) were provided, but no name was specified", noHelp: true}
		}
		for _, name := range t.names {
			out = append(out, chosen{t.kind, types.NamespacedName{Namespace: c.ns(), Name: name}})
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	client, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	namespace := c.ns()
	if s.allNamespaces {
		namespace = ""
	}
	for _, t := range targets {
		list, err := client.List(ctx, t.kind.Kind, namespace, metav1.ListOptions{LabelSelector: s.selector, FieldSelector: s.fieldSelector})
		if err != nil {
			return nil, err
		}
		for _, v := range list.Items {
			out = append(out, chosen{t.kind, types.NamespacedName{Namespace: v.GetNamespace(), Name: v.GetName()}})
		}
	}
	if len(out) == 0 {
		fmt.Fprintln(c.out, "No resources found")
	}
	return out, nil
}
