// Package node is the process that owns a user's pods, and both ends of the
// socket it is reached by.
//
// The command line finds the node by its socket or launches it (launch.go):
// into the user's namespaces (userns.go), below a reaper (reaper.c) that
// outlives it and starts it again when it dies. The node opens the store, the
// images, the network and the sandboxes, lets the supervisor take up every pod
// where an earlier node left it, and serves the socket (api.go) until it has
// had nothing to do for a while. It decides nothing about pods: package
// supervisor does.
//
// Nothing a container needs ends with this process. kill -9 at any moment
// leaves the pods running, and the next node goes on from disk.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/object"
	"get.podrun.dev/podrun/sandbox"
	"get.podrun.dev/podrun/store"
	"get.podrun.dev/podrun/supervisor"
	"get.podrun.dev/podrun/volume"
)

// Version and Commit are set by the linker.
var (
	Version = "development"
	Commit  = "unknown"
)

// init keeps the main thread to Main. Goroutines of libcontainer and of package
// cni enter a namespace on a thread that ends with them; the main thread cannot
// end, and would stay in a container's mounts and hold them for ever, with
// /proc/PID of the node showing them for its own. Only in init is it certain
// which thread that is.
func init() {
	if len(os.Args) == 2 && os.Args[1] == "node" {
		runtime.LockOSThread()
	}
}

// Main is the node process, started by the reaper. It returns the exit code:
// 0 tells the reaper not to start another.
func Main() int {
	// Most of what the node allocates is short-lived: a small heap costs a
	// little more collection and keeps an idle node small.
	debug.SetGCPercent(50)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: logLevel()}))
	if err := run(log); err != nil {
		log.Error("node", "err", err)
		ReportStart(err)
		return 1
	}
	return 0
}

func logLevel() slog.Level {
	if os.Getenv("PODRUN_DEBUG") != "" {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// leaveNoCore keeps the node's memory, where values of Secrets are, out of core
// dumps. It returns the limit that there was, for containers.
func leaveNoCore() (was unix.Rlimit, err error) {
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &was); err != nil {
		return was, os.NewSyscallError("getrlimit", err)
	}
	// Too little for a file; and 1 alone has the kernel run no program of
	// core_pattern either, see do_coredump in fs/coredump.c.
	none := unix.Rlimit{Cur: min(1, was.Max), Max: was.Max}
	return was, os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_CORE, &none))
}

