// Package fault lets a test fail a named step of podrun on purpose: with an
// error, or with kill -9 of the process that reaches it.
//
// The environment variable PODRUN_FAULT names the point and what happens there:
//
//	PODRUN_FAULT=restart.counted:kill      the process kills itself with SIGKILL
//	PODRUN_FAULT=network.add:error         Point returns an error
//	PODRUN_FAULT=restart.counted:kill:2    the same, the second time it is reached
//	PODRUN_FAULT=@/tmp/plan                the file says so, from when it is there: one of the above. The
//	                                       process that fires removes it first, so that of all processes one
//	                                       does, once, and whoever wrote the file sees that it did
//
// Without the variable a point costs one nil comparison. It does not know what
// the steps do; a point's name is a constant at the call, of which package
// integration keeps the list.
package fault

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// plan is what is to happen where. The countdown is of this process.
type plan struct {
	point, action string
	countdown     int
}

// plans is where plans come from: the variable, or a file that it names.
type plans struct {
	file string // "" for the variable

	mu   sync.Mutex
	text string // of the plan
	plan plan
}

var active = open(os.Getenv("PODRUN_FAULT"))

func open(variable string) *plans {
	if variable == "" {
		return nil
	}
	if file, ok := strings.CutPrefix(variable, "@"); ok {
		return &plans{file: file}
	}
	return &plans{plan: parse(variable)}
}

func parse(s string) plan {
	f := strings.Split(s, ":")
	p := plan{point: f[0], action: "error", countdown: 1}
	if len(f) > 1 {
		p.action = f[1]
	}
	if len(f) > 2 {
		if n, err := strconv.Atoi(f[2]); err == nil {
			p.countdown = n
		}
	}
	return p
}

// reach tells what is to happen at a point that was reached just now, "" for
// nothing.
func (p *plans) reach(point string) (action string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file != "" {
		b, err := os.ReadFile(p.file)
		if err != nil {
			p.text = ""
			return ""
		}
		// Each plan of a test is another text, or follows one that has fired.
		if text := strings.TrimSpace(string(b)); text != p.text {
			p.text, p.plan = text, parse(text)
		}
	}
	if p.plan.point != point {
		return ""
	}
	if p.plan.countdown--; p.plan.countdown != 0 {
		return ""
	}
	if p.file != "" {
		p.text = ""
		if os.Remove(p.file) != nil {
			return "" // another process was first
		}
	}
	return p.plan.action
}

// Point marks a step that a test may fail. It returns nil unless PODRUN_FAULT
// names it; then it returns an error or does not return at all. Safe for
// concurrent use.
func Point(name string) error {
	if active == nil {
		return nil
	}
	switch active.reach(name) {
	case "":
		return nil
	case "kill":
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	}
	return fmt.Errorf("fault injected at %s", name)
}
