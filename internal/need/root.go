package need

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// rootVariable tells a process that AsRoot has started it.
const rootVariable = "PODRUN_NEED_ROOT"

// AsRoot runs the tests of m as root of a user namespace, as podrun is, with
// mounts that are nobody else's, and in more namespaces as flags of clone(2) name
// them. One user ID is mapped, so that it asks nothing of the machine. prepare, if
// there is one, is called there first. AsRoot does not return.
func AsRoot(m *testing.M, flags uintptr, prepare func() error) {
	var err error
	if os.Getenv(rootVariable) == "" {
		err = startAsRoot(flags)
	} else {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		if err == nil && prepare != nil {
			err = prepare()
		}
		if err == nil {
			os.Exit(m.Run())
		}
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	}
	fmt.Fprintln(os.Stderr, "tests as root of a user namespace:", err)
	os.Exit(1)
}

// startAsRoot runs this program again and waits for its end.
func startAsRoot(flags uintptr) error {
	command := exec.Command(os.Args[0], os.Args[1:]...)
	command.Env = append(os.Environ(), rootVariable+"=yes")
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | flags,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	return command.Run()
}
