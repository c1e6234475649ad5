package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"get.podrun.dev/podrun/internal/linux"
)

// Usage is what a container has used of the machine.
type Usage struct {
	CPUNanos    uint64 // of processor time so far; of use as a difference only
	MemoryBytes uint64 // now, without what the kernel can drop at once
}

// Usage reads what the container uses: from its cgroup, or where it has none of
// its own from its processes, whose time goes with them when they end.
// ErrGone when it has ended.
func (c *Container) Usage() (Usage, error) {
	if _, ended := c.exit(); ended || c.proc == nil {
		return Usage{}, ErrGone
	}
	paths := c.state.Cgroups
	switch {
	case !c.s.r.cgroups.limits:
		return c.processUsage()
	case paths["cpuacct"] != "" && paths["memory"] != "":
		return usageV1(paths["cpuacct"], paths["memory"])
	case paths[""] != "":
		return usageV2(paths[""])
	}
	return c.processUsage()
}

func usageV1(cpu, memory string) (u Usage, err error) {
	if u.CPUNanos, err = readNumber(filepath.Join(cpu, "cpuacct.usage")); err != nil {
		return u, err
	}
	if u.MemoryBytes, err = readNumber(filepath.Join(memory, "memory.usage_in_bytes")); err != nil {
		return u, err
	}
	idle, err := readField(filepath.Join(memory, "memory.stat"), "total_inactive_file")
	u.MemoryBytes -= min(idle, u.MemoryBytes)
	return u, err
}

func usageV2(dir string) (u Usage, err error) {
	micros, err := readField(filepath.Join(dir, "cpu.stat"), "usage_usec")
	if err != nil {
		return u, err
	}
	u.CPUNanos = micros * 1000
	if u.MemoryBytes, err = readNumber(filepath.Join(dir, "memory.current")); err != nil {
		return u, err
	}
	idle, err := readField(filepath.Join(dir, "memory.stat"), "inactive_file")
	u.MemoryBytes -= min(idle, u.MemoryBytes)
	return u, err
}

func readNumber(file string) (uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}

// readField reads "NAME NUMBER" from a file of such lines.
func readField(file, name string) (uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseUint(strings.TrimSpace(v), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s: no %s", file, name)
}

// processUsage adds up the processes of the container: those in its mount
// namespace. Only one of a privileged container can leave that, and then is not
// counted.
func (c *Container) processUsage() (Usage, error) {
	mine := c.state.MountNS
	if mine == 0 {
		var err error
		if mine, err = linux.NamespaceID(c.state.Pid, "mnt"); err != nil {
			return Usage{}, ErrGone
		}
	}
	dirs, err := filepath.Glob("/proc/[1-9]*")
	if err != nil {
		return Usage{}, err
	}
	var sum Usage
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if id, err := linux.NamespaceID(pid, "mnt"); err != nil || id != mine {
			continue
		}
		u, err := usageOfProcess(dir)
		if err != nil {
			continue // it has just ended
		}
		sum.CPUNanos += u.CPUNanos
		sum.MemoryBytes += u.MemoryBytes
	}
	return sum, nil
}

var errStat = errors.New("unknown form of /proc/PID/stat")

// usageOfProcess reads the time of a process and of its children that have
// ended, and its share of the memory that it has mapped.
func usageOfProcess(dir string) (u Usage, err error) {
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return u, err
	}
	// The name, in parentheses, may hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const utime, cstime = 11, 14 // proc_pid_stat(5), less the first two fields
	const tick = 1e9 / 100       // USER_HZ, on every architecture that Go knows
	if len(fields) <= cstime {
		return u, errStat
	}
	for _, f := range fields[utime : cstime+1] {
		n, err := strconv.ParseUint(string(f), 10, 64)
		if err != nil {
			return u, errStat
		}
		u.CPUNanos += n * tick
	}
	rollup, err := os.ReadFile(dir + "/smaps_rollup")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(rollup)) {
		var kib uint64
		if _, err := fmt.Sscanf(line, "Pss: %d kB", &kib); err == nil {
			u.MemoryBytes = kib << 10
			break
		}
	}
	return u, nil
}
