package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/node"
	"get.podrun.dev/podrun/pod"
)

// The exit codes of an attached run that are not the container's; docker's.
const (
	exitNotRun        = 125 // podrun could not run it
	exitNotExecutable = 126
	exitNoCommand     = 127
)

type runOptions struct {
	attachOptions
	image, pullPolicy, restart, port string
	labels, overrides                string
	env, annotations                 []string
	command, privileged              bool
	attach, remove, leaveOpen        bool
	output                           string
	dryRun                           dryRun
}

func runCommand(c *cli) *cobra.Command {
	o := runOptions{attachOptions: attachOptions{detachKeys: defaultDetachKeys}}
	command := &cobra.Command{
		Use:   "run NAME --image=IMAGE [-it] [--rm] [--restart=Always|OnFailure|Never] [--command] [-- COMMAND ARG...]",
		Short: "Run an image in a pod of its own",
		Long: `Make a pod of one container that runs an image.

With -i or --attach podrun attaches to it, from its first byte on, and with --restart=Never its exit code
is the container's: 127 when there is no such command, 126 when it cannot be executed, 125 when podrun
could not run it.`,
		Example: `  podrun run web --image=nginx --port=80
  podrun run -it --rm --restart=Never shell --image=busybox
  podrun run job --image=busybox --restart=Never --attach --command -- sh -c 'exit 3'
  podrun run web --image=nginx --dry-run=client -o yaml >web.yml`,
		RunE: func(command *cobra.Command, args []string) error {
			if !command.Flags().Changed("attach") && o.stdin {
				o.attach = true
			}
			if err := o.check(command, args); err != nil {
				return err
			}
			return c.runImage(command.Context(), args[0], args[1:], &o)
		},
	}
	f := command.Flags()
	f.StringVar(&o.image, "image", "", "the image to run")
	f.StringVar(&o.pullPolicy, "image-pull-policy", "", "Always, IfNotPresent or Never")
	f.StringVar(&o.restart, "restart", "", "restart policy of the pod: Always, OnFailure or Never (default Always)")
	f.StringArrayVar(&o.env, "env", nil, "NAME=VALUE in the environment of the container")
	f.StringVarP(&o.labels, "labels", "l", "", "labels of the pod, KEY=VALUE,...; run=NAME when none are given")
	f.StringArrayVar(&o.annotations, "annotations", nil, "an annotation of the pod, KEY=VALUE")
	f.StringVar(&o.port, "port", "", "the port that the container serves")
	f.BoolVar(&o.command, "command", false, "what follows -- is the command, not the arguments of the image's")
	f.BoolVar(&o.privileged, "privileged", false, "run the container in privileged mode")
	f.StringVar(&o.overrides, "overrides", "", "JSON that is merged into the pod (RFC 7386)")
	f.BoolVarP(&o.stdin, "stdin", "i", false, "give the container an input, and attach to it")
	f.BoolVarP(&o.tty, "tty", "t", false, "give the container a terminal")
	f.BoolVar(&o.attach, "attach", false, "attach to the container; the default with -i")
	f.BoolVar(&o.leaveOpen, "leave-stdin-open", false, "leave the container's input open after the first attachment")
	f.BoolVar(&o.remove, "rm", false, "delete the pod afterwards")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print only what the container prints")
	o.dryRun.declare(command)
	f.StringVarP(&o.output, "output", "o", "", "output format: json|yaml|name|jsonpath=TEMPLATE|...")
	f.DurationVar(&o.timeout, "pod-running-timeout", time.Minute, "how long to wait until the pod is running (5s, 2m, 3h)")
	for flag, values := range map[string][]string{
		"restart": {"Always", "OnFailure", "Never"}, "image-pull-policy": {"Always", "IfNotPresent", "Never"},
	} {
		_ = command.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	return command
}

// check refuses what contradicts itself, in kubectl's words.
func (o *runOptions) check(command *cobra.Command, args []string) error {
	switch {
	case len(args) == 0 || command.ArgsLenAtDash() == 0:
		return plainf("NAME is required for run")
	case o.image == "":
		return plainf("--image is required")
	case o.tty && !o.stdin:
		return plainf("-i/--stdin is required for containers with -t/--tty=true")
	case o.restart != "" && o.restart != "Always" && o.restart != "OnFailure" && o.restart != "Never":
		return plainf("invalid restart policy: %s", o.restart)
	case !o.attach && o.remove:
		return plainf("--rm should only be used for attached containers")
	case o.dryRun.check() != nil:
		return o.dryRun.check()
	case o.attach && o.dryRun != "none":
		return plainf("--dry-run=[server|client] can't be used with attached containers options (--attach, --stdin, or --tty)")
	case o.pullPolicy != "" && o.pullPolicy != "Always" && o.pullPolicy != "IfNotPresent" && o.pullPolicy != "Never":
		return plainf("invalid image pull policy: %s", o.pullPolicy)
	case o.timeout <= 0:
		return plainf("--pod-running-timeout must be higher than zero")
	}
	if _, err := node.ImageName(o.image); err != nil {
		return plainf("Invalid image name %q: %v", o.image, err)
	}
	return nil
}

// manifest is the pod that is asked for.
func (o *runOptions) manifest(name string, args []string) (*corev1.Pod, error) {
	p := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"run": name}},
		Spec: corev1.PodSpec{
			DNSPolicy: corev1.DNSClusterFirst, RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{{
				Name: name, Image: o.image, ImagePullPolicy: corev1.PullPolicy(o.pullPolicy),
				Stdin: o.stdin, StdinOnce: o.stdin && !o.leaveOpen, TTY: o.tty,
			}},
		},
	}
	c := &p.Spec.Containers[0]
	if o.restart != "" {
		p.Spec.RestartPolicy = corev1.RestartPolicy(o.restart)
	}
	if o.labels != "" {
		labels, err := pairs(strings.Split(o.labels, ","), "unexpected label spec: %s")
		if err != nil {
			return nil, err
		}
		p.Labels = labels
	}
	annotations, err := pairs(o.annotations, "unexpected annotation spec: %s")
	if err != nil {
		return nil, err
	}
	p.Annotations = annotations
	for _, kv := range o.env {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || name == "" {
			return nil, plainf("invalid env: %v", kv)
		}
		c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: value})
	}
	if o.port != "" {
		port, err := strconv.ParseInt(o.port, 10, 32)
		if err != nil {
			return nil, plainf("invalid port: %s", o.port)
		}
		c.Ports = []corev1.ContainerPort{{ContainerPort: int32(port)}}
	}
	if o.privileged {
		c.SecurityContext = &corev1.SecurityContext{Privileged: &o.privileged}
	}
	if o.command {
		c.Command = args
	} else {
		c.Args = args
	}
	return p, o.override(p)
}

