package untar_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/internal/untar"
)

// e is an entry of a layer: data makes a file of it, a slash at the end of the
// name a directory, unless kind says what it is.
type e struct {
	name, data, link string
	kind             byte
	mode             int64
	uid, gid         int
	mtime            time.Time
	xattr            map[string]string
	major, minor     int64
}

func dir(name string, mode int64) e    { return e{name: name + "/", mode: mode} }
func file(name, data string) e         { return e{name: name, data: data} }
func symlink(name, target string) e    { return e{name: name, link: target, kind: tar.TypeSymlink} }
func hardLink(name, target string) e   { return e{name: name, link: target, kind: tar.TypeLink} }
func with(x e, change func(x *e)) e    { change(&x); return x }
func of(x e, uid, gid int) e           { x.uid, x.gid = uid, gid; return x }
func mode4(x e, mode int64) e          { x.mode = mode; return x }
func attribute(x e, k, value string) e { x.xattr = map[string]string{k: value}; return x }

func layerOf(t testing.TB, entries ...e) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, x := range entries {
		h := &tar.Header{Name: x.name, Typeflag: x.kind, Linkname: x.link, Mode: x.mode, Uid: x.uid, Gid: x.gid, ModTime: x.mtime,
			Size: int64(len(x.data)), Devmajor: x.major, Devminor: x.minor, Format: tar.FormatPAX}
		switch {
		case h.Typeflag == 0 && strings.HasSuffix(x.name, "/"):
			h.Typeflag = tar.TypeDir
		case h.Typeflag == 0:
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if h.Mode < 0 {
			h.Mode = 0
		}
		if x.kind == tar.TypeXGlobalHeader { // it has records and nothing else
			h = &tar.Header{Typeflag: x.kind, PAXRecords: map[string]string{"comment": "0123abc"}, Format: tar.FormatPAX}
		}
		for k, v := range x.xattr {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		if _, err := w.Write([]byte(x.data)); err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func options() untar.Options {
	return untar.Options{Rootless: mode != modeRoot, SingleID: mode == modeSingleID}
}

// tempDir is a directory without the test's name in its path: overlay takes no
// commas.
func tempDir(t testing.TB) string {
	t.Helper()
	to, err := os.MkdirTemp("", "layer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(to); err != nil {
			t.Error(err)
		}
	})
	return to
}

func apply(t testing.TB, data []byte, o untar.Options) (string, untar.Result, error) {
	t.Helper()
	to := tempDir(t)
	if err := os.Chmod(to, 0o755); err != nil { // as who calls makes it
		t.Fatal(err)
	}
	r, err := untar.Apply(t.Context(), to, bytes.NewReader(data), o)
	return to, r, err
}

func unpack(t testing.TB, entries ...e) string {
	t.Helper()
	to, _, err := apply(t, layerOf(t, entries...), options())
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// overlay unpacks layers, the base first, and mounts them on top of each other.
func overlay(t *testing.T, layers ...[]e) string {
	t.Helper()
	var lower []string
	for _, l := range layers {
		lower = append([]string{unpack(t, l...)}, lower...)
	}
	lower = append(lower, tempDir(t)) // overlay wants two
	at, data := tempDir(t), "lowerdir="+strings.Join(lower, ":")
	if mode != modeRoot {
		data += ",userxattr"
	}
	if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, data); err != nil {
		t.Fatalf("mount overlay: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	return at
}

// tree lists what is below a directory: names, and what files hold.
func tree(t *testing.T, root string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		switch {
		case d.IsDir():
			rel += "/"
		case d.Type()&os.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			rel += "->" + target
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			rel += "=" + string(data)
		default:
			rel += "?" + d.Type().String()
		}
		lines = append(lines, rel)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return strings.Join(lines, " ")
}

func stat(t *testing.T, path string) (st unix.Stat_t) {
	t.Helper()
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st
}

// What several layers look like on top of each other, and what one does that
// says things twice.
func TestLayers(t *testing.T) {
	base := []e{dir("d", 0), file("d/a", "1"), file("d/b", "2"), dir("d/sub", 0), file("d/sub/c", "3"), file("f", "4"), symlink("l", "d")}
	for _, c := range []struct {
		name   string
		layers [][]e
		want   string
	}{
		{"one", [][]e{base}, "d/ d/a=1 d/b=2 d/sub/ d/sub/c=3 f=4 l->d"},
		{"whiteout of a file", [][]e{base, {file("d/.wh.a", "")}}, "d/ d/b=2 d/sub/ d/sub/c=3 f=4 l->d"},
		{"whiteout of a directory", [][]e{base, {file(".wh.d", "")}}, "f=4 l->d"},
		{"whiteout of a link", [][]e{base, {file(".wh.l", "")}}, "d/ d/a=1 d/b=2 d/sub/ d/sub/c=3 f=4"},
		{"whiteout of nothing", [][]e{base, {file(".wh.none", "")}}, "d/ d/a=1 d/b=2 d/sub/ d/sub/c=3 f=4 l->d"},
		{"whiteout, then the file", [][]e{base, {file(".wh.f", ""), file("f", "new")}}, "d/ d/a=1 d/b=2 d/sub/ d/sub/c=3 f=new l->d"},
		{"the file, then its whiteout", [][]e{base, {file("f", "new"), file(".wh.f", "")}}, "d/ d/a=1 d/b=2 d/sub/ d/sub/c=3 f=new l->d"},
		{"whiteout, then the directory", [][]e{base, {file(".wh.d", ""), dir("d", 0), file("d/new", "5")}}, "d/ d/new=5 f=4 l->d"},
		{"the directory, then its whiteout", [][]e{base, {dir("d", 0), file("d/new", "5"), file(".wh.d", "")}}, "d/ d/new=5 f=4 l->d"},
		{"whiteout, then what is in the directory", [][]e{base, {file(".wh.d", ""), file("d/new", "5")}}, "d/ d/new=5 f=4 l->d"},
		{"opaque", [][]e{base, {dir("d", 0), file("d/.wh..wh..opq", ""), file("d/new", "5")}}, "d/ d/new=5 f=4 l->d"},
		{"opaque at the end", [][]e{base, {dir("d", 0), file("d/new", "5"), dir("d/sub", 0), file("d/.wh..wh..opq", "")}}, "d/ d/new=5 d/sub/ f=4 l->d"},
		{"opaque without the directory", [][]e{base, {file("d/.wh..wh..opq", "")}}, "d/ f=4 l->d"},
		{"opaque and whiteouts", [][]e{base, {dir("d", 0), file("d/.wh.a", ""), file("d/.wh..wh..opq", ""), file("d/.wh.b", ""), file("d/new", "5")}}, "d/ d/new=5 f=4 l->d"},
		{"a file over a directory", [][]e{base, {file("d", "5")}}, "d=5 f=4 l->d"},
		{"a directory over a file", [][]e{base, {dir("f", 0), file("f/x", "5")}}, "d/ d/a=1 d/b=2 d/sub/ d/sub/c=3 f/ f/x=5 l->d"},
		{"a directory over a link", [][]e{base, {dir("l", 0), file("l/x", "5")}}, "d/ d/a=1 d/b=2 d/sub/ d/sub/c=3 f=4 l/ l/x=5"},
		{"a file over a link", [][]e{base, {file("l", "5")}}, "d/ d/a=1 d/b=2 d/sub/ d/sub/c=3 f=4 l=5"},
		{"a link over a file", [][]e{base, {symlink("f", "d/a")}}, "d/ d/a=1 d/b=2 d/sub/ d/sub/c=3 f->d/a l->d"},
		{"three", [][]e{base, {file(".wh.d", "")}, {dir("d", 0), file("d/z", "6")}}, "d/ d/z=6 f=4 l->d"},

		{"twice in one layer", [][]e{{file("f", "old"), file("f", "n")}}, "f=n"},
		{"a file, then a directory", [][]e{{file("f", "old"), dir("f", 0), file("f/x", "1")}}, "f/ f/x=1"},
		{"a directory, then a file", [][]e{{dir("f", 0), file("f/x", "1"), file("f", "new")}}, "f=new"},
		{"a directory, then a link, then through it", [][]e{{dir("a", 0), dir("f", 0), file("f/x", "1"), symlink("f", "a"), file("f/y", "2")}}, "a/ a/y=2 f->a"},
		{"a directory twice", [][]e{{dir("d", 0), file("d/x", "1"), dir("d", 0), file("d/y", "2")}}, "d/ d/x=1 d/y=2"},
		{"a link twice", [][]e{{symlink("l", "a"), symlink("l", "b")}}, "l->b"},
		{"no parents", [][]e{{file("a/b/c", "1"), file("a/d", "2")}}, "a/ a/b/ a/b/c=1 a/d=2"},
		{"names with dots and slashes", [][]e{{dir(".", 0), dir("./a", 0), file("./a/x", "1"), file("/a/y", "2"), file("a//z", "3"), file("a/../b", "4")}}, "a/ a/x=1 a/y=2 a/z=3 b=4"},
		{"through a link", [][]e{{dir("usr", 0), dir("usr/lib", 0), symlink("lib", "usr/lib"), file("lib/x", "1"), symlink("abs", "/usr/lib"), file("abs/y", "2"), symlink("usr/up", "../lib"), file("usr/up/z", "3")}},
			"abs->/usr/lib lib->usr/lib usr/ usr/lib/ usr/lib/x=1 usr/lib/y=2 usr/lib/z=3 usr/up->../lib"},
		{"through a link to what is not there", [][]e{{symlink("var", "/data/var"), file("var/x", "1")}}, "data/ data/var/ data/var/x=1 var->/data/var"},
		{"a whiteout through a link", [][]e{base, {symlink("k", "/d"), file("k/.wh.a", "")}}, "d/ d/b=2 d/sub/ d/sub/c=3 f=4 k->/d l->d"},
		{"up beyond the root by a link", [][]e{{symlink("up", "../../../.."), file("up/x", "1")}}, "up->../../../.. x=1"},

		{"hard links", [][]e{{dir("a", 0), dir("b", 0), file("a/f", "1"), hardLink("b/g", "a/f"), hardLink("h", "/a/f")}}, "a/ a/f=1 b/ b/g=1 h=1"},
		{"a hard link to a symbolic one", [][]e{{symlink("l", "nowhere"), hardLink("m", "l")}}, "l->nowhere m->nowhere"},
		{"a hard link through a symbolic one", [][]e{{dir("a", 0), file("a/f", "1"), symlink("l", "a"), hardLink("m", "l/f")}}, "a/ a/f=1 l->a m=1"},
		{"a hard link whose file is replaced", [][]e{{file("a", "old"), hardLink("b", "a"), file("a", "new")}}, "a=new b=old"},
		{"a hard link over a file", [][]e{{file("a", "1"), file("b", "2"), hardLink("b", "a")}}, "a=1 b=1"},
		{"a hard link to itself", [][]e{{file("a", "1"), hardLink("a", "a")}}, "a=1"},
		{"a hard link over a directory", [][]e{{file("a", "1"), file("b/c", "2"), hardLink("b", "a")}}, "a=1 b=1"},
		{"what AUFS left", [][]e{{file(".wh..wh.aufs", ""), dir(".wh..wh.plnk", 0), file("a", "1")}}, "a=1"},
		{"a fifo", [][]e{{e{name: "p", kind: tar.TypeFifo}}}, "p?p---------"},
		{"a comment for all", [][]e{{e{kind: tar.TypeXGlobalHeader}, file("a", "1")}}, "a=1"},
		{"names that are no UTF-8", [][]e{{file("\xff\xfe", "1"), dir("\xe9", 0), file("\xe9/ü", "2")}}, "\xe9/ \xe9/ü=2 \xff\xfe=1"},
		{"a name of 255 bytes", [][]e{{file(strings.Repeat("n", 255), "1")}}, strings.Repeat("n", 255) + "=1"},
		{"a long symbolic link", [][]e{{symlink("l", strings.Repeat("x", 4095))}}, "l->" + strings.Repeat("x", 4095)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := tree(t, overlay(t, c.layers...)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// Everything that a tar says of a file.
func TestMetadata(t *testing.T) {
	then := time.Date(2001, 2, 3, 4, 5, 6, 789_000_000, time.UTC)
	at := func(x e) e { x.mtime = then; return x }
	root := unpack(t, with(dir(".", 0o751), func(x *e) { x.mtime = then }),
		at(dir("closed", 0o555)), file("closed/f", "1"), at(dir("none", -1)), file("none/f", "1"),
		at(dir("group", 0o2775)), file("group/f", "1"), dir("group/sub", 0o755), at(dir("tmp", 0o1777)),
		mode4(at(file("setuid", "x")), 0o4755), mode4(file("setgid", "x"), 0o2711), mode4(file("both", "x"), 0o6777),
		mode4(file("secret", "x"), -1), mode4(file("open", "x"), 0o666), at(symlink("link", "setuid")),
		mode4(e{name: "fifo", kind: tar.TypeFifo}, 0o622), file("old", "x"), with(file("ancient", "x"), func(x *e) { x.mtime = time.Unix(-1000, 0) }),
	)
	for name, want := range map[string]uint32{
		".": 0o751, "closed": 0o555, "none": 0, "group": 0o2775, "group/sub": 0o755, "tmp": 0o1777, "setuid": 0o4755, "setgid": 0o2711,
		"both": 0o6777, "secret": 0, "open": 0o666, "fifo": 0o622, "closed/f": 0o644,
	} {
		if got := stat(t, filepath.Join(root, name)).Mode & 0o7777; got != want {
			t.Errorf("%s: got mode %o, want %o", name, got, want)
		}
	}
	for _, name := range []string{".", "closed", "none", "group", "tmp", "setuid", "link"} {
		if got := stat(t, filepath.Join(root, name)).Mtim; got.Sec != then.Unix() || got.Nsec != int64(then.Nanosecond()) {
			t.Errorf("%s: got time %v, want %v", name, got, then)
		}
	}
	if got := stat(t, filepath.Join(root, "ancient")).Mtim.Sec; got != -1000 {
		t.Errorf("ancient: got time %d", got)
	}
	if err := os.Chmod(filepath.Join(root, "none"), 0o700); err != nil {
		t.Fatal(err)
	}
}

// Owners are kept where they can be; with one ID all become root, with a
// warning; an owner that is not mapped is an error that says how to mend it.
func TestOwners(t *testing.T) {
	to, r, err := apply(t, layerOf(t, of(dir("d", 0o750), 33, 44), of(mode4(file("d/f", "x"), 0o6755), 1000, 1001), of(symlink("l", "x"), 5, 6),
		of(e{name: "p", kind: tar.TypeFifo}, 7, 8), file("r", "x")), options())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][2]uint32{"d": {33, 44}, "d/f": {1000, 1001}, "l": {5, 6}, "p": {7, 8}, "r": {0, 0}}
	for name, ids := range want {
		st := stat(t, filepath.Join(to, name))
		if mode == modeSingleID {
			ids = [2]uint32{0, 0}
		}
		if st.Uid != ids[0] || st.Gid != ids[1] {
			t.Errorf("%s: got owner %d:%d, want %d:%d", name, st.Uid, st.Gid, ids[0], ids[1])
		}
	}
	if st := stat(t, filepath.Join(to, "d/f")); st.Mode&0o7777 != 0o6755 { // chown takes the bits away
		t.Errorf("d/f: got mode %o", st.Mode)
	}
	warned := strings.Join(r.Warnings, "\n")
	if squashed := strings.Contains(warned, "4 files belong to other users"); squashed != (mode == modeSingleID) {
		t.Errorf("warnings %q", r.Warnings)
	}
	if mode == modeRoot {
		return
	}
	for _, x := range []e{of(file("etc/big", "x"), 70000, 0), of(file("etc/big", "x"), 0, 70000), of(dir("etc/big", 0), 70000, 0),
		of(symlink("etc/big", "x"), 70000, 70000), of(file("etc/big", "x"), 1<<32-1, 0)} {
		_, r, err := apply(t, layerOf(t, x), options())
		if mode == modeSingleID {
			if err != nil || len(r.Warnings) != 1 {
				t.Errorf("with one ID: %v, warnings %q", err, r.Warnings)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "etc/big") || !strings.Contains(err.Error(), "not mapped") || !strings.Contains(hint.Of(err), "/etc/subuid") {
			t.Errorf("%s of %d:%d: %v; %s", x.name, x.uid, x.gid, err, hint.Of(err))
		}
	}
}

// Devices are made by the machine's root only; others are told which are missing.
func TestDevices(t *testing.T) {
	null := e{name: "dev/null", kind: tar.TypeChar, major: 1, minor: 3, mode: 0o666}
	to, r, err := apply(t, layerOf(t, null, e{name: "dev/loop", kind: tar.TypeBlock, major: 7}, e{name: "dev/fake", kind: tar.TypeChar}, file("f", "x")), options())
	if err != nil {
		t.Fatal(err)
	}
	warned := strings.Join(r.Warnings, "\n")
	if _, err := os.Lstat(filepath.Join(to, "dev/fake")); err == nil {
		t.Error("a device 0:0, which is overlay's whiteout, was made")
	}
	if mode != modeRoot {
		if _, err := os.Lstat(filepath.Join(to, "dev/null")); err == nil || !strings.Contains(warned, "3 device nodes are left out (dev/null, dev/loop, dev/fake)") {
			t.Errorf("warnings %q, /dev/null: %v", r.Warnings, err)
		}
		return
	}
	if st := stat(t, filepath.Join(to, "dev/null")); st.Rdev != unix.Mkdev(1, 3) || st.Mode != unix.S_IFCHR|0o666 {
		t.Errorf("/dev/null has mode %o, device %d", st.Mode, st.Rdev)
	}
	if st := stat(t, filepath.Join(to, "dev/loop")); st.Rdev != unix.Mkdev(7, 0) || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		t.Errorf("/dev/loop has mode %o, device %d", st.Mode, st.Rdev)
	}
}

func xattr(path, name string) string {
	b := make([]byte, 1<<16)
	n, err := unix.Lgetxattr(path, name, b)
	if err != nil {
		return err.Error()
	}
	return string(b[:n])
}

// capNetRaw is security.capability, version 2, with CAP_NET_RAW permitted and
// effective: what "setcap cap_net_raw+ep" writes.
const capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func TestXattrs(t *testing.T) {
	to, r, err := apply(t, layerOf(t,
		of(attribute(mode4(file("ping", "x"), 0o755), "security.capability", capNetRaw), 0, 12),
		attribute(file("note", "x"), "user.note", "hello\x00there"), attribute(dir("d", 0), "user.note", "dir"),
		attribute(file("fake", "x"), "user.overlay.redirect", "/etc"), attribute(dir("opaque", 0), "trusted.overlay.opaque", "y"),
		attribute(dir("opaque2", 0), "user.overlay.opaque", "y"), attribute(file("label", "x"), "security.selinux", "system_u"),
		attribute(symlink("l", "x"), "user.note", "x"),
	), options())
	if err != nil {
		t.Fatal(err)
	}
	// In a user namespace the kernel writes version 3, with the namespace's root
	// in it, and gives back what was written.
	if got := xattr(filepath.Join(to, "ping"), "security.capability"); got != capNetRaw {
		t.Errorf("security.capability: got %q", got)
	}
	for name, want := range map[string]string{"note": "hello\x00there", "d": "dir"} {
		if got := xattr(filepath.Join(to, name), "user.note"); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for name, key := range map[string]string{"fake": "user.overlay.redirect", "opaque": "trusted.overlay.opaque", "opaque2": "user.overlay.opaque"} {
		if got := xattr(filepath.Join(to, name), key); got != unix.ENODATA.Error() {
			t.Errorf("%s has %s: %q", name, key, got)
		}
	}
	want := "security.selinux (1), trusted.overlay.opaque (1), user.note (1), user.overlay.opaque (1), user.overlay.redirect (1)"
	if warned := strings.Join(r.Warnings, "\n"); !strings.Contains(warned, want) {
		t.Errorf("got warnings %q, want %q", r.Warnings, want)
	}
}

// What cannot be unpacked is refused by name.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries []e
		want    string
	}{
		{"out by dots", []e{file("../x", "1")}, `"../x" leads out of the layer`},
		{"out by more dots", []e{file("a/../../x", "1")}, `"a/../../x" leads out of the layer`},
		{"a whiteout out", []e{file("../.wh.x", "")}, "leads out of the layer"},
		{"a hard link out", []e{hardLink("x", "../../etc/passwd")}, `"x": a hard link to "../../etc/passwd", which is out of the layer`},
		{"a hard link out by a symbolic one", []e{symlink("l", "/etc"), hardLink("x", "l/passwd")}, `a hard link to "l/passwd": no such file`},
		{"a hard link to nothing", []e{hardLink("x", "etc/passwd")}, `a hard link to "etc/passwd": no such file`},
		{"a hard link to what comes later", []e{hardLink("x", "y"), file("y", "")}, "which the layer does not have before it"},
		{"a hard link to a directory", []e{dir("d", 0), hardLink("x", "d")}, "which is a directory"},
		{"a hard link to a whiteout", []e{file(".wh.a", ""), hardLink("x", "a")}, "which the layer removes"},
		{"a file below a file", []e{file("f", "1"), file("f/x", "1")}, `"f/x": not a directory`},
		{"links in a circle", []e{symlink("a", "b"), symlink("b", "a"), file("a/x", "1")}, `"a/x": too many levels of symbolic links`},
		{"a long name", []e{file(strings.Repeat("n", 256), "1")}, "file name too long"},
		{"a whiteout of dots", []e{file(".wh...", "")}, `".wh...": it marks nothing as removed`},
		{"a whiteout of nothing", []e{file(".wh.", "")}, "it marks nothing as removed"},
		{"a file as the root", []e{e{name: ".", data: "x", kind: tar.TypeReg}}, `"." is no name for a file`},
		{"deep", []e{file(strings.Repeat("d/", 600)+"x", "1")}, "more than 512 directories in each other"},
		{"a large attribute", []e{attribute(file("f", ""), "user.x", strings.Repeat("x", 1<<16+1))}, `"f": extended attribute user.x of 65537 bytes`},
		{"an attribute of more than a block", []e{attribute(file("f", ""), "user.x", strings.Repeat("x", 1<<15))}, `"f": extended attribute user.x is larger than the file system takes`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := apply(t, layerOf(t, c.entries...), options())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	t.Run("an unknown type", func(t *testing.T) {
		_, _, err := apply(t, layerOf(t, e{name: "m", kind: 'M'}), options())
		if err == nil || !strings.Contains(err.Error(), `"m" is of a type that no layer has ('M')`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("cut short", func(t *testing.T) {
		data := layerOf(t, file("f", strings.Repeat("x", 5000)))
		for _, n := range []int{100, 512 + 100, 512 + 4999} {
			if _, _, err := apply(t, data[:n], options()); err == nil {
				t.Errorf("%d bytes of a tar are taken for all of it", n)
			}
		}
	})
}

func TestLimits(t *testing.T) {
	many := []e{}
	for i := range 20 {
		many = append(many, file(fmt.Sprintf("a%d/b", i), "0123456789"))
	}
	o := options()
	for name, c := range map[string]struct {
		limits untar.Limits
		data   []byte
		ok     bool
	}{
		"entries, directories too": {untar.Limits{Entries: 39}, layerOf(t, many...), false},
		"entries enough":           {untar.Limits{Entries: 40}, layerOf(t, many...), true},
		"bytes":                    {untar.Limits{Bytes: 4096}, layerOf(t, file("f", strings.Repeat("x", 5000))), false},
		"bytes of the tar":         {untar.Limits{Bytes: 10000}, layerOf(t, many...), false},
		"bytes after the tar":      {untar.Limits{Bytes: 10000}, append(layerOf(t, file("f", "x")), make([]byte, 10000)...), false},
		"bytes enough":             {untar.Limits{Bytes: 100000}, layerOf(t, many...), true},
	} {
		o.Limits = c.limits
		if _, _, err := apply(t, c.data, o); (err == nil) != c.ok || err != nil && !errors.Is(err, untar.ErrLimit) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A path that the kernel takes in no single call.
func TestPathBeyondPathMax(t *testing.T) {
	step := strings.Repeat("s", 200)
	name := strings.Repeat(step+"/", 40) // 8 KiB
	to := unpack(t, file(name+"f", "deep"), hardLink("here", name+"f"), file(name+"g", "too"))
	if data, err := os.ReadFile(filepath.Join(to, "here")); err != nil || string(data) != "deep" {
		t.Errorf("got %q, %v", data, err)
	}
	at, err := os.OpenRoot(to)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = at.Close() }()
	for range 40 {
		next, err := at.OpenRoot(step)
		if err != nil {
			t.Fatal(err)
		}
		_ = at.Close()
		at = next
	}
	if data, err := at.ReadFile("g"); err != nil || string(data) != "too" {
		t.Errorf("got %q, %v", data, err)
	}
}
