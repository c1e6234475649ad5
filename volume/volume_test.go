package volume_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"get.podrun.dev/podrun/internal/need"
	"get.podrun.dev/podrun/volume"
)

func TestMain(m *testing.M) { need.AsRoot(m, 0, nil) }

func podWith(uid string, sources ...corev1.VolumeSource) *corev1.Pod {
	p := &corev1.Pod{}
	p.UID = types.UID(uid)
	for i, s := range sources {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: fmt.Sprint("v", i), VolumeSource: s})
	}
	return p
}

func emptyDir(medium corev1.StorageMedium, limit string) corev1.VolumeSource {
	e := &corev1.EmptyDirVolumeSource{Medium: medium}
	if limit != "" {
		q := resource.MustParse(limit)
		e.SizeLimit = &q
	}
	return corev1.VolumeSource{EmptyDir: e}
}

func TestEmptyDir(t *testing.T) {
	data, state := t.TempDir(), t.TempDir()
	m := volume.New(data, state)
	p := podWith("u", emptyDir("", ""), emptyDir(corev1.StorageMediumMemory, "64Ki"))
	first, err := m.Prepare(p, nil)
	if err != nil {
		t.Fatal(err)
	}
	disk, memory := first["v0"].Path, first["v1"].Path
	if info, err := os.Stat(disk); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("mode %v, %v; any user of a container may write", info.Mode(), err)
	}
	for _, dir := range []string{disk, memory} {
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(memory, "big"), make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("1 MiB into 64 KiB of memory: %v", err)
	}
	// A restart of the pod finds what is in them, and mounts nothing twice.
	if again, err := m.Prepare(p, nil); err != nil || again["v1"] != first["v1"] {
		t.Errorf("again: %v, %v", again, err)
	}
	for _, dir := range []string{disk, memory} {
		if _, err := os.Stat(filepath.Join(dir, "f")); err != nil {
			t.Errorf("lost: %v", err)
		}
	}
	for range 2 { // it may be asked twice
		if err := m.Remove("u"); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{disk, memory} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left: %s, %v", dir, err)
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), state) {
		t.Errorf("a mount is left below %s (%v)", state, err)
	}
}

// TestUsage: blocks are counted as du does it, also where no path reaches.
func TestUsage(t *testing.T) {
	data := t.TempDir()
	m := volume.New(data, t.TempDir())
	v, err := m.Prepare(podWith("u", emptyDir("", "1Mi")), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Remove("u") })
	dir := v["v0"].Path
	if err := errors.Join(os.WriteFile(dir+"/f", make([]byte, 1<<16), 0o600), os.Link(dir+"/f", dir+"/same"), os.Symlink("/etc", dir+"/link"), os.Mkdir(dir+"/d", 0o700)); err != nil {
		t.Fatal(err)
	}
	usage := func() int64 {
		t.Helper()
		used, err := m.Usage("u", "v0")
		if err != nil {
			t.Fatal(err)
		}
		return used
	}
	shallow := usage()
	if shallow < 1<<16 || shallow > 1<<17 {
		t.Errorf("got %d bytes for 64 KiB with two names", shallow)
	}
	// Twice as deep as a path can be long, and something at every level.
	fd, err := unix.Open(dir, unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	name, levels := strings.Repeat("n", 200), 2*unix.PathMax/200
	for range levels {
		if err := unix.Mkdirat(fd, name, 0o700); err != nil {
			t.Fatal(err)
		}
		below, err := unix.Openat(fd, name, unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(fd)
		fd = below
		file, err := unix.Openat(fd, "a", unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(file, make([]byte, 1<<16)); err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(file)
	}
	_ = unix.Close(fd)
	if deep := usage() - shallow; deep < int64(levels)<<16 || deep > int64(levels)<<17 {
		t.Errorf("got %d bytes more for %d files of 64 KiB", deep, levels)
	}
}

func TestSweep(t *testing.T) {
	m := volume.New(t.TempDir(), t.TempDir())
	paths := map[string]string{}
	for _, uid := range []string{"kept", "gone"} {
		v, err := m.Prepare(podWith(uid, emptyDir(corev1.StorageMediumMemory, ""), emptyDir("", "")), nil)
		if err != nil {
			t.Fatal(err)
		}
		paths[uid] = v["v1"].Path
	}
	if err := m.Sweep(map[string]bool{"kept": true}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(paths["kept"]); err != nil {
		t.Errorf("kept: %v", err)
	}
	if _, err := os.Stat(paths["gone"]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("gone: %v", err)
	}
	if err := m.Remove("kept"); err != nil {
		t.Fatal(err)
	}
}

func TestHostPath(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m := volume.New(t.TempDir(), t.TempDir())
	for _, c := range []struct {
		path string
		kind corev1.HostPathType
		err  string
	}{
		{dir, corev1.HostPathUnset, ""},
		{dir, corev1.HostPathDirectory, ""},
		{file, corev1.HostPathFile, ""},
		{filepath.Join(dir, "new"), corev1.HostPathDirectoryOrCreate, ""},
		{filepath.Join(dir, "newfile"), corev1.HostPathFileOrCreate, ""},
		{"/dev/null", corev1.HostPathCharDev, ""},
		{file, corev1.HostPathDirectory, "hostPath type check failed: " + file + " is not a directory"},
		{dir, corev1.HostPathFile, "is not a file"},
		{dir, corev1.HostPathSocket, "is not a socket file"},
		{"/dev/null", corev1.HostPathBlockDev, "is not a block device"},
		{filepath.Join(dir, "nosuch"), corev1.HostPathDirectory, "is not a directory"},
		{filepath.Join(dir, "made"), corev1.HostPathUnset, ""},
	} {
		v, err := m.Prepare(podWith("u", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: c.path, Type: &c.kind}}), nil)
		switch {
		case c.err == "" && (err != nil || v["v0"].Path != c.path):
			t.Errorf("%s as %q: %v, %v", c.path, c.kind, v, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s as %q: %v, want %q", c.path, c.kind, err, c.err)
		}
	}
}
