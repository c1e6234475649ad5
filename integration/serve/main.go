// Command serve runs a command beside a registry that serves a busybox image as
// docker.io's, and ends with it:
//
//	serve DIR COMMAND [ARGUMENT...]
//
// With SERVE_LARGE it serves registry.Large, too, as large:gzip and large:zstd.
// With PODRUN_TEST_IMAGES, the folder of integration/app, it serves the images
// that published manifests name as well. The registry's files are put into DIR. The command finds its way to it by
// PODRUN_REGISTRIES_CONF; podman has CONTAINERS_REGISTRIES_CONF for that.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sync/errgroup"

	"get.podrun.dev/podrun/integration/registry"
)

func main() {
	// The registry ends with the thread that started it.
	runtime.LockOSThread()
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: serve DIR COMMAND [ARGUMENT...]")
		os.Exit(2)
	}
	code, err := serve(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "serve: %v\n", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func serve(dir string, args []string) (int, error) {
	r, err := registry.Start(dir, registry.Options{})
	if err != nil {
		return 0, err
	}
	defer r.Stop()
	image, err := registry.Busybox()
	if err != nil {
		return 0, err
	}
	if err := r.Push(context.Background(), "library/busybox:latest", image); err != nil {
		return 0, err
	}
	if os.Getenv("SERVE_LARGE") != "" {
		if err := pushLarge(r); err != nil {
			return 0, err
		}
	}
	// Well-known images need the test program, which not everybody built.
	if os.Getenv("PODRUN_TEST_IMAGES") != "" {
		if err := r.PushKnown(context.Background()); err != nil {
			return 0, err
		}
	}
	// A terminal's signals reach the command as well, and it decides.
	signal.Ignore(syscall.SIGINT)
	command := exec.Command(args[0], args[1:]...)
	command.Env = append(os.Environ(), "PODRUN_REGISTRIES_CONF="+r.Conf, "CONTAINERS_REGISTRIES_CONF="+r.Conf)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = command.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// pushLarge makes the large images, both at once.
func pushLarge(r *registry.Registry) error {
	var g errgroup.Group
	for _, compression := range []string{"gzip", "zstd"} {
		g.Go(func() error {
			image, err := registry.Large(compression)
			if err != nil {
				return err
			}
			return r.Push(context.Background(), "library/large:"+compression, image)
		})
	}
	return g.Wait()
}
