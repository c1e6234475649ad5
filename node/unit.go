package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"get.podrun.dev/podrun/internal/atomicfile"
	"get.podrun.dev/podrun/internal/hint"
)

// unitName is the unit that starts the node with the machine. Scopes are ordered
// before it, so that a shutdown ends the node first and the pods after it: it
// counts no restart for them.
const unitName = "podrun.service"

// unitMark begins every unit that we write; others are not touched.
const unitMark = `# Written by "podrun system enable"; "podrun system disable" removes it.`

// lingerDir holds a file for each user whose manager systemd starts with the
// machine, named for the user.
var lingerDir = "/var/lib/systemd/linger"

// Unit is podrun.service as it was found or left.
type Unit struct {
	Name string
	Path string
	// Linger is "" unless the unit is a user's that starts at the first login and
	// ends with the last session; then it is what would change that.
	Linger string
}

// EnableUnit writes the user's unit, for root the machine's, and has systemd
// start it with the user's manager or the machine, with now also at once. What is
// there already stays: it may be called again, and brings the unit up to date.
// The environment that moves or configures a node is written into it. An error
// says where no systemd answers, or that the file is not one that podrun wrote.
func EnableUnit(ctx context.Context, now bool) (Unit, error) {
	u, err := findUnit()
	if err != nil {
		return u, err
	}
	if err := u.ours(); err != nil {
		return u, err
	}
	if err := needSystemd(); err != nil {
		return u, err
	}
	program, err := programPath()
	if err != nil {
		return u, err
	}
	if err := os.MkdirAll(filepath.Dir(u.Path), 0o755); err != nil {
		return u, err
	}
	// What is in it is for nobody but the user: a proxy's address may be, too.
	if err := atomicfile.Write(u.Path, []byte(unitText(program, os.Environ(), os.Geteuid() == 0)), 0o600); err != nil {
		return u, err
	}
	commands := [][]string{{"daemon-reload"}, {"enable", unitName}}
	if now {
		commands = append(commands, []string{"start", unitName})
	}
	for _, c := range commands {
		if err := systemctl(ctx, c...); err != nil {
			return u, err
		}
	}
	u.Linger = lingerMend(os.Geteuid())
	return u, nil
}

// DisableUnit undoes EnableUnit, with now it also stops what runs: the node ends
// and the pods go on. That there is no unit is no error; Path is "" then. Where no
// systemd answers the files are removed all the same.
func DisableUnit(ctx context.Context, now bool) (Unit, error) {
	u, err := findUnit()
	if err != nil {
		return u, err
	}
	if err := u.ours(); err != nil {
		return u, err
	}
	_, err = os.Lstat(u.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return Unit{Name: unitName}, nil
	}
	if err != nil {
		return u, err
	}
	systemd := needSystemd() == nil
	if systemd {
		args := []string{"disable", unitName}
		if now {
			args = []string{"disable", "--now", unitName}
		}
		if err := systemctl(ctx, args...); err != nil {
			return u, err
		}
	}
	for _, path := range []string{filepath.Join(filepath.Dir(u.Path), unitTarget(os.Geteuid() == 0)+".wants", unitName), u.Path} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return u, err
		}
	}
	if systemd {
		return u, systemctl(ctx, "daemon-reload")
	}
	return u, nil
}

func findUnit() (Unit, error) {
	u := Unit{Name: unitName, Path: "/etc/systemd/system/" + unitName}
	if os.Geteuid() != 0 {
		dir, err := os.UserConfigDir()
		if err != nil {
			return u, hint.Wrap(err, "set HOME")
		}
		u.Path = filepath.Join(dir, "systemd", "user", unitName)
	}
	return u, nil
}

// ours refuses a file that is not there by EnableUnit.
func (u Unit) ours() error {
	b, err := os.ReadFile(u.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !bytes.HasPrefix(b, []byte(unitMark)) {
		err = hint.Wrap(fmt.Errorf("%s was not written by podrun", u.Path), "move it away, or look after it by systemctl")
	}
	return err
}

// unitTarget is what starts the unit.
func unitTarget(root bool) string {
	if root {
		return "multi-user.target"
	}
	return "default.target"
}

// unitText is the unit that runs program's keeper.
//
// KillMode=process: the keeper alone is told to end. Where systemd refuses a
// scope for the node, node and pods are in the unit's own cgroup, which
// Delegate=yes makes theirs, and must go on there.
func unitText(program string, environ []string, root bool) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(unitMark)
	line("[Unit]")
	line("Description=podrun: Kubernetes pods without a cluster")
	if root {
		line("Wants=network-online.target")
		line("After=network-online.target")
	}
	line("")
	line("[Service]")
	line("Type=notify")
	line("NotifyAccess=main")
	line("ExecStart=%s system service", unitQuote(program))
	for _, e := range unitEnvironment(environ) {
		line("Environment=%s", unitQuote(e))
	}
	line("Delegate=yes")
	line("KillMode=process")
	line("Restart=on-failure")
	line("RestartSec=1")
	line("TasksMax=infinity")
	line("")
	line("[Install]")
	line("WantedBy=%s", unitTarget(root))
	return b.String()
}

