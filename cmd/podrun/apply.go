package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/node"
	"get.podrun.dev/podrun/pod"
)

func applyCommand(c *cli) *cobra.Command {
	var files manifestFlags
	var output string
	command := &cobra.Command{
		Use:   "apply -f FILENAME",
		Short: "Make objects be as a manifest says",
		Long: `Make objects be as a manifest says: create those that are not there, change the others.

Manifests are YAML or JSON, of one or several objects: Pods, ConfigMaps, Secrets,
PersistentVolumeClaims and Namespaces, in any order. All of them are read and checked
before anything is done: one mistake, and nothing is.`,
		Example: `  podrun apply -f pod.yml
  podrun apply -f web.yml -f db.yml
  podrun apply -R -f manifests/
  podrun apply -f https://k8s.io/examples/pods/simple-pod.yaml
  cat pod.json | podrun apply -f -`,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("Unexpected args: %v", args)
			}
			if len(files.sources) == 0 {
				return &usageError{message: "must specify -f", noHelp: true}
			}
			return c.apply(command.Context(), &files, output)
		},
	}
	files.declare(command, "apply")
	command.Flags().StringVarP(&output, "output", "o", "", outputHelp)
	return command
}

func (c *cli) apply(ctx context.Context, files *manifestFlags, output string) error {
	objects, err := files.read(ctx, c)
	if err == nil {
		err = validate(objects)
	}
	if err != nil {
		return err
	}
	inOrder(objects)
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	var applied []pod.Value
	var failed errorList
	for _, o := range objects {
		action, result, err := client.Apply(ctx, o.Value, node.Write{})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed = append(failed, applyError(o, err))
			continue
		}
		if output == "" {
			fmt.Fprintf(c.out, "%s %s\n", title(o.Value), action)
		} else {
			applied = append(applied, result)
		}
		if action != "unchanged" {
			c.warn(result)
		}
	}
	if output != "" && len(applied) > 0 {
		if err := c.printObjects(applied, output); err != nil {
			failed = append(failed, err)
		}
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

// applyError names the file of an object that the node refused, as kubectl
// does. An invalid object is named by its fields instead.
func applyError(o *pod.Object, err error) error {
	var status *apierrors.StatusError
	if !errors.As(err, &status) {
		return fmt.Errorf("cannot apply %s %q: %w", strings.ToLower(o.Kind), o.Value.GetName(), err)
	}
	if status.ErrStatus.Reason == metav1.StatusReasonInvalid {
		return err
	}
	return fmt.Errorf("error when applying %q: %w", o.File, err)
}
