package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/pod"
)

// createOptions are the flags of all forms of create.
type createOptions struct {
	output string
	dryRun dryRun
}

func (o *createOptions) declare(command *cobra.Command) {
	o.dryRun.declare(command)
	command.Flags().StringVarP(&o.output, "output", "o", "", outputHelp)
}

func createCommand(c *cli) *cobra.Command {
	var o createOptions
	var files manifestFlags
	command := &cobra.Command{
		Use:   "create -f FILENAME",
		Short: "Make objects that are not there yet",
		Long:  "Make objects that are not there yet, from a manifest, or by name from files and values.",
		Example: `  podrun create -f pod.yml
  podrun create namespace staging
  podrun create configmap settings --from-file=app.conf --from-literal=level=debug
  podrun create secret generic login --from-literal=password=... --dry-run=client -o yaml`,
		RunE: func(command *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				return usagef("Unexpected args: %v", args)
			case len(files.sources) == 0:
				return &usageError{message: "must specify -f", noHelp: true}
			}
			objects, err := files.load(command.Context(), c)
			if err != nil {
				return err
			}
			return c.create(command.Context(), objects, &o)
		},
	}
	files.declare(command, "create")
	o.declare(command)
	command.AddCommand(createNamespaceCommand(c), createConfigMapCommand(c), createSecretCommand(c))
	return command
}

// create makes the objects of manifests.
func (c *cli) create(ctx context.Context, objects []*pod.Object, o *createOptions) error {
	if err := o.dryRun.check(); err != nil {
		return err
	}
	var made []pod.Value
	var failed errorList
	for _, object := range objects {
		v, err := c.make(ctx, object.Value, o)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && object.File != "":
			failed = append(failed, manifestFailure("create", object, err))
		case err != nil:
			failed = append(failed, err)
		case o.output != "":
			made = append(made, v)
		default:
			fmt.Fprintf(c.out, "%s created%s\n", title(v), o.dryRun.suffix())
		}
	}
	if len(made) > 0 {
		if err := c.printObjects(made, o.output); err != nil {
			failed = append(failed, err)
		}
	}
	return failed.err()
}

// make makes one object; a client's dry run asks no node.
func (c *cli) make(ctx context.Context, v pod.Value, o *createOptions) (pod.Value, error) {
	if o.dryRun.client() {
		return v, nil
	}
	client, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	return client.Create(ctx, manifestOf(v), o.dryRun.write())
}

// createNamed checks an object that was made of flags as a manifest's is, and
// makes it.
func (c *cli) createNamed(ctx context.Context, v pod.Value, o *createOptions) error {
	kind := pod.KindOf(v)
	v.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind.Name))
	if kind.Namespaced {
		v.SetNamespace(c.ns())
	}
	completed := v.DeepCopyObject().(pod.Value)
	pod.Complete(completed)
	if errs := pod.Check(completed); len(errs) > 0 {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind(kind.Name).GroupKind(), v.GetName(), errs)
	}
	return c.create(ctx, []*pod.Object{{Kind: kind.Name, Value: v}}, o)
}

func createNamespaceCommand(c *cli) *cobra.Command {
	var o createOptions
	command := &cobra.Command{
		Use:     "namespace NAME",
		Aliases: []string{"ns"},
		Short:   "Make a namespace",
		Example: `  podrun create namespace staging`,
		RunE: func(command *cobra.Command, args []string) error {
			name, err := exactName(args)
			if err != nil {
				return err
			}
			return c.createNamed(command.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, &o)
		},
	}
	o.declare(command)
	return command
}

// exactName is the only argument of create KIND NAME.
func exactName(args []string) (string, error) {
	if len(args) != 1 {
		return "", usagef("exactly one NAME is required, got %d", len(args))
	}
	return args[0], nil
}
