package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/node"
)

// defaultContainer is the annotation that names the container meant when none
// is named.
const defaultContainer = "kubectl.kubernetes.io/default-container"

type logsOptions struct {
	corev1.PodLogOptions
	selector      string
	allContainers bool
	prefix        bool
	since         time.Duration
	sinceTime     string
	tail, limit   int64
	maxRequests   int
}

func logsCommand(c *cli) *cobra.Command {
	var o logsOptions
	command := &cobra.Command{
		Use:   "logs [-f] [-p] (POD | pod/POD | -l SELECTOR) [-c CONTAINER]",
		Short: "Print what the containers of a pod have printed",
		Example: `  podrun logs web
  podrun logs -f web -c nginx --tail=20
  podrun logs web --previous             of the containers before the last restart
  podrun logs web --all-containers --prefix`,
		ValidArgsFunction: c.completePodThenContainer,
		RunE: func(command *cobra.Command, args []string) error {
			if err := o.check(command, args); err != nil {
				return err
			}
			return c.logs(command.Context(), args, &o)
		},
	}
	f := command.Flags()
	f.BoolVarP(&o.Follow, "follow", "f", false, "go on as the container prints")
	f.BoolVarP(&o.Previous, "previous", "p", false, "of the container before the last restart")
	f.StringVarP(&o.Container, "container", "c", "", "of this container")
	f.BoolVar(&o.allContainers, "all-containers", false, "of all containers")
	f.StringVarP(&o.selector, "selector", "l", "", "of the pods with these labels (KEY=VALUE,...)")
	f.BoolVar(&o.prefix, "prefix", false, "begin each line with [pod/POD/CONTAINER]")
	f.BoolVar(&o.Timestamps, "timestamps", false, "begin each line with its time")
	f.Int64Var(&o.tail, "tail", -1, "lines from the end; -1 is all, or 10 with a selector")
	f.Int64Var(&o.limit, "limit-bytes", 0, "no more than this many bytes; 0 is no limit")
	f.DurationVar(&o.since, "since", 0, "only what is newer than this (5s, 2m, 3h)")
	f.StringVar(&o.sinceTime, "since-time", "", "only what came after this time (RFC 3339)")
	f.IntVar(&o.maxRequests, "max-log-requests", 5, "how many containers to follow at once")
	_ = command.RegisterFlagCompletionFunc("container", c.completeContainerFlag)
	return command
}

// check refuses flags that contradict each other and turns them into what the
// node is asked.
func (o *logsOptions) check(command *cobra.Command, args []string) error {
	badUse := func(message string) error { return &usageError{message: message, noHelp: true} }
	if len(args) == 2 {
		if o.Container != "" {
			return badUse("only one of -c or an inline [CONTAINER] arg is allowed")
		}
		o.Container = args[1]
	}
	switch {
	case len(args) > 2 || len(args) == 0 && o.selector == "":
		return usagef("expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command")
	case len(args) > 0 && o.selector != "":
		return badUse("only a selector (-l) or a POD name is allowed")
	case o.allContainers && o.Container != "":
		return badUse("--all-containers=true should not be specified with container name " + o.Container)
	case o.since != 0 && o.sinceTime != "":
		return badUse("at most one of `sinceTime` or `sinceSeconds` may be specified")
	case o.since < 0:
		return badUse("--since must be greater than 0")
	case o.tail < -1:
		return badUse("--tail must be greater than or equal to -1")
	case o.limit < 0 || command.Flags().Changed("limit-bytes") && o.limit == 0:
		return badUse("--limit-bytes must be greater than 0")
	case o.maxRequests < 1:
		return badUse("--max-log-requests must be greater than 0")
	}
	if o.selector != "" && !command.Flags().Changed("tail") && !o.Follow {
		o.tail = 10
	}
	if o.tail >= 0 {
		o.TailLines = &o.tail
	}
	if o.limit > 0 {
		o.LimitBytes = &o.limit
	}
	if o.since > 0 {
		seconds := int64((o.since + time.Second - 1) / time.Second)
		o.SinceSeconds = &seconds
	}
	if o.sinceTime != "" {
		t, err := time.Parse(time.RFC3339, o.sinceTime)
		if err != nil {
			return badUse(fmt.Sprintf("--since-time: %q is not a time such as %s", o.sinceTime, "2026-01-31T15:04:05Z"))
		}
		at := metav1.NewTime(t)
		o.SinceTime = &at
	}
	return nil
}

// source is one container's log.
type source struct{ namespace, pod, container string }

