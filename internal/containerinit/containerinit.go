// Package containerinit turns this binary into the first process of a
// container, or of an exec in one, when libcontainer has executed it for that.
//
// It works from an init function, which nothing else in podrun does: Go
// initialises ready packages in the order of their import paths, and this one
// depends on libcontainer only and sorts before github.com and k8s.io. The
// initialisation of all else in the binary (10 ms of Kubernetes types and more)
// is so never paid by a container. It holds no other code, and importing it is
// all there is to using it.
package containerinit

import (
	"os"

	"github.com/opencontainers/runc/libcontainer"
	// nsenter's C constructor joins the namespaces before Go starts threads.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
)

func init() {
	// The variable tells libcontainer's init from a person who types the word.
	if len(os.Args) > 1 && os.Args[1] == "init" && os.Getenv("_LIBCONTAINER_INITPIPE") != "" {
		libcontainer.Init() // does not return
	}
}
