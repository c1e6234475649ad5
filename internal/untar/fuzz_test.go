package untar_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/untar"
)

// Whatever a tar holds, nothing outside the directory changes, what is inside
// can be removed, and no limit is passed.
func FuzzApply(f *testing.F) {
	for _, entries := range [][]e{
		{dir("d", 0o750), file("d/f", "data"), symlink("l", "d"), hardLink("h", "d/f"), file("d/.wh.x", ""), file("d/.wh..wh..opq", "")},
		{file("../canary", "x"), file("/canary", "x"), file("a/../../canary", "x")},
		{symlink("up", ".."), file("up/canary", "x"), hardLink("c", "up/canary"), file("up/.wh.canary", "")},
		{symlink("abs", "/"), file("abs/x", "y"), symlink("abs", "d"), dir("abs", 0), file("abs/z", "y")},
		{dir("d", 0), symlink("d", "/tmp"), file("d/x", ""), file(".wh.d", ""), dir("d", -1), file("d/y", "")},
		{symlink("a", "b"), symlink("b", "a"), file("a/x", "")},
		{e{name: "dev", kind: tar.TypeChar, major: 1, minor: 3}, e{name: "p", kind: tar.TypeFifo, mode: 0o7777}, of(mode4(file("s", "x"), 0o6755), 5, 70000)},
		{attribute(mode4(file("ping", "x"), 0o755), "security.capability", capNetRaw), attribute(dir("o", 0), "user.overlay.opaque", "y")},
	} {
		f.Add(layerOf(f, entries...))
	}
	if sparse, err := sparseTar(f.TempDir()); err == nil {
		f.Add(sparse)
	}
	f.Fuzz(func(t *testing.T, data []byte) { contained(t, repair(data)) })
}

// The same with names and links in the place of bytes: a line for each entry,
// its kind, name and target.
func FuzzEntries(f *testing.F) {
	for _, script := range []string{
		"d a\nf a/b\ns l a\nf l/c\nh x a/b\nf a/.wh.b\nf a/.wh..wh..opq",
		"s up ..\nf up/canary\nf up/../canary\nh c up/canary\nf up/.wh.canary",
		"s abs /\nf abs/x\nd abs\nf abs/y\ns abs ../..\nf abs/canary",
		"f .wh.d\nd d\nf d/a\nf d\nd d\nf .wh.d\nh d d",
		"s a b\ns b a\nf a/x\nd a/../b", "p p\nc c\nd .\nf .\nd ..", "d a\ns a/l ../../..\nf a/l/canary\nh a/h a/l/canary",
	} {
		f.Add(script)
	}
	kinds := map[string]byte{"d": tar.TypeDir, "f": tar.TypeReg, "s": tar.TypeSymlink, "h": tar.TypeLink, "p": tar.TypeFifo, "c": tar.TypeChar}
	f.Fuzz(func(t *testing.T, script string) {
		var entries []e
		for line := range strings.Lines(script) {
			kind, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			name, target, _ := strings.Cut(rest, " ")
			if kinds[kind] == 0 || name == "" || strings.Contains(rest, "\x00") {
				continue
			}
			x := e{name: name, link: target, kind: kinds[kind], mode: 0o4751}
			if x.kind == tar.TypeReg {
				x.data = target
			}
			if x.kind != tar.TypeDir && strings.HasSuffix(name, "/") || !utf8.ValidString(rest) {
				continue // archive/tar does not write it
			}
			entries = append(entries, x)
		}
		contained(t, layerOf(t, entries...))
	})
}

// contained unpacks a tar and looks around.
func contained(t *testing.T, data []byte) {
	outer := tempDir(t)
	canary, inside := filepath.Join(outer, "canary"), filepath.Join(outer, "layer")
	if err := os.WriteFile(canary, []byte("alive"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	before := [2]unix.Stat_t{stat(t, outer), stat(t, canary)}
	o := options()
	o.Limits = untar.Limits{Bytes: 1 << 20, Entries: 200}
	r, err := untar.Apply(t.Context(), inside, bytes.NewReader(data), o)
	if err == nil && (r.Size > o.Limits.Bytes || r.Entries > o.Limits.Entries) {
		t.Errorf("%d bytes and %d entries are let through", r.Size, r.Entries)
	}
	for i, path := range []string{outer, canary} {
		after := stat(t, path)
		after.Atim = before[i].Atim // the test reads
		if after != before[i] {
			t.Errorf("%s was %+v and is %+v", filepath.Base(path), before[i], after)
		}
	}
	if got, err := os.ReadFile(canary); err != nil || string(got) != "alive" {
		t.Errorf("the canary is %q, %v", got, err)
	}
	if st := stat(t, inside); st.Mode&unix.S_IFMT != unix.S_IFDIR {
		t.Errorf("the layer is no directory any more")
	}
}

// repair gives the headers in a tar the checksums that they should have:
// without it hardly any change would be looked at.
func repair(data []byte) []byte {
	data = bytes.Clone(data)
	for at := 0; at+512 <= len(data); at += 512 {
		b := data[at : at+512]
		if !bytes.HasPrefix(b[257:], []byte("ustar")) {
			continue
		}
		copy(b[148:156], "        ")
		sum := 0
		for _, c := range b {
			sum += int(c)
		}
		copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	}
	return data
}

// sparseTar is a small sparse file as GNU tar writes it.
func sparseTar(dir string) ([]byte, error) {
	f, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteAt([]byte("x"), 100_000); err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	return exec.Command("tar", "--format=pax", "--sparse", "-C", dir, "-cf", "-", "sparse").Output()
}
