package supervisor

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The real-time signals that programs may use, as signal(7) counts them.
const firstRealTime, lastRealTime = 34, 64

// parseSignal reads a stop signal as images write it: "SIGQUIT", "QUIT" or "3".
func parseSignal(s string) syscall.Signal {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n)
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if base, offset, _ := strings.Cut(name, "+"); base == "SIGRTMIN" {
		if n, err := strconv.Atoi(offset); (err == nil || offset == "") && n >= 0 && firstRealTime+n <= lastRealTime {
			return syscall.Signal(firstRealTime + n)
		}
	} else if base, offset, _ := strings.Cut(name, "-"); base == "SIGRTMAX" {
		if n, err := strconv.Atoi(offset); (err == nil || offset == "") && n >= 0 && lastRealTime-n >= firstRealTime {
			return syscall.Signal(lastRealTime - n)
		}
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig
	}
	return unix.SIGTERM
}

// signalName is a signal as Kubernetes writes it: SIGTERM, SIGRTMIN+3.
func signalName(sig syscall.Signal) string {
	const middle = (firstRealTime + lastRealTime) / 2
	switch {
	case sig == firstRealTime:
		return "SIGRTMIN"
	case sig == lastRealTime:
		return "SIGRTMAX"
	case sig > firstRealTime && sig <= middle:
		return fmt.Sprintf("SIGRTMIN+%d", sig-firstRealTime)
	case sig > middle && sig < lastRealTime:
		return fmt.Sprintf("SIGRTMAX-%d", lastRealTime-sig)
	}
	return unix.SignalName(sig)
}