// pairs reads KEY=VALUE of each text.
func pairs(texts []string, format string) (map[string]string, error) {
	var m map[string]string
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return nil, plainf(format, text)
		}
		if m == nil {
			m = map[string]string{}
		}
		m[key] = value
	}
	return m, nil
}

// override merges --overrides into p.
func (o *runOptions) override(p *corev1.Pod) error {
	if o.overrides == "" {
		return nil
	}
	var patch object
	if err := json.Unmarshal([]byte(o.overrides), &patch); err != nil {
		return plainf("--overrides is not a JSON object: %v", err)
	}
	target, err := toObject(p, "Pod")
	if err != nil {
		return err
	}
	mergePatch(target, patch)
	merged, err := json.Marshal(target)
	if err != nil {
		return err
	}
	*p = corev1.Pod{}
	d := json.NewDecoder(bytes.NewReader(merged))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return plainf("--overrides: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if len(p.Spec.Containers) == 0 {
		return plainf("--overrides leaves the pod without containers")
	}
	return nil
}

// mergePatch changes target as RFC 7386 says.
func mergePatch(target, patch object) {
	for key, value := range patch {
		inner, isObject := value.(object)
		switch {
		case value == nil:
			delete(target, key)
		case isObject:
			next, ok := target[key].(object)
			if !ok {
				next = object{}
				target[key] = next
			}
			mergePatch(next, inner)
		default:
			target[key] = value
		}
	}
}