// unitEnvironment is what of the caller's environment a node would have had that
// the caller had launched, less what the service manager itself sets.
func unitEnvironment(environ []string) []string {
	var kept []string
	for _, e := range nodeEnv(environ, Paths{}) {
		name, value, _ := strings.Cut(e, "=")
		switch {
		case name == stateVariable || name == dataVariable: // Paths{}'s, see below
		case name == "HOME" || name == "LANG" || name == "TZ" || strings.HasPrefix(name, "LC_"):
		case strings.HasPrefix(name, "XDG_") && name != "XDG_CONFIG_HOME" && name != "XDG_DATA_HOME":
		case strings.HasSuffix(strings.ToLower(name), "_proxy") && strings.Contains(value, "@"):
			// It has a password in it, and everybody may ask systemd for a
			// unit's environment.
		default:
			kept = append(kept, e)
		}
	}
	for _, e := range environ {
		if strings.HasPrefix(e, stateVariable+"=") || strings.HasPrefix(e, dataVariable+"=") {
			kept = append(kept, e)
		}
	}
	slices.Sort(kept)
	return kept
}

// unitQuote quotes one word as systemd.syntax(7) and the specifiers of
// systemd.unit(5) have it.
func unitQuote(word string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "\n", `\n`, "\t", `\t`).Replace(word) + `"`
}

// programPath is the name that this program was called by, in full: an upgrade may
// put another file there, or turn a link.
func programPath() (string, error) {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	if name, err := exec.LookPath(os.Args[0]); err == nil {
		if name, err = filepath.Abs(name); err == nil {
			if st, err := os.Stat(name); err == nil && os.SameFile(st, self) {
				return name, nil
			}
		}
	}
	name, err := os.Executable()
	if err == nil {
		_, err = os.Stat(name)
	}
	if err != nil {
		return "", hint.Wrap(fmt.Errorf("this program's file is gone: %w", err), "install podrun, and call it by its path")
	}
	return name, nil
}

// needSystemd says why the manager of the caller's units cannot be asked, if so.
func needSystemd() error {
	socket := systemdSocket()
	if socket != "" {
		if _, err := os.Stat(socket); err == nil {
			return nil
		}
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
		return hint.Wrap(errors.New("this machine does not run systemd"),
			`without it have any command of podrun run when the machine starts, such as "podrun get pods" as @reboot in a crontab`)
	}
	name := userName(os.Geteuid())
	return hint.Wrap(fmt.Errorf("user %d has no systemd that runs", os.Geteuid()),
		"log in, as by ssh (su and sudo open no session), or run: sudo loginctl enable-linger "+name)
}

// systemctl runs one command of the caller's manager.
func systemctl(ctx context.Context, args ...string) error {
	if os.Geteuid() != 0 {
		args = append([]string{"--user"}, args...)
	}
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	cmd.Env = os.Environ()
	if dir := runtimeDir(os.Geteuid()); dir != "" { // after su it is not set
		cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+dir)
	}
	out, err := cmd.CombinedOutput()
	if err == nil || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	said := strings.Join(strings.Fields(string(out)), " ")
	if said == "" {
		said = err.Error()
	}
	err = fmt.Errorf("systemctl %s: %s", strings.Join(args, " "), said)
	if slices.Contains(args, "start") {
		return hint.Wrap(err, "see: systemctl "+strings.Join(append(args[:len(args)-2:len(args)-2], "status", unitName), " "))
	}
	return err
}

// lingerMend is the command by which a user's manager would start with the
// machine; "" when it does, or when the user is root.
func lingerMend(uid int) string {
	if uid == 0 {
		return ""
	}
	name := userName(uid)
	if name == "" {
		name = strconv.Itoa(uid)
	}
	if _, err := os.Stat(filepath.Join(lingerDir, name)); err == nil {
		return ""
	}
	return "sudo loginctl enable-linger " + name
}
