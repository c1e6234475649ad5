// Package fault lets a test fail a named step of podrun on purpose: with an
// error, or with kill -9 of the process that reaches it.
//
// The environment variable PODRUN_FAULT names the point and what happens there:
//
//	PODRUN_FAULT=restart.counted:kill      the process kills itself with SIGKILL
//	PODRUN_FAULT=network.add:error         Point returns an error
//	PODRUN_FAULT=restart.counted:kill:2    the same, the second time it is reached
//	PODRUN_FAULT=restart.counted:kill:1:/tmp/fired
//	                                       once for all processes: the file is made when it fires, and
//	                                       nothing fires while it exists
//
// Without the variable a point costs one nil comparison. It does not know what
// the steps do; a point's name is a constant at the call.
package fault

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

type plan struct {
	point, action string
	once          string // file that marks the fault as done; "" for none
	countdown     atomic.Int64
}

var active = parse(os.Getenv("PODRUN_FAULT"))

func parse(s string) *plan {
	if s == "" {
		return nil
	}
	f := strings.Split(s, ":")
	p := &plan{point: f[0], action: "error"}
	if len(f) > 1 {
		p.action = f[1]
	}
	p.countdown.Store(1)
	if len(f) > 2 {
		if n, err := strconv.ParseInt(f[2], 10, 64); err == nil {
			p.countdown.Store(n)
		}
	}
	if len(f) > 3 {
		p.once = f[3]
	}
	return p
}

// Point marks a step that a test may fail. It returns nil unless PODRUN_FAULT
// names it; then it returns an error or does not return at all. Safe for
// concurrent use.
func Point(name string) error {
	if active == nil || active.point != name || active.countdown.Add(-1) != 0 {
		return nil
	}
	if active.once != "" {
		// O_EXCL decides between processes that arrive together.
		f, err := os.OpenFile(active.once, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return nil
		}
		_ = f.Close()
	}
	if active.action == "kill" {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	}
	return fmt.Errorf("fault injected at %s", name)
}
