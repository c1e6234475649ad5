package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/node"
)

// defaultDetachKeys are kubectl's and docker's.
const defaultDetachKeys = "ctrl-p,ctrl-q"

type attachOptions struct {
	container  string
	stdin, tty bool
	quiet      bool
	detachKeys string
	timeout    time.Duration
}

func attachCommand(c *cli) *cobra.Command {
	var o attachOptions
	command := &cobra.Command{
		Use:   "attach (POD | pod/POD) [-c CONTAINER] [-i] [-t]",
		Short: "Attach to a running container",
		Long: `Attach to the process that runs in a container: see what it prints from now on, with -i give it
input, with -t by its terminal.

^P ^Q leaves the container alone and ends the attachment; so does its kill. The container does not notice.`,
		Example: `  podrun attach web
  podrun attach web -c ruby -i -t`,
		ValidArgsFunction: c.completePodThenContainer,
		RunE: func(command *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return plainf("at least 1 argument is required for attach")
			case len(args) > 2:
				return plainf("expected POD, TYPE/NAME, or TYPE NAME, (at most 2 arguments) saw %d: %v", len(args), args)
			case o.timeout <= 0:
				return plainf("--pod-running-timeout must be higher than zero")
			}
			return c.attach(command.Context(), strings.Join(args, "/"), &o)
		},
	}
	f := command.Flags()
	f.StringVarP(&o.container, "container", "c", "", "attach to this container; the first when none is given")
	f.BoolVarP(&o.stdin, "stdin", "i", false, "pass standard input to it")
	f.BoolVarP(&o.tty, "tty", "t", false, "standard input is a terminal")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print only what the container prints")
	f.StringVar(&o.detachKeys, "detach-keys", defaultDetachKeys, "the keys that end the attachment and leave the container alone")
	f.DurationVar(&o.timeout, "pod-running-timeout", time.Minute, "how long to wait until the pod is running (5s, 2m, 3h)")
	_ = command.RegisterFlagCompletionFunc("container", c.completeContainerFlag)
	return command
}

func (c *cli) attach(ctx context.Context, target string, o *attachOptions) error {
	client, p, err := c.findPod(ctx, target)
	if err != nil {
		return err
	}
	if p, err = awaitRunning(ctx, client, p, o.timeout); err != nil {
		return err
	}
	if p.Status.Phase != corev1.PodRunning {
		return plainf("cannot attach a container in a completed pod; current phase is %s", p.Status.Phase)
	}
	if o.container == "" {
		o.container = c.pickContainer(p)
	}
	spec := containerOf(p, o.container)
	if spec == nil {
		return plainf("cannot attach to the container: container %s not found in pod %s", o.container, p.Name)
	}
	return (&attachment{c: c, client: client, pod: p, spec: spec, o: o}).run(ctx)
}

func containerOf(p *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// attachment is a use of attach: to a container that runs, or with begin to one
// that comes.
type attachment struct {
	c      *cli
	client *node.Client
	pod    *corev1.Pod
	spec   *corev1.Container
	o      *attachOptions
	begin  func() error // called once, as soon as nothing that the container prints can be missed

	request               node.AttachRequest
	stdin, stdout, stderr *os.File
	raw                   bool // the container's terminal is joined with ours
	greeted               bool
	screen                *rawTerminal
}

// run attaches until the container ends or the user leaves it.
func (a *attachment) run(ctx context.Context) error {
	a.raw = a.c.joinsTerminal(a.spec, a.o)
	a.request = node.AttachRequest{ID: rand.Text(), Container: a.spec.Name, Stdin: a.o.stdin, Next: a.begin != nil}
	a.stdin, a.stdout, a.stderr = a.c.in, a.c.out, a.c.err
	if !a.o.stdin {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return err
		}
		defer func() { _ = null.Close() }()
		a.stdin = null
	}
	if a.raw {
		var err error
		if a.request.DetachKeys, err = parseKeys(a.o.detachKeys); err != nil {
			return err
		}
		a.stderr = a.c.out
	}
	err := a.session(ctx)
	var interrupted *node.InterruptedError
	for errors.As(err, &interrupted) && a.begin == nil && ctx.Err() == nil {
		// The node died, the container did not: the next node knows it.
		a.request.Next = true
		err = a.session(ctx)
		if apierrors.IsBadRequest(err) || apierrors.IsNotFound(err) {
			err = nil // it has ended meanwhile
		}
	}
	a.screen.leave()
	if err == nil && a.raw && !a.o.quiet {
		fmt.Fprintf(a.c.out, "Session ended, resume using 'podrun attach %s -c %s -n %s -i -t' command\n", a.pod.Name, a.spec.Name, a.pod.Namespace)
	}
	return err
}

// session is the part of the attachment that one node sees.
func (a *attachment) session(ctx context.Context) error {
	if a.raw {
		size := terminalSize(a.c.in)
		a.request.Rows, a.request.Cols = size.Rows, size.Cols
	}
	attached, err := a.client.Attach(ctx, a.pod.Namespace, a.pod.Name, a.request, a.stdin, a.stdout, a.stderr)
	if err != nil {
		return err
	}
	defer func() { _ = attached.Close() }()
	if a.begin != nil {
		if err := a.begin(); err != nil {
			return err
		}
		a.begin = nil
	}
	event, err := attached.Next()
	if err != nil || event.Over {
		return err
	}
	if err := a.greet(ctx); err != nil {
		return err
	}
	_, err = attached.Next()
	return err
}

// greet is called when the container is there.
func (a *attachment) greet(ctx context.Context) (err error) {
	if a.greeted {
		return nil
	}
	a.greeted = true
	if !a.o.quiet {
		fmt.Fprintln(a.c.err, "All commands and output from this session will be recorded in container logs, including credentials and sensitive information passed through the command prompt.")
		fmt.Fprintln(a.c.err, "If you don't see a command prompt, try pressing enter.")
	}
	if a.raw {
		// A container that has just ended has no size: the error is no news.
		a.screen, err = enterTerminal(a.c.in, func(s node.Size) { _ = a.client.Resize(ctx, a.request.ID, s) })
	}
	return err
}

// joinsTerminal tells whether the container's terminal is joined with ours, and
// corrects what the user wrongly asked for.
func (c *cli) joinsTerminal(spec *corev1.Container, o *attachOptions) bool {
	if o.tty && !spec.TTY && !o.quiet {
		fmt.Fprintf(c.err, "error: Unable to use a TTY - container %s did not allocate one\n", spec.Name)
	}
	if !spec.TTY || !o.stdin {
		return false
	}
	if !isTerminal(c.in) {
		if o.tty && !o.quiet {
			fmt.Fprintln(c.err, "Unable to use a TTY - input is not a terminal or the right kind of file")
		}
		return false
	}
	return true
}

// parseKeys reads a sequence of keys such as ctrl-p,ctrl-q: letters, or ctrl- and
// one of a-z @ [ \\ ] ^ _.
func parseKeys(text string) ([]byte, error) {
	var keys []byte
	for key := range strings.SplitSeq(text, ",") {
		name, ctrl := strings.CutPrefix(key, "ctrl-")
		switch {
		case len(name) != 1 || name[0] > 127:
			return nil, plainf("could not bind detach keys: Unknown character: '%s'", key)
		case !ctrl:
			keys = append(keys, name[0])
		case name[0] >= 'a' && name[0] <= 'z' || name[0] >= '@' && name[0] <= '_':
			keys = append(keys, name[0]&0x1f)
		default:
			return nil, plainf("could not bind detach keys: Unknown character: '%s'", key)
		}
	}
	return keys, nil
}
