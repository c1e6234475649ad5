package image_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/internal/linux"
	"get.podrun.dev/podrun/internal/trap"
)

// powerChildVariable makes TestPowerCutReplayed the program that is looked at:
// STORE ACKNOWLEDGED HOST.
const powerChildVariable = "IMAGE_TEST_POWER"

// The images of that program, of which a registry has the first two. A power cut
// may take those, and no other.
var powerImages = []string{"HOST/app:v1", "HOST/other:v1", "loaded:v1", "extra:v1", "imported:v1"}

// powerFiles are what the image of a name has.
func powerFiles(name string) []entry {
	if name == "extra:v1" {
		name = "loaded:v1"
	}
	return []entry{{name: "base", data: "base"}, {name: "f", data: strings.Repeat(name, 500)}}
}

// powerSteps are what the program does, one after the other: a name that comes, or
// with a minus one that goes.
var powerSteps = []string{
	"HOST/app:v1", "loaded:v1", "extra:v1", "imported:v1", "HOST/other:v1", "-extra:v1", "-imported:v1", "-HOST/app:v1",
}

// afterSteps is what there is after n of them.
func afterSteps(n int) map[string]bool {
	there := map[string]bool{}
	for _, name := range powerSteps[:min(n, len(powerSteps))] {
		gone, removed := strings.CutPrefix(name, "-")
		there[gone] = !removed
	}
	return there
}

