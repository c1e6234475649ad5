package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is one process, never mistaken for a later one with its pid.
type process struct {
	pid   int
	start string // in clock ticks since boot
}

// stat is what /proc says of a process.
type stat struct {
	process
	name  string
	state string
	ppid  int
	ticks int // of processors that it has used
}

// processes lists all there are.
func processes() map[int]stat {
	all := map[int]stat{}
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if s, ok := readStat(pid); ok {
			all[pid] = s
		}
	}
	return all
}

func readStat(pid int) (stat, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, false
	}
	// The name may hold anything, parentheses too.
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	f := strings.Fields(string(b[end+1:]))
	ppid, _ := strconv.Atoi(f[1])
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return stat{process: process{pid, f[19]}, name: string(b[open+1 : end]), state: f[0], ppid: ppid, ticks: user + system}, true
}

// alive tells whether a process still runs. One that fell to us and has ended
// is reaped.
func (p process) alive() bool {
	s, ok := readStat(p.pid)
	if !ok || s.start != p.start {
		return false
	}
	if s.state != "Z" {
		return true
	}
	if s.ppid == os.Getpid() {
		_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
	}
	return false
}

// session is all that belongs to e: what has its mark in the environment, its
// directory among its mounts or in its arguments, and all that is below these.
func (e *env) session() map[process]string {
	all := processes()
	children := map[int][]int{}
	for pid, s := range all {
		children[s.ppid] = append(children[s.ppid], pid)
	}
	found := map[process]string{}
	var add func(pid int)
	add = func(pid int) {
		s := all[pid]
		if _, seen := found[s.process]; seen || s.state == "Z" {
			return
		}
		found[s.process] = describe(s)
		for _, child := range children[pid] {
			add(child)
		}
	}
	mark := []byte("PODRUN_STATE=" + e.state + "\x00")
	for pid := range all {
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		mounts, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
		if bytes.Contains(append(environ, 0), mark) || bytes.Contains(args, []byte(e.state)) || bytes.Contains(mounts, []byte(e.dir+"/")) {
			add(pid)
		}
	}
	return found
}

func describe(s stat) string {
	args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.pid))
	return fmt.Sprintf("pid %d (parent %d, %s) %s", s.pid, s.ppid, s.state, bytes.ReplaceAll(bytes.TrimRight(args, "\x00"), []byte{0}, []byte{' '}))
}

// initPID is the pid, on the host, of the first process of a container.
func (e *env) initPID(id string) int {
	e.t.Helper()
	if id == "" {
		e.t.Fatal("no container id")
	}
	for p := range e.session() {
		// Its root is mounted from a directory that the id is the name of,
		// and it is the first in a pid namespace. That a first process has
		// such a mount somewhere else says nothing: it may be another
		// container's, or a pause, that has not left the node's mounts yet.
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", p.pid))
		if err != nil || !rootIs(string(mounts), id) {
			continue
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); f[0] == "NSpid:" && len(f) > 2 && f[len(f)-1] == "1" {
				return p.pid
			}
		}
	}
	e.t.Fatalf("no process of container %s\n%s", id, e.ok("ps", "-a"))
	return 0
}

// rootIs tells whether in mounts, a proc_pid_mountinfo(5), the root's line has id.
func rootIs(mounts, id string) bool {
	for line := range strings.Lines(mounts) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == "/" && strings.Contains(line, id) {
			return true
		}
	}
	return false
}

// kill9 kills a process with SIGKILL and waits until it is gone.
func (e *env) kill9(pid int) {
	e.t.Helper()
	s, ok := readStat(pid)
	if !ok {
		e.t.Fatalf("no process %d to kill", pid)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		e.t.Fatalf("kill %d: %v", pid, err)
	}
	e.eventually("end of killed process", func() string {
		if s.alive() {
			return "there"
		}
		return ""
	})
}

// kill9IfThere kills a process that may have ended already.
func (e *env) kill9IfThere(pid int) {
	e.t.Helper()
	if _, ok := readStat(pid); ok {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// reaperPID is the pid of the node's parent.
func (e *env) reaperPID() int {
	e.t.Helper()
	s, ok := readStat(e.nodePID())
	if !ok {
		e.t.Fatal("no node")
	}
	return s.ppid
}

// killNode kills the node and waits until another one answers.
func (e *env) killNode() {
	e.t.Helper()
	old := e.nodePID()
	e.kill9(old)
	e.eventually("a new node", func() string {
		if pid := e.nodePID(); pid == 0 || pid == old {
			return "none"
		}
		return ""
	})
}

// namespace is the identity of a namespace of a process.
func (e *env) namespace(pid int, kind string) string {
	e.t.Helper()
	link, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns", kind))
	if err != nil {
		e.t.Fatal(err)
	}
	return link
}

// mounts are the mount points and sources that a process sees below dir,
// sorted.
func mounts(pid, dir string) []string {
	b, _ := os.ReadFile(filepath.Join("/proc", pid, "mountinfo"))
	var list []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, dir) {
			f := strings.Fields(line)
			list = append(list, f[4])
		}
	}
	slices.Sort(list)
	return list
}
