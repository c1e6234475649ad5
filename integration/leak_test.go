package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// finish deletes what a test left, and fails the test unless then nothing is
// left of it: first with the node still there, then without.
func (e *env) finish() {
	defer e.remove()
	e.remember()
	if e.t.Failed() {
		e.t.Logf("node.log:\n%s", e.nodeLog())
	}
	// If there is anything, there is a node, or has to be one: a test may have
	// killed it just now.
	if len(e.session()) > 0 {
		r := e.run("delete", "pods", "--all", "-A", "--now")
		if r.code != 0 {
			e.t.Errorf("cannot delete all pods: %v", r)
		}
	}
	if node := e.nodePID(); node != 0 {
		e.checkIdle(node)
		e.endNode(node)
	}
	e.checkGone()
	for _, name := range []string{"node.log", "node.log.1"} {
		text, _ := os.ReadFile(filepath.Join(e.state, name))
		e.checkSane(name, string(text))
	}
}

// insane is how Go's runtime tells of a bug.
var insane = regexp.MustCompile(`(?m)^(WARNING: DATA RACE|panic: |fatal error: )`)

// checkSane fails the test when text tells of a bug that its outcome hides.
func (e *env) checkSane(what, text string) {
	if at := insane.FindStringIndex(text); at != nil {
		e.t.Errorf("%s: %s", what, text[at[0]:min(len(text), at[0]+4000)])
	}
}

// remember notes all that is there now, to be looked for at the end.
func (e *env) remember() {
	for p, what := range e.session() {
		e.subjects[p] = what
	}
	directories, _ := fs.Glob(os.DirFS(e.state), "sandboxes/*/containers/*")
	for _, d := range directories {
		e.ids[filepath.Base(d)] = true
	}
}

// checkIdle looks for what deleted pods left in and around the node.
func (e *env) checkIdle(node int) {
	// What ends asynchronously gets a moment: a zombie to be reaped, a
	// descriptor to be closed.
	e.soon("processes of pods", func() []string {
		var left []string
		for p, what := range e.session() {
			if s, ok := readStat(p.pid); ok && p.pid != node && s.name != "podrun-reaper" && p.pid != e.reaperPID() {
				left = append(left, what)
			}
		}
		return left
	})
	e.soon("mounts in the node", func() []string {
		return slices.DeleteFunc(mounts(strconv.Itoa(node), e.dir), func(m string) bool { return m == e.state+"/netns" })
	})
	e.soon("descriptors of the node", func() []string { return e.descriptors(node) })
	e.soon("links in the pod network", func() []string { return e.links(node) })
	e.soon("files", e.files)
}

// descriptors are those of the node that belong to pods.
func (e *env) descriptors(node int) []string {
	var left []string
	dir := fmt.Sprintf("/proc/%d/fd", node)
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		link, _ := os.Readlink(filepath.Join(dir, entry.Name()))
		for _, of := range []string{e.state + "/sandboxes", e.state + "/pods", e.data + "/containers", e.data + "/logs", e.data + "/volumes", "(deleted)"} {
			if strings.Contains(link, of) {
				left = append(left, link)
			}
		}
	}
	return left
}

// ownLinks are the links of a pod network without pods.
var ownLinks = regexp.MustCompile(`^(lo|podrun0|uplink)$`)

// links are the names of other links, such as a veth's end.
func (e *env) links(node int) []string {
	netns := filepath.Join(e.state, "netns")
	args := []string{"--target", strconv.Itoa(node), "--mount"}
	if os.Geteuid() != 0 {
		args = append(args, "--user", "--preserve-credentials")
	}
	args = append(args, "--", "nsenter", "--net="+netns, "ip", "-o", "link")
	out, err := exec.Command("nsenter", args...).CombinedOutput()
	if err != nil {
		if !slices.Contains(mounts(strconv.Itoa(node), e.dir), netns) {
			return nil // no pod ever needed it
		}
		return []string{fmt.Sprintf("nsenter %v: %v: %s", args, err, out)}
	}
	var left []string
	for line := range strings.Lines(string(out)) {
		name := strings.TrimSuffix(strings.Fields(line)[1], ":")
		name, _, _ = strings.Cut(name, "@")
		if !ownLinks.MatchString(name) {
			left = append(left, line)
		}
	}
	return left
}

