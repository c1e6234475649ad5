// Command bench measures podrun beside podman, as scripts/bench.sh sets them up,
// and prints a table for docs/performance.md.
//
// Both are measured from outside in the same way. A pod runs when its programs
// do, found in /proc; wall time is until then, or until the command has ended,
// whichever is later. Processor time is that of the cgroup which all of both
// are in, however they detach, less our own. Memory is the sum of PSS of all
// processes but the pods' programs. Runs alternate; figures are medians.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"time"
)

func main() {
	runs := flag.Int("runs", 9, "runs of each measurement, in turns")
	many := flag.Int("many", 50, "pods in the manifest of many pods")
	manyRuns := flag.Int("many-runs", 7, "runs of the measurements with many pods")
	pulls := flag.Int("pulls", 0, "measure so many pulls of the large image, as root, and nothing else")
	user := flag.String("user", "", "who pulls by podrun and podman")
	stage := flag.String("stage", "", "a directory for the disk that is pulled to, and the user's home")
	networkRuns := flag.Int("networks", 0, "measure networks so many times, and nothing else")
	kind := flag.String("traffic", "", "be one end of the traffic to measure; for this program's own use")
	flag.Parse()
	if *kind != "" || *networkRuns > 0 {
		do := func() error { return benchNetworks(*networkRuns) }
		if *kind != "" {
			do = func() error { return runTraffic(*kind, flag.Arg(0)) }
		}
		if err := do(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if *pulls > 0 {
		if err := benchPulls(*pulls, *user, *stage); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if err := bench(*runs, *many, *manyRuns); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// figure is what one run of a measurement cost.
type figure struct {
	wall, cpu time.Duration
	memory    int64 // bytes; a figure is of time or of memory
}

// row is a line of the table.
type row struct {
	name   string
	budget string // of podrun's wall time or memory
	by     map[string][]figure
}

type table struct{ rows []*row }

func (t *table) add(tool, name, budget string, f figure) {
	for _, r := range t.rows {
		if r.name == name {
			r.by[tool] = append(r.by[tool], f)
			return
		}
	}
	t.rows = append(t.rows, &row{name: name, budget: budget, by: map[string][]figure{tool: {f}}})
}

func bench(runs, many, manyRuns int) error {
	m, err := newMeter(os.Getenv("BENCH_CGROUP"))
	if err != nil {
		return err
	}
	tools := []tool{&podrun{}, &podman{}}
	t := &table{}
	defer func() {
		for _, tool := range tools {
			tool.clean()
		}
	}()
	for _, tool := range tools {
		// The first run pulls the image, makes namespaces and networks, and is
		// not counted.
		if err := small(tool, m, &table{}); err != nil {
			return fmt.Errorf("%s: warm up: %w", tool.name(), err)
		}
	}
	for range runs {
		for _, tool := range tools {
			if err := small(tool, m, t); err != nil {
				return fmt.Errorf("%s: %w", tool.name(), err)
			}
		}
	}
	for range manyRuns {
		for _, tool := range tools {
			if err := large(tool, m, t, many); err != nil {
				return fmt.Errorf("%s: %d pods: %w", tool.name(), many, err)
			}
		}
	}
	t.print(tools, runs, manyRuns)
	return nil
}

// small measures one pod of two containers from apply to delete.
func small(tool tool, m *meter, t *table) error {
	file, err := manifest("pod-double", 1)
	if err != nil {
		return err
	}
	name := tool.name()
	f, err := m.until(2, func() error { return run(tool.apply(file)) })
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	t.add(name, "apply of a 2-container pod until both run", "100 ms", f)
	// The other's helpers are at rest; ours get a moment to come to it.
	time.Sleep(300 * time.Millisecond)
	t.add(name, "memory (PSS) of all helpers, 1 pod", "45 MB", figure{memory: tool.memory(m)})
	if f, err = m.command(tool.get()); err != nil {
		return fmt.Errorf("get: %w", err)
	}
	t.add(name, "get pods", "20 ms", f)
	if f, err = m.command(tool.exec("pod-double", "container-1", "true")); err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	t.add(name, "exec POD -- true", "50 ms", f)
	programs := m.programs()
	f, err = m.until(tool.restarted(), func() error { return kill(programs[0]) })
	if err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	t.add(name, "killed container to all that restarts running", "120 ms", f)
	if f, err = m.command(tool.remove("pod-double")); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	t.add(name, "delete without grace", "80 ms", f)
	if left := m.programs(); len(left) > 0 {
		return fmt.Errorf("%d programs run on after delete", len(left))
	}
	return nil
}

// large measures many pods from one manifest.
func large(tool tool, m *meter, t *table, many int) error {
	file, err := manifest("many", many)
	if err != nil {
		return err
	}
	name := tool.name()
	f, err := m.until(2*many, func() error { return run(tool.apply(file)) })
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	t.add(name, fmt.Sprintf("%d pods of 2 containers from one manifest", many), "4 s", f)
	time.Sleep(time.Second)
	t.add(name, fmt.Sprintf("memory (PSS) of all helpers, %d pods", many), "65 MB", figure{memory: tool.memory(m)})
	if f, err = m.command(tool.get()); err != nil {
		return fmt.Errorf("get: %w", err)
	}
	t.add(name, fmt.Sprintf("get pods, %d pods", many), "25 ms", f)
	if f, err = m.command(tool.removeAll()); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	t.add(name, fmt.Sprintf("delete %d pods without grace", many), "", f)
	return nil
}

// median of what of takes from the figures.
func median[T int64 | time.Duration](figures []figure, of func(figure) T) T {
	values := make([]T, len(figures))
	for i, f := range figures {
		values[i] = of(f)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func (t *table) print(tools []tool, runs, manyRuns int) {
	fmt.Printf("%s beside %s, as the same user, in turns; medians of %d runs, of %d with many pods. %s.\n\n",
		tools[0].version(), tools[1].version(), runs, manyRuns, machine())
	fmt.Println("| | podrun | cpu | podman | cpu | podman/podrun | cpu | budget |")
	fmt.Println("|---|---:|---:|---:|---:|---:|---:|---:|")
	for _, r := range t.rows {
		a, b := r.by[tools[0].name()], r.by[tools[1].name()]
		if a[0].memory != 0 {
			x, y := median(a, func(f figure) int64 { return f.memory }), median(b, func(f figure) int64 { return f.memory })
			fmt.Printf("| %s | %.0f MB | | %.0f MB | | %.1f | | %s |\n", r.name, float64(x)/1e6, float64(y)/1e6, float64(y)/float64(x), r.budget)
			continue
		}
		wall := func(f figure) time.Duration { return f.wall }
		cpu := func(f figure) time.Duration { return f.cpu }
		fmt.Printf("| %s | %s | %s | %s | %s | %.1f | %.1f | %s |\n", r.name,
			short(median(a, wall)), short(median(a, cpu)), short(median(b, wall)), short(median(b, cpu)),
			float64(median(b, wall))/float64(median(a, wall)), float64(median(b, cpu))/float64(median(a, cpu)), r.budget)
	}
}

// short writes a duration with two or three digits.
func short(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
