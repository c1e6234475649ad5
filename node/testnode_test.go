package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/internal/linux"
)

// What a test tells its node; a file so that it may differ from one node of a
// reaper to the next.
const (
	failVariable = "PODRUN_NODE_TEST_FAIL" // the node fails to start, with these words
	dieVariable  = "PODRUN_NODE_TEST_DIE"  // the node panics before it reports
	failFile     = "fail"                  // in the state directory: as failVariable, in every node
)

// process is a process that the test node started.
type process struct {
	PID   int
	Start uint64
}

// facts are what the test node knows of itself.
type facts struct {
	PID, Reaper int
	Namespace   Namespace
	User, Mount string // links of its namespaces
	Env         []string
	Files       int // open descriptors
}

// testNode stands in for the node: as thin as can be above what is tested.
func testNode() int {
	if err := runTestNode(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		ReportStart(err)
		return 1
	}
	return 0
}

func runTestNode() error {
	p, err := LocatePaths()
	if err != nil {
		return err
	}
	reaper, err := ConnectReaper()
	if err != nil {
		return err
	}
	if words := os.Getenv(failVariable); words != "" {
		return hint.Wrap(errors.New(words), "mend it")
	}
	if words, err := os.ReadFile(p.State + "/" + failFile); err == nil {
		return hint.Wrap(errors.New(string(words)), "mend it again")
	}
	if os.Getenv(dieVariable) != "" {
		panic("nobody heard me")
	}
	l, err := Listen(p)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	handle := func(name string, h func(r *http.Request) (any, error)) {
		mux.HandleFunc(name, func(w http.ResponseWriter, r *http.Request) {
			v, err := h(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusTeapot)
				return
			}
			_ = json.NewEncoder(w).Encode(v)
		})
	}
	leave := make(chan struct{})
	handle("/facts", func(*http.Request) (any, error) {
		f := facts{PID: os.Getpid(), Reaper: os.Getppid(), Env: os.Environ()}
		f.Namespace, err = CurrentNamespace()
		f.User, _ = os.Readlink("/proc/self/ns/user")
		f.Mount, _ = os.Readlink("/proc/self/ns/mnt")
		open, _ := os.ReadDir("/proc/self/fd")
		f.Files = len(open)
		return f, err
	})
	// The program runs as the leader of a session, like a container.
	handle("/run", func(r *http.Request) (any, error) {
		cmd := exec.Command("/bin/sh", "-c", r.URL.Query().Get("sh"))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		start, err := linux.ProcessStartTime(cmd.Process.Pid)
		return process{cmd.Process.Pid, start}, err
	})
	handle("/anchor", func(r *http.Request) (any, error) {
		pid, err := strconv.Atoi(r.URL.Query().Get("pid"))
		return nil, errors.Join(err, RecordAnchor(p, pid))
	})
	handle("/status", func(r *http.Request) (any, error) {
		var q process
		_, err := fmt.Sscan(r.URL.Query().Get("process"), &q.PID, &q.Start)
		status, ok := reaper.ExitStatus(q.PID, q.Start)
		if err == nil && !ok {
			err = errors.New("unknown")
		}
		return status, err
	})
	handle("/keep", func(r *http.Request) (any, error) {
		files := ConnFiles(r.Context())
		defer closeFiles(files...)
		for i, f := range files {
			if err := reaper.Keep(r.URL.Query().Get("key")+strconv.Itoa(i), f); err != nil {
				return nil, err
			}
		}
		return len(files), nil
	})
	handle("/kept", func(r *http.Request) (any, error) {
		f, ok := reaper.Kept(r.URL.Query().Get("key"))
		if !ok {
			return nil, unix.ENOENT
		}
		defer func() { _ = f.Close() }()
		b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<10))
		return string(b), err
	})
	handle("/drop", func(r *http.Request) (any, error) {
		reaper.Drop(r.URL.Query().Get("key"))
		return nil, nil
	})
	handle("/leave", func(*http.Request) (any, error) {
		close(leave)
		return nil, nil
	})
	server := &http.Server{Handler: mux, ConnContext: ConnContext}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	ReportStart(nil)
	<-leave
	return errors.Join(server.Shutdown(context.Background()), reaper.Close())
}
