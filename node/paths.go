package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/hint"
)

// Paths says where a node keeps its things. Whoever has the same Paths talks to
// the same node. State and Data are absolute.
type Paths struct {
	State string // what a reboot may take: sockets, pids, the reaper's log
	Data  string // what it may not: objects, images, volumes, logs
	// Socket is what the node listens on.
	Socket string
	// Lock is locked as long as a reaper or its node lives.
	Lock string
	// Log is where the node's and the reaper's standard error go.
	Log string
}

// The variables that move a node: tests and several instances are kept apart
// by them, and the node is told its own paths so.
const (
	stateVariable = "PODRUN_STATE"
	dataVariable  = "PODRUN_DATA"
)

// socketPathMax is what sun_path of a unix socket's address holds, less the NUL.
const socketPathMax = 107

// LocatePaths finds the paths of the calling user's node. It makes no file.
// A directory that is there must belong to the user and be closed to others;
// an error names the one that is not, with a mend.
func LocatePaths() (Paths, error) {
	state, err := stateDir(os.Geteuid())
	if err != nil {
		return Paths{}, fmt.Errorf("cannot use the state directory: %w", err)
	}
	data, err := dataDir(os.Geteuid())
	if err != nil {
		return Paths{}, fmt.Errorf("cannot use the data directory: %w", err)
	}
	if os.Getenv(stateVariable) == "" {
		state = runningState(state, data, os.Geteuid())
	}
	p := newPaths(state, data)
	if n := len(p.Socket); n > socketPathMax {
		err := fmt.Errorf("cannot use the state directory: %s is %d bytes long and a unix socket's path may have %d", p.Socket, n, socketPathMax)
		return Paths{}, hint.Wrap(err, "set "+stateVariable+" to a shorter path")
	}
	return p, nil
}

func newPaths(state, data string) Paths {
	return Paths{
		State: state, Data: data,
		Socket: filepath.Join(state, "node.sock"),
		Lock:   filepath.Join(state, "node.lock"),
		Log:    filepath.Join(state, "node.log"),
	}
}

func stateDir(uid int) (string, error) {
	if dir := os.Getenv(stateVariable); dir != "" {
		return checked(dir, uid, stateVariable)
	}
	if uid == 0 {
		return checked("/run/podrun", uid, stateVariable)
	}
	if dir := runtimeDir(uid); dir != "" {
		return checked(filepath.Join(dir, "podrun"), uid, stateVariable)
	}
	return checked(filepath.Join(os.TempDir(), "podrun-"+strconv.Itoa(uid)), uid, stateVariable)
}

// runtimeDir is where programs of a user's session meet; "" when there is none.
// After su, XDG_RUNTIME_DIR is still the other user's, and under cron it is not
// set.
func runtimeDir(uid int) string {
	for _, dir := range []string{os.Getenv("XDG_RUNTIME_DIR"), "/run/user/" + strconv.Itoa(uid)} {
		if filepath.IsAbs(dir) && owned(dir, uid) {
			return dir
		}
	}
	return ""
}

func dataDir(uid int) (string, error) {
	if dir := os.Getenv(dataVariable); dir != "" {
		return checked(dir, uid, dataVariable)
	}
	if uid == 0 {
		return checked("/var/lib/podrun", uid, dataVariable)
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return checked(filepath.Join(dir, "podrun"), uid, dataVariable)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", hint.Wrap(err, "set HOME or "+dataVariable)
	}
	return checked(filepath.Join(home, ".local/share/podrun"), uid, dataVariable)
}

// runningState is the state directory of the node that runs on data, and state
// when there is none. The two differ when that node was started without a login
// session and the caller has one, or the other way round.
func runningState(state, data string, uid int) string {
	other, err := os.Readlink(runningFile(data))
	if err != nil || other == state {
		return state
	}
	if _, err := checked(other, uid, stateVariable); err != nil {
		return state
	}
	lock, err := os.Open(newPaths(other, data).Lock)
	if err != nil {
		return state
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return other
	}
	return state
}

// announce leaves word in the data directory of where the node's state is.
func (p Paths) announce() error {
	fresh := runningFile(p.Data) + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(p.State, fresh); err != nil {
		return err
	}
	return os.Rename(fresh, runningFile(p.Data))
}

// runningFile is a symbolic link to the state directory of the last node.
func runningFile(data string) string { return filepath.Join(data, "state") }

func owned(dir string, uid int) bool {
	var st unix.Stat_t
	err := unix.Stat(dir, &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Uid == uint32(uid)
}

// checked returns dir if it may be used, or may be made. In a directory like
// /tmp anybody may have been there first: no symbolic link is followed at its
// end, and nobody else may own it or look into it.
func checked(dir string, uid int, variable string) (string, error) {
	elsewhere := "set " + variable + " to a directory of your own"
	if !filepath.IsAbs(dir) {
		return "", hint.Wrap(fmt.Errorf("%q is not an absolute path", dir), elsewhere)
	}
	dir = filepath.Clean(dir)
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return dir, nil
	case err != nil:
		return "", hint.Wrap(&os.PathError{Op: "stat", Path: dir, Err: err}, elsewhere)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return "", hint.Wrap(fmt.Errorf("%s is not a directory", dir), elsewhere)
	case st.Uid != uint32(uid):
		return "", hint.Wrap(fmt.Errorf("%s belongs to user %d, and you are user %d", dir, st.Uid, uid), elsewhere)
	case st.Mode&0o077 != 0:
		return "", hint.Wrap(fmt.Errorf("%s can be entered by other users (mode %04o)", dir, st.Mode&0o7777), "chmod 700 "+dir)
	}
	return dir, nil
}

// create makes the directories that are missing, and checks them again: another
// user may have been faster.
func (p Paths) create() error {
	for dir, variable := range map[string]string{p.State: stateVariable, p.Data: dataVariable} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return hint.Wrap(err, "set "+variable+" to a directory that you can write to")
		}
		if _, err := checked(dir, os.Geteuid(), variable); err != nil {
			return err
		}
	}
	return nil
}

// networkSettings are the files that may set up the pod network; the first that
// is there counts.
func networkSettings() []string {
	var files []string
	if dir, err := os.UserConfigDir(); err == nil {
		files = append(files, filepath.Join(dir, "podrun", "network.toml"))
	}
	return append(files, "/etc/podrun/network.toml")
}

// networkFolders are where CNI networks are found: the user's own, and those
// that all on this machine may use.
func networkFolders() []string {
	var dirs []string
	if dir, err := os.UserConfigDir(); err == nil {
		dirs = append(dirs, filepath.Join(dir, "podrun", "cni", "net.d"))
	}
	return append(dirs, "/etc/cni/net.d")
}

// pluginFolders are where their plugins are found.
func pluginFolders() []string {
	var dirs []string
	for _, dir := range filepath.SplitList(os.Getenv("CNI_PATH")) {
		if filepath.IsAbs(dir) {
			dirs = append(dirs, dir)
		}
	}
	return append(dirs, "/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
}
