package main

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An archive that comes out of a container: a line for each entry, its kind,
// name and target. Nothing is written outside the destination, and no link made.
func FuzzUnpack(f *testing.F) {
	for _, s := range []string{
		"d src\nf src/a\nd src/b\nf src/b/c", "f src", "d src\nf ../out", "d src\ns src/l ..\nf src/l/out", "d src\nh src/out ../secret\nf src/out",
		"s src ..\nd src", "d src\nf src/a\nd src/a\nf src/a/b", "f src\nf src", "d src\nd src/../..\nf src//../x", "d src/.\nf src/./../../out", "c src\np src/x",
	} {
		f.Add(s)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		f.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	kinds := map[string]byte{"d": tar.TypeDir, "f": tar.TypeReg, "s": tar.TypeSymlink, "h": tar.TypeLink, "c": tar.TypeChar, "p": tar.TypeFifo}
	f.Fuzz(func(t *testing.T, script string) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for line := range strings.Lines(script) {
			kind, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			name, target, _ := strings.Cut(rest, " ")
			h := &tar.Header{Typeflag: kinds[kind], Name: name, Linkname: target, Mode: 0o7777, Format: tar.FormatPAX}
			if kinds[kind] == tar.TypeDir {
				h.Name += "/"
			}
			if name == "" || h.Typeflag == 0 || w.WriteHeader(h) != nil {
				continue // archive/tar does not write it
			}
		}
		_ = w.Close()
		top, err := os.MkdirTemp("", "unpack")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(top) }()
		dest := filepath.Join(top, "a", "dest")
		u := unpacking{c: &cli{err: null}, base: "src"}
		_ = u.unpack(&b, dest)
		err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.Type()&^fs.ModeDir != 0:
				t.Errorf("%s is %v", path, d.Type())
			case d.IsDir() && strings.HasPrefix(dest+"/", path+"/") || path == dest || strings.HasPrefix(path, dest+"/"):
			default:
				t.Errorf("%s was made", path)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
