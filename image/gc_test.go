package image_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/image"
)

// randomText does not compress.
func randomText(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return string(b)
}

func nobody() (map[image.Digest][]string, error) { return nil, nil }

// names are the familiar last parts of the names of the images in s.
func imageNames(t *testing.T, s *image.Store) string {
	t.Helper()
	images, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range "abcdef" {
		for _, img := range images {
			if len(img.References) > 0 && strings.HasSuffix(img.References[0], "/"+string(c)+":latest") {
				names = append(names, string(c))
			}
		}
	}
	return strings.Join(names, "")
}

// On a disk that is too full compressed layers go first, then the images that
// have not been used for the longest time, until it is empty enough. What is in
// use stays, what is new stays.
func TestCollect(t *testing.T) {
	srv := newServer(t)
	dir := t.TempDir()
	const mb = 1 << 20
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", 32*mb)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s := openStore(t, dir)
	ids := map[string]image.Digest{}
	for _, name := range []string{"a", "b", "c", "d"} {
		srv.push(t, name, imageOf(t, tarOf(t, entry{name: name, data: randomText(3 * mb)})))
		img, err := s.Pull(t.Context(), parse(t, srv.host+"/"+name), image.PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = img.ID
	}
	// a, the oldest, has just been asked for again.
	if _, err := s.Pull(t.Context(), parse(t, srv.host+"/a"), image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	policy := image.GCPolicy{High: 60, Low: 50, MinAge: 2 * time.Minute, Period: time.Minute}
	collect := func(p image.GCPolicy, in time.Duration, users map[image.Digest][]string) image.Collected {
		t.Helper()
		c, err := s.Collect(p, func() (map[image.Digest][]string, error) { return users, nil }, time.Now().Add(in))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	// 24 of 32 MB are in use: layers are enough, and all images still run.
	c := collect(policy, time.Hour, nil)
	if c.Layers != 3 || len(c.Images) != 0 || imageNames(t, s) != "abcd" {
		t.Errorf("collected %+v, left %s; want three layers", c, imageNames(t, s))
	}
	img, err := s.Lookup(parse(t, srv.host+"/b"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(mount(t, s, img), "b")); err != nil {
		t.Errorf("file of an image without compressed layers: %v", err)
	}
	if c := collect(policy, time.Hour, nil); c.Layers != 0 || c.Freed != 0 {
		t.Errorf("collected again %+v", c)
	}
	// Less must do: images go, but not c, which is in use, and of the others the
	// one first that was not used for the longest time.
	policy.High, policy.Low = 35, 30
	if c := collect(policy, time.Minute, nil); len(c.Images) != 0 || c.Short == 0 {
		t.Errorf("collected %+v of images that are too new", c)
	}
	users := map[image.Digest][]string{ids["c"]: {"container x of pod y"}}
	c = collect(policy, time.Hour, users)
	if got := imageNames(t, s); got != "abc" {
		t.Errorf("left %s, want abc: %+v", got, c)
	}
	policy.High, policy.Low = 1, 0
	if c = collect(policy, 3*time.Hour, users); imageNames(t, s) != "c" || c.Short == 0 {
		t.Errorf("left %s, want what is in use: %+v", imageNames(t, s), c)
	}
	if layers, _ := os.ReadDir(filepath.Join(dir, "layers")); len(layers) != 1 {
		t.Errorf("%d layers, want c's", len(layers))
	}
	// By age alone, on a disk that has room; c counts as used until now.
	policy.High, policy.Low, policy.MaxAge = 100, 100, time.Hour
	if c = collect(policy, 3*time.Hour+30*time.Minute, nil); len(c.Images) != 0 {
		t.Errorf("collected %+v before its age", c)
	}
	if c = collect(policy, 5*time.Hour, nil); len(c.Images) != 1 || imageNames(t, s) != "" {
		t.Errorf("collected %+v, left %s", c, imageNames(t, s))
	}
}

// What was loaded or imported is nowhere else: its layers stay while it does.
func TestCollectLoaded(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	if _, err := s.Load(t.Context(), bytes.NewReader(oldArchive(t, "a:b", imageOf(t, tarOf(t, entry{name: "f"})))), nil); err != nil {
		t.Fatal(err)
	}
	c, err := s.Collect(image.GCPolicy{High: 1, MinAge: time.Hour}, nobody, time.Now())
	if err != nil || c.Layers != 0 || len(c.Images) != 0 {
		t.Errorf("collected %+v, %v", c, err)
	}
	if got := blobNames(t, dir); len(got) != 3 {
		t.Errorf("%d blobs, want 3", len(got))
	}
}

// A full disk says so, and leaves the store as it was.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	const mb = 1 << 20
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", 8*mb)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s := openStore(t, dir)
	root := tarOf(t, entry{name: "f", data: randomText(6 * mb)})
	archive := oldArchive(t, "a:b", imageOf(t, root))
	srv := newServer(t)
	srv.push(t, "a", imageOf(t, root))
	for what, do := range map[string]func() error{
		"load": func() error { _, err := s.Load(t.Context(), bytes.NewReader(archive), nil); return err },
		"import": func() error {
			_, err := s.Import(t.Context(), bytes.NewReader(root), image.ImportOptions{})
			return err
		},
		"pull": func() error {
			_, err := s.Pull(t.Context(), parse(t, srv.host+"/a"), image.PullOptions{})
			return err
		},
	} {
		if err := do(); err == nil || !strings.Contains(err.Error(), "no space left on the disk") {
			t.Errorf("%s: %v", what, err)
		}
		if left := leftovers(t, dir); len(left) != 0 {
			t.Errorf("%s left in tmp: %v", what, left)
		}
		if images, _ := s.List(); len(images) != 0 {
			t.Errorf("%s left %v", what, images)
		}
	}
}

func TestGCPolicyFromEnvironment(t *testing.T) {
	p, err := image.GCPolicyFromEnvironment()
	if err != nil || p != image.DefaultGCPolicy() {
		t.Errorf("policy %+v, %v", p, err)
	}
	t.Setenv("PODRUN_IMAGE_GC_HIGH_THRESHOLD", "50")
	if _, err := image.GCPolicyFromEnvironment(); err == nil || !strings.Contains(err.Error(), "not below the 50") {
		t.Errorf("thresholds in the wrong order: %v", err)
	}
	t.Setenv("PODRUN_IMAGE_GC_LOW_THRESHOLD", "40")
	t.Setenv("PODRUN_IMAGE_MAXIMUM_GC_AGE", "24h")
	if p, err = image.GCPolicyFromEnvironment(); err != nil || p.High != 50 || p.Low != 40 || p.MaxAge != 24*time.Hour {
		t.Errorf("policy %+v, %v", p, err)
	}
	t.Setenv("PODRUN_IMAGE_MINIMUM_GC_AGE", "soon")
	if _, err := image.GCPolicyFromEnvironment(); err == nil || !strings.Contains(err.Error(), "PODRUN_IMAGE_MINIMUM_GC_AGE") {
		t.Errorf("an age that is none: %v", err)
	}
}
