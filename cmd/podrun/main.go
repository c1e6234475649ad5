// Command podrun runs Kubernetes pods on this machine, as an ordinary user.
//
// The verbs are kubectl's where kubectl has the verb, docker's where it has
// not: commands.go lists them, a file each has its flags and its work. They
// reach pods through the node's socket only (package node); what they print
// is made in output*.go.
//
// The same binary is the node ("podrun node", started by the reaper), and by C
// constructors and package containerinit, before main runs: the reaper, the
// pause process of a pod and the first process of a container.
package main

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	_ "get.podrun.dev/podrun/internal/containerinit"
	"get.podrun.dev/podrun/node"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "node" {
		os.Exit(node.Main())
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends podrun at once
	c := &cli{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	os.Exit(c.run(ctx, os.Args[1:]))
}
