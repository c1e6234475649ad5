package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"get.podrun.dev/podrun/node"
)

func topCommand(c *cli) *cobra.Command {
	command := &cobra.Command{
		Use:        "top pod [NAME]",
		SuggestFor: []string{"stats"}, // docker's
		Short:      "Show what pods use of processor and memory",
		Args:       cobra.ArbitraryArgs,
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(command, args[0])
			}
			return usagef("say of what: podrun top pod")
		},
	}
	command.AddCommand(topPodCommand(c))
	return command
}

// topOptions are the flags of top pod.
type topOptions struct {
	selector, sortBy           string
	containers, all, sum, bare bool
}

func topPodCommand(c *cli) *cobra.Command {
	var o topOptions
	command := &cobra.Command{
		Use:     "pod [NAME | -l LABEL]",
		Aliases: []string{"pods", "po"},
		Short:   "Show what pods use of processor and memory",
		Long: `Show what running pods use of processor and memory.

Processor time is measured while the command waits, for one second. Memory is what the
kernel could not drop at once. Both come from the containers' cgroups, or where there are
none from their processes.`,
		Example: `  podrun top pod
  podrun top pod web --containers
  podrun top pod -A --sum --sort-by=memory`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeResource(podKind),
		RunE: func(command *cobra.Command, args []string) error {
			if o.sortBy != "" && o.sortBy != "cpu" && o.sortBy != "memory" {
				return usagef("--sort-by accepts only cpu or memory")
			}
			name := strings.Join(args, "")
			if name != "" && (o.selector != "" || o.all) {
				return usagef("a name cannot be given together with -l or -A")
			}
			return c.topPod(command.Context(), name, o)
		},
	}
	command.Flags().StringVarP(&o.selector, "selector", "l", "", "only pods whose labels match, such as app=web")
	command.Flags().BoolVarP(&o.all, "all-namespaces", "A", false, "of all namespaces")
	command.Flags().BoolVar(&o.containers, "containers", false, "show each container")
	command.Flags().BoolVar(&o.sum, "sum", false, "show the sum as well")
	command.Flags().StringVar(&o.sortBy, "sort-by", "", "the most first: cpu or memory")
	command.Flags().BoolVar(&o.bare, "no-headers", false, "without the headers")
	return command
}

func (c *cli) topPod(ctx context.Context, name string, o topOptions) error {
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	namespace := c.ns()
	if o.all {
		namespace = ""
	}
	pods, err := client.PodMetrics(ctx, namespace, name, o.selector)
	if err != nil {
		return err
	}
	if len(pods) == 0 {
		c.nothing(namespace)
		return nil
	}
	return kubectlTable(c.out, topTable(pods, o), !o.bare)
}

// topTable lays metrics out as kubectl does.
func topTable(pods []node.PodMetrics, o topOptions) grid {
	total := sum{}
	for i := range pods {
		slices.SortFunc(pods[i].Containers, func(a, b node.ContainerMetrics) int {
			return o.compare(add(sum{}, a), add(sum{}, b), a.Name, b.Name)
		})
		total = total.plus(sumOf(&pods[i]))
	}
	slices.SortFunc(pods, func(a, b node.PodMetrics) int {
		return o.compare(sumOf(&a), sumOf(&b), a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})

	var t grid
	var before []string // headers before NAME
	if o.all {
		before = append(before, "NAMESPACE")
	}
	if o.containers {
		before = append(before, "POD")
	}
	t.headers = append(before, "NAME", "CPU(cores)", "MEMORY(bytes)")
	for _, p := range pods {
		var first []string
		if o.all {
			first = append(first, p.Namespace)
		}
		if !o.containers {
			t.rows = append(t.rows, append(first, sumOf(&p).cells(p.Name)...))
			continue
		}
		for _, c := range p.Containers {
			t.rows = append(t.rows, append(append(slices.Clone(first), p.Name), add(sum{}, c).cells(c.Name)...))
		}
	}
	if o.sum {
		blank := make([]string, len(t.headers)-2)
		t.rows = append(t.rows, append(slices.Clone(blank), "________", "________"))
		t.rows = append(t.rows, append(blank[:len(blank)-1:len(blank)-1], total.cells("")...))
	}
	return t
}

// sum is processor time and memory added up.
type sum struct{ milliCPU, bytes int64 }

func add(s sum, c node.ContainerMetrics) sum {
	cpu, memory := c.Usage[corev1.ResourceCPU], c.Usage[corev1.ResourceMemory]
	return s.plus(sum{cpu.MilliValue(), memory.Value()})
}

func (s sum) plus(o sum) sum { return sum{s.milliCPU + o.milliCPU, s.bytes + o.bytes} }

func sumOf(p *node.PodMetrics) (s sum) {
	for _, c := range p.Containers {
		s = add(s, c)
	}
	return s
}

func (s sum) cells(name string) []string {
	return []string{name, fmt.Sprintf("%dm", s.milliCPU), fmt.Sprintf("%dMi", s.bytes>>20)}
}

// compare sorts by what was asked for, the most first, and then by name.
func (o topOptions) compare(a, b sum, nameA, nameB string) int {
	order := 0
	switch o.sortBy {
	case "cpu":
		order = cmp.Compare(b.milliCPU, a.milliCPU)
	case "memory":
		order = cmp.Compare(b.bytes, a.bytes)
	}
	return cmp.Or(order, strings.Compare(nameA, nameB))
}
