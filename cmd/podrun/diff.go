package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/yaml"

	"get.podrun.dev/podrun/node"
	"get.podrun.dev/podrun/pod"
)

// exitDiffFailed is diff's own code: 1 says that there are differences.
const exitDiffFailed = 2

func diffCommand(c *cli) *cobra.Command {
	var files manifestFlags
	command := &cobra.Command{
		Use:   "diff -f FILENAME",
		Short: "Show what apply would change",
		Long: `Show what apply would change: the objects as they are, beside what they would be.

The program of KUBECTL_EXTERNAL_DIFF compares the two directories, else "diff -u -N".
The values of secrets are masked.

Exit codes: 0 no differences, 1 differences, above 1 it failed.`,
		Example: `  podrun diff -f pod.yml
  KUBECTL_EXTERNAL_DIFF="colordiff -N -u" podrun diff -f pod.yml`,
		RunE: func(command *cobra.Command, args []string) error {
			err := c.diff(command.Context(), args, &files)
			var code exitCode
			if err == nil || errors.As(err, &code) {
				return err
			}
			if reported := c.report(command.Context(), command, err); reported == exitInterrupted {
				return exitCode(reported)
			}
			return exitCode(exitDiffFailed)
		},
	}
	files.declare(command, "compare")
	return command
}

func (c *cli) diff(ctx context.Context, args []string, files *manifestFlags) (err error) {
	if len(args) > 0 {
		return usagef("Unexpected args: %v", args)
	}
	if len(files.sources) == 0 {
		return &usageError{message: "must specify -f", noHelp: true}
	}
	objects, err := files.load(ctx, c)
	if err != nil {
		return err
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	live, err := os.MkdirTemp("", "LIVE-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(live)) }()
	merged, err := os.MkdirTemp("", "MERGED-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(merged)) }()
	for _, o := range objects {
		if err := writeVersions(ctx, client, o, live, merged); err != nil {
			return err
		}
	}
	return c.compare(ctx, live, merged)
}

// writeVersions writes an object as it is into one directory and as it would
// be into the other.
func writeVersions(ctx context.Context, client *node.Client, o *pod.Object, live, merged string) error {
	v := o.Value
	var before, after pod.Value
	// What the status of a pod does in between is no difference.
	for range 10 {
		var err error
		if before, err = client.Get(ctx, pod.KindOf(v), v.GetNamespace(), v.GetName()); apierrors.IsNotFound(err) {
			before = nil
		} else if err != nil {
			return err
		}
		if _, after, err = client.Apply(ctx, v, node.Write{DryRun: true}); err != nil {
			return manifestFailure("apply", o, err)
		}
		if before == nil || before.GetResourceVersion() == after.GetResourceVersion() {
			break
		}
	}
	name := strings.Join([]string{"v1", pod.KindOf(v).Name, v.GetNamespace(), v.GetName()}, ".")
	was, is, err := shownAs(before, after)
	if err != nil {
		return err
	}
	if was != nil {
		if err := writeYAML(filepath.Join(live, name), was); err != nil {
			return err
		}
	}
	return writeYAML(filepath.Join(merged, name), is)
}

// shownAs makes the two versions of an object fit to be shown: without the
// annotation that repeats the manifest, and a Secret without its values.
func shownAs(before, after pod.Value) (was, is object, err error) {
	strip := func(v pod.Value) (object, error) {
		v = v.DeepCopyObject().(pod.Value)
		annotations := v.GetAnnotations()
		delete(annotations, corev1.LastAppliedConfigAnnotation)
		v.SetAnnotations(annotations)
		return toObject(v, pod.KindOf(v).Name)
	}
	if before != nil {
		if was, err = strip(before); err != nil {
			return nil, nil, err
		}
	}
	if is, err = strip(after); err != nil {
		return nil, nil, err
	}
	if pod.KindOf(after) == secretKind.Kind {
		mask(was, is)
	}
	return was, is, nil
}

// mask replaces the values of two versions of a Secret by stars that still
// tell which differ, as kubectl does.
func mask(was, is object) {
	old, _ := was["data"].(map[string]any)
	updated, _ := is["data"].(map[string]any)
	for key, value := range updated {
		before, both := old[key]
		switch {
		case !both || before == value:
			updated[key] = "***"
		default:
			updated[key] = "*** (after)"
		}
		if both {
			old[key] = strings.Replace(updated[key].(string), "after", "before", 1)
		}
	}
	for key := range old {
		if _, both := updated[key]; !both {
			old[key] = "***"
		}
	}
}

func writeYAML(path string, o object) error {
	data, err := yaml.Marshal(o)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// compare runs the diff program; its exit code is ours.
func (c *cli) compare(ctx context.Context, live, merged string) error {
	words := []string{"diff", "-u", "-N"}
	if own := strings.Fields(os.Getenv("KUBECTL_EXTERNAL_DIFF")); len(own) > 0 {
		words = own
	}
	program := exec.CommandContext(ctx, words[0], append(words[1:], live, merged)...)
	program.Stdout, program.Stderr = c.out, c.err
	err := program.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exitCode(exit.ExitCode())
	}
	if err != nil {
		return plainf("failed to run %q: %v", words[0], err)
	}
	return nil
}