// powerChild is the program.
func powerChild(t *testing.T, dir, acknowledged, host string) {
	s := openStore(t, dir)
	acknowledge, err := os.Create(acknowledged)
	if err != nil {
		t.Fatal(err)
	}
	defer acknowledge.Close()
	for _, step := range powerSteps {
		name, removed := strings.CutPrefix(step, "-")
		full := strings.ReplaceAll(name, "HOST", host)
		layers := powerFiles(name)
		var err error
		switch {
		case removed:
			_, err = s.Remove(t.Context(), full, func(image.Digest) (string, bool) { return "", false }, false)
		case name == "loaded:v1":
			archive := oldArchive(t, full, imageOf(t, tarOf(t, layers[0]), tarOf(t, layers[1])))
			_, err = s.Load(t.Context(), bytes.NewReader(archive), nil)
		case name == "extra:v1":
			err = s.Tag("loaded:v1", parse(t, full))
		case name == "imported:v1":
			ref := parse(t, full)
			_, err = s.Import(t.Context(), bytes.NewReader(tarOf(t, layers...)), image.ImportOptions{Ref: &ref})
		default:
			_, err = s.Pull(t.Context(), parse(t, full), image.PullOptions{})
		}
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		// A byte for each step: the file can be read at any time.
		if _, err := acknowledge.WriteString("."); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPowerCutReplayed cuts the power before each flush of a program that pulls,
// loads, imports, tags and removes images. Of what was not flushed nothing is on
// the disk, or all of it, or some. The store opens, what it has is whole, and what
// was acknowledged is there, but for images that a registry has, or gone.
func TestPowerCutReplayed(t *testing.T) {
	if args := strings.Fields(os.Getenv(powerChildVariable)); len(args) == 3 {
		powerChild(t, args[0], args[1], args[2])
		return
	}
	t.Parallel()
	srv := newServer(t)
	for _, name := range powerImages[:2] {
		layers := powerFiles(name)
		srv.push(t, strings.TrimPrefix(name, "HOST/"), imageOf(t, tarOf(t, layers[0]), tarOf(t, layers[1])))
	}
	dir, acknowledged := t.TempDir(), filepath.Join(t.TempDir(), "acknowledged")
	command := exec.Command("/proc/self/exe", "-test.run=^TestPowerCutReplayed$")
	command.Env = append(os.Environ(), powerChildVariable+"="+dir+" "+acknowledged+" "+srv.host)
	command.Stdout = t.Output()

	type moment struct {
		flushed, now tree
		acknowledged int
	}
	var moments []moment
	flushed := scan(t, dir)
	look := func() moment {
		m := moment{flushed: flushed.clone(), now: scan(t, dir)}
		if info, err := os.Stat(acknowledged); err == nil {
			m.acknowledged = int(info.Size())
		}
		moments = append(moments, m)
		return m
	}
	err := trap.Run(command, []int{unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS}, func(c trap.Call) (unix.Errno, error) {
		m := look()
		var st unix.Stat_t
		if err := unix.Stat(c.File(0), &st); err != nil {
			return 0, err
		}
		if c.Number == unix.SYS_SYNCFS {
			flushed = m.now.clone()
		} else {
			flushed.flush(st.Ino, m.now)
		}
		return 0, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if m := look(); m.acknowledged != len(powerSteps) || len(moments) < 2*len(powerSteps) {
		t.Fatalf("%d steps and %d flushes were seen: the test shows nothing", m.acknowledged, len(moments)-1)
	}
	random := rand.New(rand.NewPCG(5, 5))
	for n, m := range moments {
		for name, kept := range map[string]func() bool{
			"nothing": func() bool { return false },
			"all":     func() bool { return true },
			"some":    func() bool { return random.IntN(2) == 0 },
		} {
			what := fmt.Sprintf("cut before flush %d of %d, %d steps acknowledged, of what was not flushed there is %s", n+1, len(moments), m.acknowledged, name)
			after := filepath.Join(t.TempDir(), "after")
			m.flushed.cut(m.now, kept).write(t, after)
			checkAfterCut(t, what, after, srv.host, m.acknowledged)
			if t.Failed() {
				return
			}
		}
	}
}

// checkAfterCut opens the store that a power cut left.
func checkAfterCut(t *testing.T, what, dir, host string, acknowledged int) {
	t.Helper()
	s, err := image.Open(dir, image.Options{SingleID: true, Registries: &image.Registries{}, Platform: image.Platform{OS: "linux", Architecture: "amd64"}})
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	defer func() { _ = s.Close() }()
	before, next := afterSteps(acknowledged), afterSteps(acknowledged+1)
	for i, name := range powerImages {
		img, err := s.Lookup(parse(t, strings.ReplaceAll(name, "HOST", host)))
		pulled := i < 2
		switch {
		case err != nil && before[name] && next[name] && !pulled:
			t.Errorf("%s: %s is lost: %v", what, name, err)
		case err == nil && !before[name] && !next[name]:
			t.Errorf("%s: %s is there", what, name)
		}
		if err != nil {
			continue
		}
		root := mount(t, s, img)
		for _, e := range powerFiles(name) {
			if data, err := os.ReadFile(filepath.Join(root, e.name)); err != nil || string(data) != e.data {
				t.Errorf("%s: %s: %s has %d bytes, %v", what, name, e.name, len(data), err)
			}
		}
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
	if left := leftovers(t, dir); len(left) != 0 {
		t.Errorf("%s: left in tmp: %q", what, left)
	}
}

// A tree is a directory: the entries of each of its directories, and what is in
// its files, by their inodes.
type tree struct {
	root    uint64
	entries map[place]uint64
	nodes   map[uint64]node
}

type place struct {
	directory uint64
	name      string
}

type node struct {
	mode fs.FileMode
	data string // of a file, or where a link leads
}

func (d tree) clone() tree { return tree{d.root, maps.Clone(d.entries), maps.Clone(d.nodes)} }

// scan reads a directory, again if something else changes it meanwhile.
func scan(t *testing.T, dir string) tree {
	t.Helper()
	for last := scanOnce(dir); ; {
		d := scanOnce(dir)
		if maps.Equal(d.entries, last.entries) && maps.Equal(d.nodes, last.nodes) {
			return d
		}
		last = d
	}
}

func scanOnce(dir string) tree {
	d := tree{inode(dir), map[place]uint64{}, map[uint64]node{}}
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return nil // it is gone: the next look tells
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		n := node{mode: info.Mode()}
		switch {
		case n.mode.IsRegular():
			b, _ := os.ReadFile(path)
			n.data = string(b)
		case n.mode&fs.ModeSymlink != 0:
			n.data, _ = os.Readlink(path)
		}
		own := inode(path)
		d.entries[place{inode(filepath.Dir(path)), e.Name()}] = own
		d.nodes[own] = n
		return nil
	})
	return d
}

func inode(path string) uint64 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// flush makes what fsync(2) of a file or directory makes of now.
func (d tree) flush(of uint64, now tree) {
	n, inside := now.nodes[of]
	if inside && !n.mode.IsDir() {
		d.nodes[of] = n
		return
	}
	maps.DeleteFunc(d.entries, func(p place, _ uint64) bool { return p.directory == of })
	for p, child := range now.entries {
		if p.directory == of {
			d.entries[p] = child
			d.have(child, now)
		}
	}
}

// have gives d an inode, of which nothing is written yet.
func (d tree) have(of uint64, now tree) {
	if _, there := d.nodes[of]; !there {
		n := now.nodes[of]
		if n.mode.IsRegular() {
			n.data = ""
		}
		d.nodes[of] = n
	}
}

// cut is d after a power cut: of what differs in now, kept says what is there. A
// rename is there or not, with all that it moves and replaces.
func (d tree) cut(now tree, kept func() bool) tree {
	out := d.clone()
	// What belongs together has one inode, or one place.
	type change struct {
		places map[place]bool
		inodes map[uint64]bool
	}
	var changes []change
	for _, p := range slices.SortedFunc(maps.Keys(union(d.entries, now.entries)), comparePlaces) {
		if d.entries[p] == now.entries[p] {
			continue
		}
		c := change{map[place]bool{p: true}, map[uint64]bool{d.entries[p]: true, now.entries[p]: true}}
		delete(c.inodes, 0)
		changes = slices.DeleteFunc(changes, func(other change) bool {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(other.inodes)), func(i uint64) bool { return c.inodes[i] }) {
				return false
			}
			maps.Copy(c.places, other.places)
			maps.Copy(c.inodes, other.inodes)
			return true
		})
		changes = append(changes, c)
	}
	for _, c := range changes {
		if !kept() {
			continue
		}
		for p := range c.places {
			delete(out.entries, p)
			if child, there := now.entries[p]; there {
				out.entries[p] = child
				out.have(child, now)
			}
		}
	}
	for _, i := range slices.Sorted(maps.Keys(out.nodes)) {
		if n, there := now.nodes[i]; there && n != out.nodes[i] && kept() {
			if len(n.data) > 1 && n.mode.IsRegular() && !kept() {
				n.data = n.data[:len(n.data)/2]
			}
			out.nodes[i] = n
		}
	}
	return out
}

func union[K comparable, V any](a, b map[K]V) map[K]V {
	both := maps.Clone(a)
	maps.Copy(both, b)
	return both
}

func comparePlaces(a, b place) int {
	return strings.Compare(fmt.Sprint(a.directory, a.name), fmt.Sprint(b.directory, b.name))
}

// write makes the directory, as the next boot of the machine finds it.
func (d tree) write(t *testing.T, dir string) {
	t.Helper()
	boot, err := linux.BootID()
	if err != nil {
		t.Fatal(err)
	}
	below := map[uint64]map[string]uint64{}
	for p, child := range d.entries {
		if below[p.directory] == nil {
			below[p.directory] = map[string]uint64{}
		}
		below[p.directory][p.name] = child
	}
	var fill func(of uint64, dir string) error
	fill = func(of uint64, dir string) error {
		err := os.Mkdir(dir, 0o700)
		for name, child := range below[of] {
			path := filepath.Join(dir, name)
			switch n := d.nodes[child]; {
			case n.mode.IsDir():
				err = errors.Join(err, fill(child, path), os.Chmod(path, n.mode.Perm()))
			case n.mode&fs.ModeSymlink != 0:
				err = errors.Join(err, os.Symlink(n.data, path))
			default:
				data := strings.Replace(n.data, boot, "7c0a3a2e-0000-4000-8000-000000000000", 1)
				err = errors.Join(err, os.WriteFile(path, []byte(data), n.mode.Perm()))
			}
		}
		return err
	}
	if err := fill(d.root, dir); err != nil {
		t.Fatal(err)
	}
}