func (c *cli) logs(ctx context.Context, args []string, o *logsOptions) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	sources, err := c.logSources(ctx, client, args, o)
	if err != nil {
		return err
	}
	if !o.Follow || len(sources) == 1 {
		var failed errorList
		for _, s := range sources {
			if err := c.copyLog(ctx, client, s, o, c.out); err != nil {
				failed = append(failed, err)
			}
		}
		return failed.err()
	}
	if len(sources) > o.maxRequests {
		return plainf("you are attempting to follow %d log streams, but maximum allowed concurrency is %d, use --max-log-requests to increase the limit",
			len(sources), o.maxRequests)
	}
	out := &lineWriter{out: c.out}
	errs := make([]error, len(sources))
	var group sync.WaitGroup
	for i, s := range sources {
		group.Go(func() { errs[i] = c.copyLog(ctx, client, s, o, out) })
	}
	group.Wait()
	return errorList(slices.DeleteFunc(errs, func(err error) bool { return err == nil })).err()
}

// logSources tells whose logs are wanted.
func (c *cli) logSources(ctx context.Context, client *node.Client, args []string, o *logsOptions) ([]source, error) {
	if o.selector != "" {
		list, err := client.ListPods(ctx, c.ns(), metav1.ListOptions{LabelSelector: o.selector})
		if err != nil {
			return nil, err
		}
		if len(list.Items) == 0 {
			fmt.Fprintf(c.err, "No resources found in %s namespace.\n", c.ns())
		}
		var sources []source
		for i := range list.Items {
			sources = append(sources, c.sourcesOf(&list.Items[i], o)...)
		}
		return sources, nil
	}
	name, err := podName(args[0])
	if err != nil {
		return nil, err
	}
	if o.Container != "" { // the node knows whether the pod has it
		return []source{{c.ns(), name, o.Container}}, nil
	}
	p, err := client.GetPod(ctx, c.ns(), name)
	if err != nil {
		return nil, err
	}
	return c.sourcesOf(p, o), nil
}

func (c *cli) sourcesOf(p *corev1.Pod, o *logsOptions) []source {
	names := []string{o.Container}
	if o.allContainers {
		names = allContainerNames(p)
	} else if o.Container == "" {
		names[0] = c.pickContainer(p)
	}
	var sources []source
	for _, name := range names {
		sources = append(sources, source{p.Namespace, p.Name, name})
	}
	return sources
}

// pickContainer is the container meant when none is named, and tells the user.
func (c *cli) pickContainer(p *corev1.Pod) string {
	names := containerNames(p)
	if name := p.Annotations[defaultContainer]; name != "" && slices.Contains(allContainerNames(p), name) {
		return name
	}
	if all := allContainerNames(p); len(all) > 1 {
		for i := len(names); i < len(all); i++ {
			all[i] += " (init)"
		}
		fmt.Fprintf(c.err, "Defaulted container %q out of: %s\n", names[0], strings.Join(all, ", "))
	}
	return names[0]
}

// containerNames lists the containers of p that are not init containers.
func containerNames(p *corev1.Pod) []string {
	var names []string
	for i := range p.Spec.Containers {
		names = append(names, p.Spec.Containers[i].Name)
	}
	return names
}

// allContainerNames lists all containers of p, init containers last.
func allContainerNames(p *corev1.Pod) []string {
	names := containerNames(p)
	for i := range p.Spec.InitContainers {
		names = append(names, p.Spec.InitContainers[i].Name)
	}
	return names
}

func (c *cli) copyLog(ctx context.Context, client *node.Client, s source, o *logsOptions, out io.Writer) error {
	options := o.PodLogOptions
	options.Container = s.container
	log, err := client.Logs(ctx, s.namespace, s.pod, options)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	if o.prefix {
		err = copyLines(out, log, fmt.Sprintf("[pod/%s/%s] ", s.pod, s.container))
	} else if shared, ok := out.(*lineWriter); ok {
		err = copyLines(shared, log, "")
	} else {
		_, err = io.Copy(out, log)
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("cannot read the log of container %q of pod %q: %w", s.container, s.pod, err)
	}
	return ctx.Err()
}

// copyLines copies line by line, each in one write and with prefix before it.
func copyLines(out io.Writer, in io.Reader, prefix string) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			if _, err := out.Write(append([]byte(prefix), line...)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lineWriter keeps apart what is written at the same time.
type lineWriter struct {
	mu  sync.Mutex
	out io.Writer
}

// Write writes p in one piece.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(p)
}
