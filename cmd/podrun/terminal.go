package main

import (
	"context"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"get.podrun.dev/podrun/node"
)

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// rawTerminal is the terminal while a program in a container has it: raw, so that
// every key is the program's. Its leave may be called on nil.
type rawTerminal struct {
	file    *os.File
	before  *term.State
	resized chan os.Signal
	group   sync.WaitGroup
}

// enterTerminal makes f raw and calls resized for each change of its size.
func enterTerminal(f *os.File, resized func(node.Size)) (*rawTerminal, error) {
	before, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	t := &rawTerminal{file: f, before: before, resized: make(chan os.Signal, 1)}
	signal.Notify(t.resized, unix.SIGWINCH)
	t.group.Go(func() {
		for range t.resized {
			resized(terminalSize(f))
		}
	})
	return t, nil
}

// leave makes the terminal what it was.
func (t *rawTerminal) leave() {
	if t == nil {
		return
	}
	signal.Stop(t.resized)
	close(t.resized)
	t.group.Wait()
	_ = term.Restore(int(t.file.Fd()), t.before)
}

// execTerminal runs a program with the terminal stdin, which is as before when
// execTerminal returns.
func execTerminal(ctx context.Context, client *node.Client, namespace, pod string, r node.ExecRequest, stdin, stdout *os.File) (node.ExecResult, error) {
	r.TTY = true
	size := terminalSize(stdin)
	r.Rows, r.Cols = size.Rows, size.Cols
	// A program that has just ended has no size: the error is no news.
	t, err := enterTerminal(stdin, func(s node.Size) { _ = client.Resize(ctx, r.ID, s) })
	if err != nil {
		return node.ExecResult{}, err
	}
	defer t.leave()
	return client.Exec(ctx, namespace, pod, r, stdin, stdout, stdout)
}

func terminalSize(f *os.File) node.Size {
	cols, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return node.Size{}
	}
	return node.Size{Rows: uint16(rows), Cols: uint16(cols)}
}