// mayStay are the files, below the state directory or the data directory, that
// no pod owns.
var mayStay = regexp.MustCompile(`^(` + strings.Join([]string{
	`state/(node\.(sock|lock|log|log\.1)|exits.*|netns|userns|anchors.*|reaper\.sock|start-error|cni/subnet6?\.json|cni/addresses/[^/]+/(lock|last_reserved_ip\.\d+))`,
	`data/(state|unique-local\.json|store\.db|images/.*)`,
}, "|") + `)$`)

// files are those that deleted pods left. Directories on the way to files that
// may stay, may.
func (e *env) files() []string {
	var left []string
	_ = filepath.WalkDir(e.dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(e.dir, path)
		switch {
		case err != nil:
			// What the user may not look into belongs to an image's layer.
			if !strings.HasPrefix(rel, "data/images/") {
				left = append(left, err.Error())
			}
		case rel == "home" || rel == "data/images":
			return fs.SkipDir
		case d.IsDir():
			// What a pod had has its uid or id in its name.
			if len(d.Name()) >= 36 {
				left = append(left, rel+"/")
				return fs.SkipDir
			}
		case !mayStay.MatchString(rel):
			left = append(left, rel)
		}
		return nil
	})
	return left
}

// endNode ends the node as a service manager would, and waits for its reaper.
func (e *env) endNode(node int) {
	e.remember()
	// ESRCH: it has left by itself, having nothing to do.
	if err := unix.Kill(node, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		e.t.Errorf("end the node: %v", err)
	}
}

// checkGone looks for what there is of e on the machine when its node has
// ended.
func (e *env) checkGone() {
	e.soon("processes", func() []string {
		var left []string
		for p, what := range e.subjects {
			if p.alive() {
				left = append(left, what)
			}
		}
		for p, what := range e.session() {
			if p.alive() {
				left = append(left, what)
			}
		}
		return left
	})
	e.soon("mounts on the host", func() []string { return mounts("self", e.dir) })
	e.soon("files", func() []string {
		left := e.files()
		for _, name := range []string{"node.sock", "reaper.sock"} {
			if _, err := os.Lstat(filepath.Join(e.state, name)); err == nil {
				left = append(left, "state/"+name)
			}
		}
		return left
	})
	e.soon("cgroups", e.cgroups)
}

// cgroups are those of e's containers, whose names have their ids in them, and
// the one that holds them with cgroup v1.
func (e *env) cgroups() []string {
	var left []string
	sum := sha256.Sum256([]byte(filepath.Join(e.state, "sandboxes")))
	parent := "podrun-" + hex.EncodeToString(sum[:4])
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == parent || hexID.MatchString(d.Name()) && e.ids[hexID.FindString(d.Name())]) {
			left = append(left, path)
		}
		return nil
	})
	return left
}

// hexID is a container's id.
var hexID = regexp.MustCompile(`[0-9a-f]{64}`)

// soon fails the test unless find soon finds nothing.
func (e *env) soon(what string, find func() []string) {
	deadline := time.Now().Add(patience / 2)
	for {
		left := find()
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			e.t.Errorf("left behind: %s:\n\t%s", what, strings.Join(left, "\n\t"))
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// remove ends what must not stay whatever the test found, and deletes the
// files. The layers of images belong to the user's subordinate ids.
func (e *env) remove() {
	for p := range e.session() {
		_ = unix.Kill(p.pid, unix.SIGKILL)
	}
	for p := range e.subjects {
		if p.alive() {
			_ = unix.Kill(p.pid, unix.SIGKILL)
		}
	}
	_ = exec.Command("chmod", "-R", "u+rwX", e.dir).Run()
	if os.RemoveAll(e.dir) == nil {
		return
	}
	if out, err := exec.Command("unshare", "--map-auto", "--map-root-user", "rm", "-rf", e.dir).CombinedOutput(); err != nil {
		e.t.Errorf("remove %s: %v: %s", e.dir, err, out)
	}
}
