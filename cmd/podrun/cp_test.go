package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnpackHostile: whatever an archive that comes out of a container says,
// nothing is written outside the destination, and no link is made
// (CVE-2018-1002100, CVE-2019-1002101, CVE-2019-11246, -11249, -11251).
func TestUnpackHostile(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	dir := tar.Header{Typeflag: tar.TypeDir, Name: "src/", Mode: 0o755}
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	for _, tt := range []struct {
		name    string
		entries []tar.Header
		fails   bool
	}{
		{"up", []tar.Header{dir, file("../out")}, true},
		{"up from the base", []tar.Header{dir, file("src/../../out")}, true},
		{"up in the middle", []tar.Header{dir, file("src/a/../../../out")}, true},
		{"absolute", []tar.Header{dir, file("/out")}, true},
		{"the base's beginning", []tar.Header{dir, file("srcout")}, true},
		{"first up", []tar.Header{file("../out")}, true},
		{"a file where the directory is", []tar.Header{dir, file("src")}, true},
		{"a second first", []tar.Header{file("src"), file("src/out")}, true},
		{"through a link", []tar.Header{dir, link("src/l", ".."), file("src/l/out")}, true},
		{"through an absolute link", []tar.Header{dir, link("src/l", "/"), file("src/l/out")}, true},
		{"through two links", []tar.Header{dir, link("src/a", "b"), link("src/b", ".."), file("src/a/out")}, true},
		{"over a link", []tar.Header{dir, link("src/out", "../../out"), file("src/out")}, false},
		{"the base a link", []tar.Header{link("src", "..")}, true},
		{"hard link", []tar.Header{dir, {Typeflag: tar.TypeLink, Name: "src/out", Linkname: "../../secret"}}, false},
		{"device", []tar.Header{dir, {Typeflag: tar.TypeChar, Name: "src/out", Devmajor: 1, Devminor: 3}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range tt.entries {
				if h.Typeflag == tar.TypeReg {
					h.Size = 4
				}
				if err := w.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
				if h.Typeflag == tar.TypeReg {
					_, _ = w.Write([]byte("evil"))
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			top := t.TempDir()
			secret := filepath.Join(top, "secret")
			if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = null.Close() }()
			dest := filepath.Join(top, "a", "dest")
			u := unpacking{c: &cli{err: null}, base: "src"}
			if err := u.unpack(&b, dest); (err != nil) != tt.fails {
				t.Errorf("got error %v, want one: %v", err, tt.fails)
			}
			_ = filepath.Walk(top, func(path string, info os.FileInfo, err error) error {
				switch {
				case err != nil:
					return err
				case info.Mode()&os.ModeSymlink != 0 || info.Mode()&os.ModeDevice != 0:
					t.Errorf("%s is %v", path, info.Mode())
				case info.IsDir() || path == secret || path == dest || strings.HasPrefix(path, dest+"/"):
				default:
					t.Errorf("%s was written", path)
				}
				return nil
			})
			if b, err := os.ReadFile(secret); err != nil || string(b) != "secret" {
				t.Errorf("got %q, %v", b, err)
			}
		})
	}
}

// TestUnpackOldLink: a link that was in the destination leads nowhere else.
func TestUnpackOldLink(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "src/", Mode: 0o755})
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "src/l/out", Mode: 0o644})
	_ = w.Close()
	top := t.TempDir()
	dest := filepath.Join(top, "dest")
	if err := os.Mkdir(dest, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(top, filepath.Join(dest, "l")); err != nil {
		t.Fatal(err)
	}
	u := unpacking{c: &cli{}, base: "src"}
	if err := u.unpack(&b, dest); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(filepath.Join(top, "out")); err == nil {
		t.Error("it was written outside")
	}
}
