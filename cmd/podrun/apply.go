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

	"get.podrun.dev/podrun/node"
	"get.podrun.dev/podrun/pod"
)

type applyOptions struct {
	files   manifestFlags
	output  string
	dryRun  dryRun
	wait    bool
	timeout time.Duration
}

func applyCommand(c *cli) *cobra.Command {
	var o applyOptions
	command := &cobra.Command{
		Use:   "apply -f FILENAME",
		Short: "Make objects be as a manifest says",
		Long: `Make objects be as a manifest says: create those that are not there, change the others.

Manifests are YAML or JSON, of one or several objects: Pods, ConfigMaps, Secrets,
PersistentVolumeClaims and Namespaces, in any order. All of them are read and checked
before anything is done: one mistake, and nothing is.`,
		Example: `  podrun apply -f pod.yml
  podrun apply -f web.yml -f db.yml --wait
  podrun apply -R -f manifests/
  podrun apply -f pod.yml --dry-run=server
  podrun apply -f https://k8s.io/examples/pods/simple-pod.yaml
  cat pod.json | podrun apply -f -`,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("Unexpected args: %v", args)
			}
			if len(o.files.sources) == 0 {
				return &usageError{message: "must specify -f", noHelp: true}
			}
			if err := o.dryRun.check(); err != nil {
				return err
			}
			return c.apply(command.Context(), &o)
		},
	}
	o.files.declare(command, "apply")
	o.dryRun.declare(command)
	command.Flags().StringVarP(&o.output, "output", "o", "", outputHelp)
	command.Flags().BoolVar(&o.wait, "wait", false, "wait until the pods are ready or have completed")
	command.Flags().DurationVar(&o.timeout, "timeout", 5*time.Minute, "with --wait: how long; 0 is without end")
	return command
}

func (c *cli) apply(ctx context.Context, o *applyOptions) error {
	objects, err := o.files.load(ctx, c)
	if err != nil {
		return err
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	var applied []pod.Value
	var failed errorList
	for _, object := range objects {
		action, result, err := applyObject(ctx, client, object.Value, o.dryRun)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed = append(failed, manifestFailure("apply", object, err))
			continue
		}
		if o.output == "" {
			fmt.Fprintf(c.out, "%s %s%s\n", title(object.Value), action, o.dryRun.suffix())
		}
		if action != "unchanged" {
			c.warn(result)
		}
		applied = append(applied, result)
	}
	if o.output != "" && len(applied) > 0 {
		if err := c.printObjects(applied, o.output); err != nil {
			failed = append(failed, err)
		}
	}
	if o.wait && o.dryRun == "none" {
		failed = append(failed, awaitPods(ctx, client, applied, o.timeout)...)
	}
	return failed.err()
}

// warn says what of a written object the node has to do without.
func (c *cli) warn(v pod.Value) {
	p, ok := v.(*corev1.Pod)
	if !ok {
		return
	}
	for _, condition := range p.Status.Conditions {
		if condition.Type == pod.ConditionLimits && condition.Status == corev1.ConditionFalse {
			fmt.Fprintf(c.err, "Warning: pod/%s: %s\n", p.Name, condition.Message)
		}
	}
}

// applyObject applies one object. A client's dry run takes the node's word for
// what would be done, but is not stopped by what the node would refuse.
func applyObject(ctx context.Context, client *node.Client, v pod.Value, dry dryRun) (action string, result pod.Value, err error) {
	action, result, err = client.Apply(ctx, v, dry.write())
	var status apierrors.APIStatus
	if !dry.client() || !errors.As(err, &status) {
		if dry.client() {
			result = v
		}
		return action, result, err
	}
	_, err = client.Get(ctx, pod.KindOf(v), v.GetNamespace(), v.GetName())
	if apierrors.IsNotFound(err) {
		return "created", v, nil
	}
	return "configured", v, err
}

// manifestFailure names the file of an object that the node refused, as
// kubectl does. An invalid object is named by its fields instead.
func manifestFailure(verb string, o *pod.Object, err error) error {
	var status *apierrors.StatusError
	if !errors.As(err, &status) {
		return fmt.Errorf("cannot %s %s %q: %w", verb, strings.ToLower(o.Kind), o.Value.GetName(), err)
	}
	if status.ErrStatus.Reason == metav1.StatusReasonInvalid {
		return err
	}
	return fmt.Errorf("error when %sing %q: %w", strings.TrimSuffix(verb, "e"), o.File, err)
}
