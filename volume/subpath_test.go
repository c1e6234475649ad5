package volume_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/volume"
)

// secretOutside makes a volume, and beside it what must never be seen from
// inside.
func secretOutside(t *testing.T) (m *volume.Manager, v volume.Volume, outside string) {
	t.Helper()
	base := t.TempDir()
	v.Path, outside = filepath.Join(base, "volume"), filepath.Join(base, "outside")
	for _, d := range []string{v.Path, outside, filepath.Join(v.Path, "dir", "deep")} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(outside, "secret"), []byte("hush"), 0o600), os.WriteFile(filepath.Join(v.Path, "file"), []byte("mine"), 0o600), os.Chmod(v.Path, 0o777)); err != nil {
		t.Fatal(err)
	}
	m = volume.New(t.TempDir(), t.TempDir())
	t.Cleanup(func() {
		if err := m.Remove("u"); err != nil {
			t.Error(err)
		}
	})
	return m, v, outside
}

func TestSubPath(t *testing.T) {
	m, v, outside := secretOutside(t)
	for link, to := range map[string]string{
		"inside": "dir/deep", "up": "dir/../dir/deep", "out": "../outside", "absolute": outside, "root": "/", "nowhere": "no/such",
		"dir/out": "../../outside", "proc": "/proc/self/root", "dots": "dir/../../outside", "loop": "loop", "filelink": "../outside/secret",
	} {
		if err := os.Symlink(to, filepath.Join(v.Path, link)); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range []struct{ path, err string }{
		{"dir", ""}, {"dir/deep", ""}, {"file", ""}, {"inside", ""}, {"up", ""}, {"new/made/here", ""}, {"inside/new", ""}, {"dir/./deep/", ""},
		{"out", "leads out of the volume"}, {"absolute", "leads out of the volume"}, {"root", "leads out of the volume"},
		{"root/etc", "leads out of the volume"}, {"dir/out", "leads out of the volume"}, {"dir/out/new", "leads out of the volume"},
		{"proc", "leads out of the volume"}, {"dots", "leads out of the volume"}, {"filelink", "leads out of the volume"}, {"loop", "too many links"},
		{"nowhere", "no such file or directory"}, {"file/x", "not a directory"},
		{"../outside", "must be a relative path without '..'"}, {"/etc", "must be a relative path"}, {"dir/../../outside", "must be a relative path"},
	} {
		place, err := m.SubPath("u", "id", i, v, c.path)
		switch {
		case c.err == "" && err != nil:
			t.Errorf("%s: %v", c.path, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: %s, %v, want %q", c.path, place, err, c.err)
		case c.err == "":
			var want, got unix.Stat_t
			if err := errors.Join(unix.Stat(filepath.Join(v.Path, c.path), &want), unix.Stat(place, &got)); err != nil || want.Ino != got.Ino {
				t.Errorf("%s: another file (%v)", c.path, err)
			}
		}
	}
	for _, made := range []string{"new", "new/made", "new/made/here"} {
		if info, err := os.Stat(filepath.Join(v.Path, made)); err != nil || info.Mode().Perm() != 0o777 {
			t.Errorf("%s is not as open as the volume: %v", made, err)
		}
	}
	if found, err := os.ReadDir(outside); err != nil || len(found) != 1 {
		t.Errorf("something was made outside: %v %v", found, err)
	}
	for range 2 {
		for i := range 30 {
			if err := m.ReleaseSubPath("u", "id", i); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestSubPathRaces swaps what a path leads to while it is mounted, in the ways
// that CVE-2017-1002101, CVE-2021-25741 and CVE-2021-30465 did.
func TestSubPathRaces(t *testing.T) {
	m, v, outside := secretOutside(t)
	in := func(name string) string { return filepath.Join(v.Path, name) }
	if err := errors.Join(os.Mkdir(in("flip"), 0o777), os.Symlink(outside, in("flop")), os.Mkdir(in("dir/a"), 0o777), os.Symlink("../../outside", in("dir/b"))); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	swap := func(a, b string) {
		wg.Go(func() {
			for !stop.Load() {
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		})
	}
	swap(in("flip"), in("flop"))   // the last part: a directory, a link outside
	swap(in("dir/a"), in("dir/b")) // a part on the way
	wg.Go(func() {                 // made, and replaced at once
		for !stop.Load() {
			_ = os.Remove(in("made"))
			_ = os.Symlink(outside, in("made"))
			_ = os.Remove(in("made"))
		}
	})
	mounted := 0
	for i := range 300 {
		path := []string{"flip", "dir/a/sub", "made", "made/sub", "dir/a"}[i%5]
		place, err := m.SubPath("u", "id", i, v, path)
		if err == nil {
			mounted++
			if _, err := os.Stat(filepath.Join(place, "secret")); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("%s came out of the volume: %v", path, err)
			}
		}
		if err := m.ReleaseSubPath("u", "id", i); err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	wg.Wait()
	if mounted == 0 {
		t.Error("nothing was ever mounted")
	}
	if found, err := os.ReadDir(outside); err != nil || len(found) != 1 {
		t.Errorf("something was made outside: %v %v", found, err)
	}
	t.Logf("%d of 300 mounted", mounted)
}

// TestSubPathSwappedLater swaps the path after it was mounted: the container
// gets what was found.
func TestSubPathSwappedLater(t *testing.T) {
	m, v, outside := secretOutside(t)
	place, err := m.SubPath("u", "id", 0, v, "dir")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(filepath.Join(v.Path, "dir"), filepath.Join(v.Path, "old")), os.Symlink(outside, filepath.Join(v.Path, "dir"))); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(place, "deep")); err != nil {
		t.Error(err)
	}
	// What a crash leaves, Remove removes.
	if err := m.Remove("u"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(v.Path, "old", "deep")); err != nil {
		t.Errorf("a mount was followed: %v", err)
	}
}

func TestOpen(t *testing.T) {
	_, v, outside := secretOutside(t)
	if err := errors.Join(os.Symlink(filepath.Join(outside, "secret"), filepath.Join(v.Path, "out")), os.Symlink("file", filepath.Join(v.Path, "link")), unix.Mkfifo(filepath.Join(v.Path, "fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"file": "mine", "link": "mine", "out": "leads out of the volume", "../outside/secret": "leads out of the volume", "fifo": "not a regular file",
		"dir": "not a regular file", "no": "no such file",
	} {
		f, err := volume.Open(v, path)
		got := fmt.Sprint(err)
		if err == nil {
			data, _ := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
			got = string(data)
			_ = f.Close()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %q", path, got, want)
		}
	}
}
