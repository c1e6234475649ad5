package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/atomicfile"
)

// sizeFile holds the unpacked size of a layer beside its files.
const sizeFile = "size"

// have tells whether a layer is here. A directory in layers is always whole.
func (s *Store) have(diffID Digest) (size int64, ok bool) {
	data, err := os.ReadFile(filepath.Join(s.layerDir(diffID), sizeFile))
	if err != nil {
		return 0, false
	}
	_, err = fmt.Sscan(string(data), &size)
	return size, err == nil
}

// unpack writes the layer that r holds into dir and returns its size. All of
// r is read, so that its digest is checked, and the tar's is compared.
func (s *Store) unpack(ctx context.Context, r io.Reader, dir string, diffID Digest) (int64, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	plain, err := decompress(r)
	if err != nil {
		return 0, err
	}
	defer plain.Close()
	hash := sha256.New()
	tarball := io.TeeReader(plain, hash)
	options := []archive.ApplyOpt{archive.WithConvertWhiteout(s.whiteout)}
	if s.singleID {
		options = append(options, archive.WithNoSameOwner())
	}
	size, err := archive.Apply(ctx, dir, tarball, options...)
	if err != nil {
		return 0, fmt.Errorf("unpack layer: %w", err)
	}
	if _, err := io.Copy(io.Discard, tarball); err != nil { // what follows the tar's end
		return 0, err
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // what follows the compressed stream's
		return 0, err
	}
	if got := Digest("sha256:" + hex.EncodeToString(hash.Sum(nil))); got != diffID {
		return 0, fmt.Errorf("layer unpacks to %s, but the image's config says %s", got, diffID)
	}
	return size, nil
}

// keep moves an unpacked layer into place, flushed to disk first: a name in
// layers must never stand for less than the whole, also after a power cut.
func (s *Store) keep(dir string, diffID Digest, size int64) error {
	if err := os.WriteFile(filepath.Join(dir, sizeFile), fmt.Append(nil, size), 0o600); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(d.Fd()))
	if err := errors.Join(err, d.Close(), os.Chmod(dir, 0o711)); err != nil {
		return fmt.Errorf("flush layer: %w", err)
	}
	if err := os.Rename(dir, s.layerDir(diffID)); err != nil {
		return err
	}
	return atomicfile.SyncDir(s.layers())
}

// whiteout turns a layer's marks for removed files into overlay's, in the form
// that works in a user namespace where we are in one
// (https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories).
func (s *Store) whiteout(_ *tar.Header, path string) (bool, error) {
	dir, base := filepath.Split(path)
	if base == ".wh..wh..opq" {
		attribute := "trusted.overlay.opaque"
		if s.rootless {
			attribute = "user.overlay.opaque"
		}
		if err := unix.Lsetxattr(filepath.Clean(dir), attribute, []byte("y"), 0); err != nil {
			return false, &os.PathError{Op: "setxattr " + attribute, Path: dir, Err: err}
		}
		return false, nil
	}
	removed, ok := strings.CutPrefix(base, ".wh.")
	if !ok {
		return true, nil
	}
	if removed == "" || removed == "." || removed == ".." {
		return false, fmt.Errorf("bad whiteout %q", base)
	}
	target := filepath.Join(dir, removed)
	// Device 0:0 may be made without CAP_MKNOD (Linux 5.8).
	if err := unix.Mknod(target, unix.S_IFCHR, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return false, &os.PathError{Op: "mknod", Path: target, Err: err}
	}
	return false, nil
}

// decompress tells gzip, zstd and plain tar apart by their first bytes: media
// types lie.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 1<<18)
	head, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}
