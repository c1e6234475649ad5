// Command app is what runs in the containers of the integration tests: servers
// for probes to ask, processes with a mind of their own, and stand-ins for the
// programs that well-known images hold, so that a manifest runs as it was
// published, without the network.
//
// It is one static program with many parts. The name it is called by says which
// part it plays (an image has links to it); called app, its first argument does:
//
//	app http -port 8080 -healthy-for 10s
//
// A part without its own file is a few lines in servers.go or processes.go. It
// is a module of its own, so that what it needs is nothing that podrun needs.
package main

import (
	"flag"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

// parts are what app can be. Each gets its arguments without its name, and what
// it returns ends the program with 1.
var parts = map[string]func(args []string) error{
	"attack":      attack,
	"get":         get,
	"http":        serveHTTP,
	"grpc-health": serveGRPC,
	"lookup":      lookup,
	"tcp":         serveTCP,
	"peer":        servePeer,
	"signals":     handleSignals,
	"eat-memory":  eatMemory,

	// What images are known for, by the names of their programs.
	"agnhost":      agnhost,
	"etcd":         etcd,
	"goproxy":      goproxy,
	"http-echo":    httpEcho,
	"nginx":        nginx,
	"node":         node,
	"printenv":     printenv,
	"redis-cli":    redisCLI,
	"redis-server": redisServer,
	"socat":        socat,
	"stress":       stress,
}

func main() {
	// nginx renames its processes "nginx: worker process".
	name, _, _ := strings.Cut(os.Args[0], ":")
	name = path.Base(name)
	args := os.Args[1:]
	if parts[name] == nil && len(args) > 0 {
		name, args = args[0], args[1:]
	}
	part := parts[name]
	if part == nil {
		fmt.Fprintf(os.Stderr, "app: no part %q; there are %s\n", name, strings.Join(names(), ", "))
		os.Exit(2)
	}
	if err := part(args); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

func names() []string {
	var all []string
	for name := range parts {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// flags is a set whose mistakes end the program with 2.
func flags(name string) *flag.FlagSet {
	return flag.NewFlagSet(name, flag.ExitOnError)
}
