package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// meter reads what the processes of a cgroup do and cost.
type meter struct {
	cgroup string
}

func newMeter(cgroup string) (*meter, error) {
	m := &meter{cgroup: cgroup}
	if _, err := m.cpu(); err != nil {
		return nil, fmt.Errorf("processor time of cgroup: %w", err)
	}
	return m, nil
}

// cpu is the processor time of the cgroup so far, without our own.
func (m *meter) cpu() (time.Duration, error) {
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		return 0, err
	}
	self := time.Duration(own.Utime.Nano() + own.Stime.Nano())
	if b, err := os.ReadFile(filepath.Join(m.cgroup, "cpuacct.usage")); err == nil {
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		return time.Duration(n) - self, err
	}
	b, err := os.ReadFile(filepath.Join(m.cgroup, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	var n int64
	_, err = fmt.Sscanf(string(b), "usage_usec %d", &n)
	return time.Duration(n)*time.Microsecond - self, err
}

// program is what the containers of all pods run.
var program = []byte("sleep\x003600\x00")

// pids are the processes of the cgroup, but us.
func (m *meter) pids() []int {
	b, _ := os.ReadFile(filepath.Join(m.cgroup, "cgroup.procs"))
	var list []int
	for _, f := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil && pid != os.Getpid() {
			list = append(list, pid)
		}
	}
	return list
}

func cmdline(pid int) []byte {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return b
}

// programs are the pids of the pods' programs.
func (m *meter) programs() []int {
	var list []int
	for _, pid := range m.pids() {
		if bytes.Equal(cmdline(pid), program) {
			list = append(list, pid)
		}
	}
	return list
}

// until measures from do's begin until it has returned and n programs run that
// did not before.
func (m *meter) until(n int, do func() error) (figure, error) {
	old := map[int]bool{}
	for _, pid := range m.programs() {
		old[pid] = true
	}
	before, err := m.cpu()
	if err != nil {
		return figure{}, err
	}
	start := time.Now()
	done := make(chan error, 1)
	go func() { done <- do() }()
	returned, count := false, 0
	for !returned || count < n {
		if time.Since(start) > 5*time.Minute {
			return figure{}, fmt.Errorf("%d of %d programs run after 5 minutes", count, n)
		}
		select {
		case err := <-done:
			if err != nil {
				return figure{}, err
			}
			returned = true
		case <-time.After(time.Millisecond):
		}
		if count >= n {
			continue
		}
		count = 0
		for _, pid := range m.programs() {
			if !old[pid] {
				count++
			}
		}
	}
	wall := time.Since(start)
	// What goes on after the answer is a cost as well.
	time.Sleep(200 * time.Millisecond)
	after, err := m.cpu()
	return figure{wall: wall, cpu: after - before}, err
}

// command measures a command to its end.
func (m *meter) command(args []string) (figure, error) {
	return m.until(0, func() error { return run(args) })
}

// run runs a command to its end; its output is for its failure.
func run(args []string) error {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func kill(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

// pss is the sum of the proportional set sizes, in bytes, of the processes
// that ours chooses by command line. One that forbids to be looked into, as
// slirp4netns does, counts with its resident size.
func (m *meter) pss(ours func(cmdline string) bool) int64 {
	var sum int64
	for _, pid := range m.pids() {
		args := cmdline(pid)
		if bytes.Equal(args, program) || !ours(string(args)) {
			continue
		}
		size := kib(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
		if size == 0 {
			size = kib(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
		}
		sum += size * 1024
	}
	return sum
}

// kib reads a line "NAME N kB" of a file; 0 is none.
func kib(file, name string) int64 {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == name {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// machine describes where this was measured.
func machine() string {
	var model string
	b, _ := os.ReadFile("/proc/cpuinfo")
	cores := 0
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "processor":
			cores++
		case "model name":
			model = strings.TrimSpace(value)
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d cores (%s), Linux %s", cores, model, strings.TrimSpace(string(release)))
}
