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

// execTerminal runs a program with the terminal stdin: raw for as long, so that
// every key is the program's, and with its size told as it changes. The
// terminal is as before when execTerminal returns.
func execTerminal(ctx context.Context, client *node.Client, namespace, pod string, r node.ExecRequest, stdin, stdout *os.File) (node.ExecResult, error) {
	r.TTY = true
	size := terminalSize(stdin)
	r.Rows, r.Cols = size.Rows, size.Cols
	before, err := term.MakeRaw(int(stdin.Fd()))
	if err != nil {
		return node.ExecResult{}, err
	}
	defer func() { _ = term.Restore(int(stdin.Fd()), before) }()

	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	var group sync.WaitGroup
	group.Go(func() {
		for range resized {
			// A program that has just ended has no size: the error is no news.
			_ = client.Resize(ctx, r.ID, terminalSize(stdin))
		}
	})
	defer group.Wait()
	defer close(resized)
	defer signal.Stop(resized)
	return client.Exec(ctx, namespace, pod, r, stdin, stdout, stdout)
}

func terminalSize(f *os.File) node.Size {
	cols, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return node.Size{}
	}
	return node.Size{Rows: uint16(rows), Cols: uint16(cols)}
}
