package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/node"
	"get.podrun.dev/podrun/pod"
)

type replaceOptions struct {
	files   manifestFlags
	force   bool
	grace   int64
	timeout time.Duration
	output  string
	dryRun  dryRun
}

func replaceCommand(c *cli) *cobra.Command {
	var o replaceOptions
	command := &cobra.Command{
		Use:        "replace -f FILENAME",
		SuggestFor: []string{"edit"}, // kubectl's
		Short:      "Put the objects of a manifest in the place of those of their names",
		Long: `Put the objects of a manifest in the place of those of their names, which must be there.

What the manifest leaves out is gone afterwards. With --force the objects are deleted
and made again: so a pod can change in every field.`,
		Example: `  podrun replace -f settings.yml
  podrun replace --force -f pod.yml
  podrun get configmap settings -o yaml | sed 's/old/new/' | podrun replace -f -`,
		RunE: func(command *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				return usagef("Unexpected args: %v", args)
			case len(o.files.sources) == 0:
				return &usageError{message: "must specify -f", noHelp: true}
			case o.grace >= 0 && !o.force:
				return plainf("--grace-period must have --force specified")
			case o.timeout != 0 && !o.force:
				return plainf("--timeout must have --force specified")
			case o.force && o.dryRun != "none":
				return plainf("--dry-run cannot be used when --force is set")
			}
			if err := o.dryRun.check(); err != nil {
				return err
			}
			return c.replace(command.Context(), &o)
		},
	}
	o.files.declare(command, "replace")
	o.dryRun.declare(command)
	f := command.Flags()
	f.BoolVar(&o.force, "force", false, "delete the objects and make them again; those that are not there are made")
	f.Int64Var(&o.grace, "grace-period", -1, "with --force: seconds that the containers get to end; negative stands for the pod's own")
	f.DurationVar(&o.timeout, "timeout", 0, "with --force: how long to wait until the old objects are gone; 0 is without end")
	f.StringVarP(&o.output, "output", "o", "", outputHelp)
	return command
}

func (c *cli) replace(ctx context.Context, o *replaceOptions) error {
	objects, err := o.files.load(ctx, c)
	if err != nil {
		return err
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	if o.force {
		if err := c.clear(ctx, client, objects, o); err != nil {
			return err
		}
	}
	var replaced []pod.Value
	var failed errorList
	for _, object := range objects {
		var v pod.Value
		switch {
		case o.force:
			v, err = client.Create(ctx, manifestOf(object.Value), node.Write{})
		case o.dryRun.client():
			_, err = client.Get(ctx, pod.KindOf(object.Value), object.Value.GetNamespace(), object.Value.GetName())
			v = object.Value
		default:
			v, err = client.Replace(ctx, object.Value, o.dryRun.write())
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			failed = append(failed, manifestFailure("replace", object, err))
		case o.output != "":
			replaced = append(replaced, v)
		default:
			fmt.Fprintf(c.out, "%s replaced%s\n", title(v), o.dryRun.suffix())
		}
	}
	if len(replaced) > 0 {
		if err := c.printObjects(replaced, o.output); err != nil {
			failed = append(failed, err)
		}
	}
	return failed.err()
}

// clear deletes the objects and waits until they are gone.
func (c *cli) clear(ctx context.Context, client *node.Client, objects []*pod.Object, o *replaceOptions) error {
	var options metav1.DeleteOptions
	if o.grace >= 0 {
		options.GracePeriodSeconds = &o.grace
	}
	var going []pod.Value
	for _, object := range objects {
		v, err := client.Delete(ctx, pod.KindOf(object.Value), object.Value.GetNamespace(), object.Value.GetName(), options)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		if o.output == "" {
			c.printDeleted(v, &deleteOptions{})
		}
		going = append(going, v)
	}
	during := ctx
	if o.timeout > 0 {
		var cancel context.CancelFunc
		during, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	for _, v := range going {
		if err := waitGone(during, client, v); errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return plainf("timed out waiting for the condition on %s/%s", pod.KindOf(v).Resource, v.GetName())
		} else if err != nil {
			return err
		}
	}
	return nil
}

// manifestOf is an object without what only a stored one has, so that the
// output of get can be made again.
func manifestOf(v pod.Value) pod.Value {
	v = v.DeepCopyObject().(pod.Value)
	v.SetResourceVersion("")
	v.SetUID("")
	return v
}
