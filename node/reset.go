package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/cni"
	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/sandbox"
	"get.podrun.dev/podrun/volume"
)

// resetVariable tells a node to clear instead of to serve. Nobody's environment
// gets it past nodeEnv.
const resetVariable = "PODRUN_RESET"

// What reset removes, by name: the directories may be ones that a person has
// chosen, with other things in them. What stays of the state directory is what
// other commands wait on, the lock, and the log.
var (
	stateNames = []string{"sandboxes", "pods", "volumes", "cni", "node.failed"}
	dataNames  = []string{"store.db", "images", "containers", "volumes", "claims", "logs", "unique-local.json", "state"}
)

// Reset ends the node at p and every pod, at once, and removes all that they had
// and were made from: objects, images, volumes, networks, logs. It needs no store
// that can be opened. The configuration of the user, credentials and seccomp
// profiles stay. An error says what could not be removed; Reset may be called
// again.
func Reset(ctx context.Context, p Paths) error {
	for _, dir := range []string{p.Data, p.State} {
		below, err := mountsBelow(dir)
		if err != nil {
			return err
		}
		if len(below) > 0 {
			return hint.Wrap(fmt.Errorf("%s is mounted, which podrun has not done", below[0]), "unmount it first")
		}
	}
	if err := StopNode(ctx, p); err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	started, err := launch(ctx, p, resetVariable+"=1")
	if err == nil && !started {
		err = hint.Wrap(errors.New("another command has started a node meanwhile"), "run it again")
	}
	if err != nil {
		return err
	}
	// It has told of its end, and is about to let go of the lock.
	return awaitUnlocked(ctx, p)
}

// wipe is the life of a node that was launched by Reset.
func wipe(ctx context.Context, paths Paths, ns Namespace, reaper *Reaper, log *slog.Logger) error {
	sandboxes, err := sandbox.New(sandbox.Options{
		StateDir: filepath.Join(paths.State, "sandboxes"), OpenDir: paths.State + "-rootfs", Rootless: ns.Rootless, SingleID: ns.SingleID, Logger: log,
		ExitStatus: reaper.ExitStatus, Keep: reaper.Keep, Kept: reaper.Kept, Drop: reaper.Drop,
	})
	if err != nil {
		return err
	}
	ids, err := sandboxes.Sandboxes()
	for _, id := range ids {
		err = errors.Join(err, sandboxes.DeleteSandbox(ctx, id))
	}
	if err = errors.Join(err, sandboxes.Close()); err != nil {
		return err // processes may be left: their files stay, too
	}
	leaveNetworks(ctx, paths, reaper, log)
	if err := volume.New(paths.Data, paths.State).Sweep(nil); err != nil {
		return err
	}
	for _, dir := range []string{paths.State, paths.Data} {
		if err := detach(dir); err != nil {
			return err
		}
	}
	half, err := fs.Glob(os.DirFS(paths.Data), "store.db.new-*") // by a crash
	errs := []error{err}
	for _, name := range half {
		errs = append(errs, os.Remove(filepath.Join(paths.Data, name)))
	}
	for dir, names := range map[string][]string{paths.State: append(stateNames, "netns"), paths.Data: dataNames} {
		for _, name := range names {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
		}
	}
	return errors.Join(errs...)
}

// leaveNetworks has plugins take back what they made outside of what ends with
// the pod network. A network that cannot be opened keeps nothing from being
// removed.
func leaveNetworks(ctx context.Context, paths Paths, reaper *Reaper, log *slog.Logger) {
	settings, err := cni.ReadSettings(networkSettings()...)
	if err != nil {
		log.Warn("reset: network", "err", err) // the defaults do
	}
	network, err := cni.Open(ctx, cni.Options{
		StateDir: paths.State, DataDir: paths.Data, Settings: settings, Logger: log,
		Keep: reaper.Keep, Kept: reaper.Kept, Drop: reaper.Drop,
		ConfDirs: networkFolders(), PluginDirs: pluginFolders(),
	})
	if err == nil {
		err = errors.Join(network.Sweep(ctx, nil), network.Close())
	}
	if err != nil {
		log.Warn("reset: network", "err", err)
	}
}

// detach unmounts all that is mounted below dir in this mount namespace, and
// makes sure of it: what is removed next must not be somebody's host path.
func detach(dir string) error {
	below, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for i := len(below) - 1; i >= 0; i-- { // the last one lies on top
		err := unix.Unmount(below[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			return &os.PathError{Op: "umount", Path: below[i], Err: err}
		}
	}
	if below, err = mountsBelow(dir); err == nil && len(below) > 0 {
		err = fmt.Errorf("%s is still mounted", below[0])
	}
	return err
}

// mountsBelow are the mount points below dir that this process sees, in the order
// they were mounted; dir itself may be one.
func mountsBelow(dir string) ([]string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var below []string
	for line := range strings.Lines(string(b)) {
		// proc_pid_mountinfo(5): the fifth field, with octal escapes.
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		point := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(f[4])
		if strings.HasPrefix(point, real+"/") {
			below = append(below, point)
		}
	}
	return below, nil
}