// run is the node's life. What it opens it closes in reverse order; pods are
// not among it.
func run(log *slog.Logger) (err error) {
	paths, err := LocatePaths()
	if err != nil {
		return err
	}
	ns, err := CurrentNamespace()
	if err != nil {
		return err
	}
	reaper, err := ConnectReaper()
	if err != nil {
		return fmt.Errorf("connect to the reaper: %w", err)
	}
	defer func() { err = errors.Join(err, reaper.Close()) }()
	if os.Getenv(resetVariable) != "" {
		if err = wipe(context.Background(), paths, ns, reaper, log); err == nil {
			ReportStart(nil)
		}
		return err
	}

	core, err := leaveNoCore()
	if err != nil {
		return err
	}
	st, err := store.Open(filepath.Join(paths.Data, "store.db"), store.Options{Logger: log, Version: Version})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()

	// The three that touch the system do so side by side.
	var images *image.Store
	var collection image.GCPolicy
	var network *cni.Network
	var sandboxes *sandbox.Runtime
	var g errgroup.Group
	g.Go(func() (err error) {
		limits, err := image.PullLimitsFromEnvironment()
		if err != nil {
			return err
		}
		if collection, err = image.GCPolicyFromEnvironment(); err != nil {
			return err
		}
		images, err = image.Open(filepath.Join(paths.Data, "images"), image.Options{Logger: log, SingleID: ns.SingleID, Pull: limits})
		return err
	})
	g.Go(func() (err error) {
		settings, err := cni.ReadSettings(networkSettings()...)
		if err != nil {
			return err
		}
		network, err = cni.Open(context.Background(), cni.Options{
			StateDir: paths.State, DataDir: paths.Data, Settings: settings, Uplink: true, Logger: log,
			Keep: reaper.Keep, Kept: reaper.Kept, Drop: reaper.Drop,
			ConfDirs: networkFolders(), PluginDirs: pluginFolders(),
		})
		return err
	})
	g.Go(func() (err error) {
		sandboxes, err = sandbox.New(sandbox.Options{
			StateDir: filepath.Join(paths.State, "sandboxes"), OpenDir: paths.State + "-rootfs", Rootless: ns.Rootless, SingleID: ns.SingleID, Logger: log,
			CoreLimit: core, ExitStatus: reaper.ExitStatus, Keep: reaper.Keep, Kept: reaper.Kept, Drop: reaper.Drop,
		})
		return err
	})
	err = g.Wait()
	if images != nil {
		defer func() { err = errors.Join(err, images.Close()) }()
	}
	if sandboxes != nil {
		defer func() { err = errors.Join(err, sandboxes.Close()) }()
	}
	if network != nil {
		defer func() { err = errors.Join(err, network.Close()) }()
	}
	if err != nil {
		return err
	}
	for _, p := range network.Problems() {
		log.Warn("network", "problem", p.Summary, "mend", p.Mend)
	}

	host, err := os.Hostname()
	if err != nil {
		return err
	}
	volumes := volume.New(paths.Data, paths.State)
	sup := supervisor.New(supervisor.Config{
		Store: st, Sandboxes: sandboxes, Network: network, Images: images,
		Volumes:  volumes,
		StateDir: paths.State, DataDir: paths.Data, Node: host, HostIP: hostIP(), Rootless: ns.Rootless, Logger: log,
		Anchor: func(pid int) error { return RecordAnchor(paths, pid) },
	})
	defer sup.Close()
	if err := sup.Recover(context.Background()); err != nil {
		return fmt.Errorf("take up the pods: %w", err)
	}
	objects, err := object.Open(object.Config{
		Store: st, Logger: log, RemoveClaim: volumes.RemoveClaim,
		DeletePod: func(namespace, name string) error {
			_, err := sup.Delete(namespace, name, metav1.DeleteOptions{})
			return err
		},
	})
	if err != nil {
		return err
	}
	defer objects.Close()
	if err := objects.Recover(); err != nil {
		return fmt.Errorf("take up the deletions: %w", err)
	}

	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer cancel()
	listener, err := Listen(paths)
	if err != nil {
		return err
	}
	connections := newGauge()
	server := &http.Server{
		Handler: (&api{
			store: st, supervisor: sup, objects: objects, images: images, network: network, paths: paths, stopped: ctx, log: log, limits: sandboxes.Limits,
			checks: func(ctx context.Context) []Check { return nodeChecks(ctx, sandboxes, network) },
		}).handler(),
		ConnContext: ConnContext,
		ConnState:   connections.count,
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	serving := make(chan error, 1)
	go func() { serving <- server.Serve(listener) }()
	ReportStart(nil)
	log.Info("node ready", "pid", os.Getpid(), "version", Version)

	collector := images.NewCollector(collection, sup.ImageUsers, func() bool { return sup.Active() > 0 }, func(e image.GCEvent) {
		kind := corev1.EventTypeNormal
		if e.Warning {
			kind = corev1.EventTypeWarning
		}
		if err := sup.NoteNode(kind, e.Reason, e.Message); err != nil {
			log.Warn("event", "reason", e.Reason, "err", err)
		}
	})
	collected := make(chan struct{})
	go func() {
		collector.Run(ctx)
		close(collected)
	}()
	defer func() { cancel(); <-collected }()

	idle := make(chan error, 1)
	go func() {
		idle <- untilIdle(ctx, st, func() int { return sup.Active() + objects.Active() }, connections, collector.Wake)
	}()
	select {
	case err = <-serving:
		cancel()
		return errors.Join(err, <-idle)
	case err = <-idle:
	}
	sup.Halt()
	cancel() // ends watches and follows, which Shutdown would wait for
	end, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	err = errors.Join(err, server.Shutdown(end))
	<-serving
	log.Info("node ends")
	return err
}

// idleAfter is how long a node without pods and without callers stays.
const idleAfter = 30 * time.Second

// untilIdle returns when ctx ends, or when for a while no pod needed the node
// and nobody called. It sleeps between changes: an idle node does not wake up.
// Of each change of a pod it tells changed.
func untilIdle(ctx context.Context, st *store.Store, active func() int, connections *gauge, changed func()) error {
	after := idleAfter
	if d, err := time.ParseDuration(os.Getenv("PODRUN_NODE_IDLE")); err == nil {
		after = d
	}
	changes, err := st.Watch(ctx, "Pod", "", 0)
	if err != nil {
		return err
	}
	timer := time.NewTimer(after)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-changes.Events():
			if !ok && ctx.Err() == nil {
				return fmt.Errorf("watch pods: %w", changes.Err())
			}
			changed()
		case <-connections.changed:
		case <-timer.C:
			if active() == 0 {
				return nil
			}
			// A deletion, of which no change of a pod tells, is looked at again.
			timer.Reset(after)
			continue
		}
		if active() > 0 || connections.open() > 0 {
			timer.Stop()
		} else {
			timer.Reset(after)
		}
	}
}

// hostIP is the address by which the host is reached from elsewhere, loopback
// when it has none. Connecting a UDP socket sends nothing.
func hostIP() string {
	c, err := net.Dial("udp4", "192.0.2.1:9") // RFC 5737: an address nobody has
	if err != nil {
		return "127.0.0.1"
	}
	defer func() { _ = c.Close() }()
	return c.LocalAddr().(*net.UDPAddr).IP.String()
}

// nodeChecks are doctor's checks as the node knows them: of limits and of the
// network it tells what it has, not what another process would get.
func nodeChecks(ctx context.Context, sandboxes *sandbox.Runtime, network *cni.Network) []Check {
	checks := Probe(ctx)
	ok, why := sandboxes.Limits()
	for i := range checks {
		switch {
		case checks[i].Name != limitsCheck:
		case ok:
			checks[i] = Check{Name: limitsCheck, OK: true, Detail: "the node has them: cpu, memory and pids"}
		case checks[i].OK:
			checks[i] = Check{
				Name: limitsCheck, Detail: "the node has none: " + why + ": limits of containers have no effect",
				Mend: "delete all pods: when the node has ended, the next command starts one that has them",
			}
		}
	}
	checks = append(checks, Check{Name: "pod network", OK: true, Detail: network.Addresses()})
	for _, p := range network.Problems() {
		checks = append(checks, Check{Name: "pod network", Detail: p.Summary, Mend: p.Mend})
	}
	return checks
}
