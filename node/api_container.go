package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/sandbox"
	"get.podrun.dev/podrun/supervisor"
)

// stopGrace is how long "podrun stop" waits before SIGKILL, docker's default.
const stopGrace = 10 * time.Second

func (a *api) listContainers(w http.ResponseWriter, r *http.Request) error {
	list, err := a.supervisor.Containers(isTrue(r.URL.Query().Get("all")))
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, list)
	return nil
}

func (a *api) stopContainer(w http.ResponseWriter, r *http.Request) error {
	grace := stopGrace
	if v := r.URL.Query().Get("grace"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return apierrors.NewBadRequest(fmt.Sprintf("grace: %q is not a number of seconds", v))
		}
		grace = time.Duration(n) * time.Second
	}
	ctx, cancel := a.during(r)
	defer cancel()
	id, err := a.supervisor.StopContainer(ctx, r.PathValue("id"), grace)
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, map[string]string{"id": id})
	return nil
}

// terminals are those of programs and containers that somebody looks at now, by
// the id their client chose.
type terminals struct {
	mu   sync.Mutex
	byID map[string]resizer
}

type resizer interface {
	Resize(rows, cols uint16) error
}

func (t *terminals) add(id string, r resizer) (remove func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID == nil {
		t.byID = map[string]resizer{}
	}
	t.byID[id] = r
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.byID, id)
	}
}

func (t *terminals) get(id string) resizer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// exec runs a program in a container and answers when it has ended. The
// client's stdin, stdout and stderr came with the request: without a terminal
// they become the program's own; with one the node copies between them and
// the program's terminal. The program dies when the client goes.
func (a *api) exec(w http.ResponseWriter, r *http.Request) error {
	var request ExecRequest
	if err := decode(r, &request); err != nil {
		return err
	}
	if len(request.Command) == 0 {
		return apierrors.NewBadRequest("you must specify at least one command for the container")
	}
	files := ConnFiles(r.Context())
	defer closeFiles(files...)
	if len(files) != 3 {
		return apierrors.NewBadRequest(fmt.Sprintf("exec needs 3 descriptors beside the request, got %d", len(files)))
	}
	ctx, cancel := a.during(r)
	defer cancel()
	options := supervisor.ExecOptions{
		Container: request.Container, Command: request.Command, TTY: request.TTY, Rows: request.Rows, Cols: request.Cols,
	}
	if !request.TTY {
		options.Stdin, options.Stdout, options.Stderr = files[0], files[1], files[2]
	}
	process, err := a.supervisor.Exec(ctx, r.PathValue("namespace"), r.PathValue("name"), options)
	var refused *sandbox.StartError
	if errors.As(err, &refused) {
		respond(w, http.StatusOK, ExecResult{ExitCode: refused.Code, Error: refused.Error()})
		return nil
	}
	if err != nil {
		return err
	}
	stopKilling := context.AfterFunc(ctx, func() { _ = process.Signal(unix.SIGKILL) })
	defer stopKilling()
	if request.TTY {
		defer a.terminals.add(request.ID, process)()
		terminal := joinTerminal(process.Console(), files[0], files[1])
		defer terminal.leave()
	}
	exit, err := process.Wait()
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, ExecResult{ExitCode: exit.Code})
	return nil
}

func (a *api) resize(w http.ResponseWriter, r *http.Request) error {
	var size Size
	if err := decode(r, &size); err != nil {
		return err
	}
	terminal := a.terminals.get(r.PathValue("id"))
	if terminal == nil {
		return apierrors.NewNotFound(metav1Resource("terminals"), r.PathValue("id"))
	}
	if err := terminal.Resize(size.Rows, size.Cols); err != nil {
		return err
	}
	respond(w, http.StatusOK, struct{}{})
	return nil
}

func (a *api) version(w http.ResponseWriter, _ *http.Request) error {
	respond(w, http.StatusOK, nodeVersion())
	return nil
}

// maxStacks bounds what the node says of its goroutines: some ten thousand.
const maxStacks = 16 << 20

// goroutines answers with the stacks of all of this process, for whoever looks
// for what it waits for, or for one that should have ended. They stop meanwhile.
func (a *api) goroutines(w http.ResponseWriter, _ *http.Request) error {
	stacks := make([]byte, 64<<10)
	n := runtime.Stack(stacks, true)
	for n == len(stacks) && n < maxStacks {
		stacks = make([]byte, 2*len(stacks))
		n = runtime.Stack(stacks, true)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(stacks[:n])
	return nil
}

func (a *api) doctor(w http.ResponseWriter, r *http.Request) error {
	respond(w, http.StatusOK, a.checks(r.Context()))
	return nil
}
