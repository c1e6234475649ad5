// Command busybox makes a busybox image from the host's static busybox
// (Debian's busybox-static) and pushes it to a registry.
//
//	busybox REGISTRY/REPOSITORY:TAG ...
//
// It serves tests and the demo, which have no way to the internet.
package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"io"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: busybox REGISTRY/REPOSITORY:TAG ...")
		os.Exit(2)
	}
	img, err := build("/bin/busybox")
	if err == nil {
		err = push(img, os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "busybox:", err)
		os.Exit(1)
	}
}

// files of the image besides busybox and its links.
var files = map[string]string{
	"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nnobody:x:65534:65534::/home:/bin/false\n",
	"etc/group":  "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n",
}

// build makes an image of one layer: the program at path with a link for each
// of its applets.
func build(path string) (v1.Image, error) {
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w (is busybox-static installed?)", err)
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list applets: %w", err)
	}
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	add := func(h tar.Header, data string) {
		h.ModTime = time.Unix(0, 0)
		h.Size = int64(len(data))
		if err == nil {
			err = t.WriteHeader(&h)
		}
		if err == nil {
			_, err = io.WriteString(t, data)
		}
	}
	for _, dir := range []string{"bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "usr/bin", "var", "var/www"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, "")
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(program))
	for _, a := range strings.Fields(string(applets)) {
		if a != "busybox" {
			add(tar.Header{Typeflag: tar.TypeLink, Name: "bin/" + a, Linkname: "bin/busybox", Mode: 0o755}, "")
		}
	}
	for name, text := range files {
		add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, text)
	}
	if err == nil {
		err = t.Close()
	}
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Cmd = []string{"sh"}
	config.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	config.Created = v1.Time{Time: time.Unix(0, 0)}
	return mutate.ConfigFile(img, config)
}

func push(img v1.Image, refs []string) error {
	for _, r := range refs {
		ref, err := name.ParseReference(r, name.Insecure)
		if err != nil {
			return err
		}
		if err := remote.Write(ref, img); err != nil {
			return err
		}
	}
	return nil
}
