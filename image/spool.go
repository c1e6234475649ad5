package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"

	"get.podrun.dev/podrun/internal/fault"
)

// maxSpooled bounds how many files an archive of images may have: docker's have
// four a layer.
const maxSpooled = 100_000

// spool holds the files of an archive of images, which come in any order. Names
// in the archive are keys of a map, never paths.
type spool struct {
	dir   string
	files map[string]spooled
	links map[string]string // what podman's archives have for docker's old names
}

type spooled struct {
	path   string
	size   int64
	digest Digest
}

// spool reads an archive, which may be compressed, into tmp. The caller removes
// it.
func (s *Store) spool(ctx context.Context, r io.Reader) (_ *spool, err error) {
	dir, err := os.MkdirTemp(s.tmp(), "load-")
	if err != nil {
		return nil, err
	}
	sp := &spool{dir: dir, files: map[string]spooled{}, links: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, sp.remove())
		}
	}()
	plain, err := decompress(r)
	if err != nil {
		return nil, errNoArchive
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	in := tar.NewReader(plain)
	for n := 0; ; n++ {
		h, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			// The writer of a pipe is not cut off in what follows the end.
			_, err = io.Copy(io.Discard, plain)
			return sp, errors.Join(err, fault.Point("load.spooled"))
		case err != nil && n == 0 && ctx.Err() == nil && !diskError(err):
			return nil, errNoArchive
		case err != nil:
			return nil, fmt.Errorf("archive: %w", err)
		case n == maxSpooled:
			return nil, fmt.Errorf("the archive has more than %d files", maxSpooled)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg:
			f, err := spoolFile(path.Join(dir, strconv.Itoa(n)), in)
			if err != nil {
				return nil, fmt.Errorf("archive: %s: %w", name, err)
			}
			sp.files[name] = f
		case tar.TypeSymlink:
			sp.links[name] = path.Join("/", path.Dir(name), h.Linkname)[1:]
		case tar.TypeLink:
			sp.links[name] = path.Clean("/" + h.Linkname)[1:]
		}
	}
}

// errNoArchive: what was to be loaded is something else.
var errNoArchive = errors.New("it is neither an OCI image layout nor an archive of \"docker save\"")

func spoolFile(path string, r io.Reader) (f spooled, err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return spooled{}, err
	}
	hash := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(file, hash)}, r, make([]byte, 256<<10))
	if err := errors.Join(err, file.Close()); err != nil {
		return spooled{}, err
	}
	return spooled{path, n, Digest("sha256:" + hex.EncodeToString(hash.Sum(nil)))}, nil
}

// file finds a file by its name in the archive.
func (sp *spool) file(name string) (spooled, bool) {
	name = path.Clean("/" + name)[1:]
	for range 8 { // links to links
		if f, ok := sp.files[name]; ok {
			return f, true
		}
		name = sp.links[name]
	}
	return spooled{}, false
}

// document reads a small file of the archive.
func (sp *spool) document(name string) ([]byte, error) {
	f, ok := sp.file(name)
	if !ok {
		return nil, fmt.Errorf("the archive has no %s", name)
	}
	return f.read()
}

func (f spooled) read() ([]byte, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	data, err := readDocument(file)
	return data, errors.Join(err, file.Close())
}

func (sp *spool) remove() error { return os.RemoveAll(sp.dir) }