func (c *cli) runImage(ctx context.Context, name string, args []string, o *runOptions) error {
	p, err := o.manifest(name, args)
	if err != nil {
		return err
	}
	if o.dryRun.client() {
		if c.namespace != "" {
			p.Namespace = c.namespace
		}
		return c.printRun(p, o)
	}
	if p.Namespace == "" {
		p.Namespace = c.ns()
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	if o.attach {
		return c.runAttached(ctx, client, p, o)
	}
	made, err := createPod(ctx, client, p, o.dryRun.write().DryRun)
	if err != nil {
		return err
	}
	return c.printRun(made, o)
}

func (c *cli) printRun(p *corev1.Pod, o *runOptions) error {
	if o.output == "" {
		fmt.Fprintf(c.out, "pod/%s created%s\n", p.Name, o.dryRun.suffix())
		return nil
	}
	return c.printObjects([]pod.Value{p}, o.output)
}

// runAttached makes the pod, joins its first container from the first byte on,
// and ends with its exit code.
func (c *cli) runAttached(ctx context.Context, client *node.Client, p *corev1.Pod, o *runOptions) error {
	// A pod of that name whose deletion is not over would end the attachment
	// with its own end.
	if _, err := createPod(ctx, client, p, true); err != nil {
		return err
	}
	var made *corev1.Pod
	during, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	a := attachment{c: c, client: client, pod: p, spec: &p.Spec.Containers[0], o: &o.attachOptions}
	a.begin = func() (err error) {
		if made, err = createPod(ctx, client, p, false); err != nil {
			close(watched)
			return err
		}
		go func() {
			defer close(watched)
			if _, err := awaitRunning(during, client, made, o.timeout); err != nil {
				cancel(err)
			}
		}()
		return nil
	}
	err := a.run(during)
	if made == nil {
		return err // nothing was done
	}
	cancel(nil)
	<-watched
	if cause := context.Cause(during); err != nil && ctx.Err() == nil && !errors.Is(cause, context.Canceled) {
		err = notRunning(ctx, client, made, cause)
	}
	if err == nil {
		err = c.runEnd(ctx, client, made, o)
	}
	if o.remove {
		if derr := c.removeRun(ctx, client, made, o); err == nil {
			err = derr
		}
	}
	var code exitCode
	if err != nil && ctx.Err() == nil && !errors.As(err, &code) {
		fmt.Fprintln(c.err, errorLine(err, true))
		return exitCode(exitNotRun)
	}
	return err
}

// notRunning adds to err what a pod that does not come to run waits for.
func notRunning(ctx context.Context, client *node.Client, p *corev1.Pod, err error) error {
	now, gerr := client.GetPod(ctx, p.Namespace, p.Name)
	if gerr != nil {
		return err
	}
	for _, s := range append(now.Status.InitContainerStatuses, now.Status.ContainerStatuses...) {
		if w := s.State.Waiting; w != nil && w.Message != "" {
			return plainf("%v: container %s: %s: %s", err, s.Name, w.Reason, w.Message)
		}
	}
	return err
}

// runEnd waits for the end of a pod that ends, and returns its exit code as an
// error, 0 as nil.
func (c *cli) runEnd(ctx context.Context, client *node.Client, made *corev1.Pod, o *runOptions) error {
	if o.leaveOpen || made.Spec.RestartPolicy == corev1.RestartPolicyAlways {
		return nil
	}
	now, err := client.GetPod(ctx, made.Namespace, made.Name)
	if err != nil {
		return err
	}
	during, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	p, err := awaitPod(during, client, now, func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return plainf("timed out waiting for the condition on pods/%s", made.Name)
	case err != nil:
		return err
	case p.Status.Phase == corev1.PodSucceeded:
		return nil
	}
	for _, s := range p.Status.ContainerStatuses {
		end := s.State.Terminated
		if s.Name != made.Spec.Containers[0].Name || end == nil || end.ExitCode == 0 {
			continue
		}
		fmt.Fprintf(c.err, "pod %s/%s terminated (%s)\n", p.Namespace, p.Name, end.Reason)
		if end.Message != "" {
			fmt.Fprintln(c.err, strings.TrimSuffix(end.Message, "\n"))
		}
		return exitCode(exitCodeOf(end))
	}
	return plainf("pod %s/%s failed with unknown exit code", p.Namespace, p.Name)
}

// exitCodeOf is the code of a container's end; a program that could not be
// executed has a shell's, not the kubelet's 128.
func exitCodeOf(end *corev1.ContainerStateTerminated) int {
	switch {
	case end.Reason != "StartError":
		return int(end.ExitCode)
	case strings.Contains(end.Message, "not found") || strings.Contains(end.Message, "no such file"):
		return exitNoCommand
	}
	return exitNotExecutable
}

// removeRun deletes the pod, also after an interrupt. As with kubectl it waits
// for nothing but what takes no time: the end of a pod that has finished.
func (c *cli) removeRun(ctx context.Context, client *node.Client, made *corev1.Pod, o *runOptions) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.timeout)
	defer cancel()
	deleted, err := client.Delete(ctx, podKind.Kind, made.Namespace, made.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !o.quiet {
		c.printDeleted(deleted, &deleteOptions{})
	}
	if p := deleted.(*corev1.Pod); p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return waitGone(ctx, client, p)
	}
	return nil
}

// createPod makes a pod that must not be there.
func createPod(ctx context.Context, client *node.Client, p *corev1.Pod, dryRun bool) (*corev1.Pod, error) {
	made, err := client.Create(ctx, p, node.Write{DryRun: dryRun})
	if err != nil {
		return nil, err
	}
	return made.(*corev1.Pod), nil
}
