package linux

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ZombieStatus returns how a process ended that has exited and that nobody has
// reaped yet, whoever its parent is: exit_code of proc(5), field 52 of
// /proc/pid/stat (since Linux 3.5), which the kernel shows to who
// may trace the process. ok is false when it is not a zombie, not the process
// that began at start, or not shown.
func ZombieStatus(pid int, start uint64) (status unix.WaitStatus, ok bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The command may hold spaces and brackets; the fields after it may not.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	const state, startTime, exitCode = 0, 19, 49 // fields 3, 22 and 52 of proc(5)
	if len(fields) <= exitCode || string(fields[state]) != "Z" || string(fields[startTime]) != strconv.FormatUint(start, 10) {
		return 0, false
	}
	code, err := strconv.ParseUint(string(fields[exitCode]), 10, 32)
	if err != nil {
		return 0, false
	}
	return unix.WaitStatus(code), true
}
