package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// busyboxPath is where Debian's busybox-static has its program.
const busyboxPath = "/bin/busybox"

// File is an entry of a layer: a directory if Name ends with a slash, a
// symbolic link if Link is set, else a regular file.
type File struct {
	Name     string // without a leading slash
	Mode     int64
	UID, GID int
	Link     string
	Data     []byte
}

// Layer packs files, gzip'ed.
func Layer(files ...File) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Mode: f.Mode, Uid: f.UID, Gid: f.GID, Typeflag: tar.TypeReg, Size: int64(len(f.Data))}
		switch {
		case f.Link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		case strings.HasSuffix(f.Name, "/"):
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarLayer(b.Bytes(), gzip.BestSpeed)
}

// tarLayer makes a layer of a tar, gzip'ed.
func tarLayer(plain []byte, level int) (v1.Layer, error) {
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(plain)), nil
	}, tarball.WithCompressionLevel(level))
}

// Image puts layers on top of each other, for this machine's architecture.
func Image(config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	image, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	return mutate.ConfigFile(image, file)
}

// Busybox makes an image like docker.io's busybox from Debian's busybox-static:
// the program, a link to it for each of its applets, and the users root and
// nobody. It runs sh.
func Busybox() (v1.Image, error) {
	layer, err := busyboxLayer()
	if err != nil {
		return nil, fmt.Errorf("make an image of %s: %w", busyboxPath, err)
	}
	return Image(v1.Config{
		Cmd: []string{"sh"},
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}, layer)
}

func busyboxLayer() (v1.Layer, error) {
	program, err := os.ReadFile(busyboxPath)
	if err != nil {
		return nil, err
	}
	if err := checkStatic(program); err != nil {
		return nil, err
	}
	applets, err := exec.Command(busyboxPath, "--list").Output()
	if err != nil {
		return nil, err
	}
	files := []File{
		{Name: "bin/", Mode: 0o755},
		{Name: "bin/busybox", Mode: 0o755, Data: program},
		{Name: "etc/", Mode: 0o755},
		{Name: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n")},
		{Name: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\nmail:x:8:\nnobody:x:65534:\n")},
		{Name: "home/", Mode: 0o755},
		{Name: "root/", Mode: 0o700},
		{Name: "tmp/", Mode: 0o1777},
		{Name: "usr/", Mode: 0o755},
		{Name: "var/", Mode: 0o755},
		{Name: "var/spool/", Mode: 0o755},
		{Name: "var/spool/mail/", Mode: 0o755, GID: 8},
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			files = append(files, File{Name: "bin/" + applet, Mode: 0o777, Link: "busybox"})
		}
	}
	return Layer(files...)
}

// checkStatic returns an error if the program needs libraries, which the image
// does not have.
func checkStatic(program []byte) error {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("it is not static; install Debian's busybox-static")
		}
	}
	return nil
}
