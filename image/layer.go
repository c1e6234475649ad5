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
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/atomicfile"
	"get.podrun.dev/podrun/internal/fault"
)

// flight is a layer on its way, for all who want it.
type flight struct {
	done chan struct{}
	size int64
	err  error
}

// layer sees to it that a layer is here, and returns its unpacked size. Who
// comes second waits for who came first.
func (s *Store) layer(ctx context.Context, at endpoint, l v1.Layer, diffID Digest, report func(Progress)) (int64, error) {
	digest, err := l.Digest()
	if err != nil {
		return 0, err
	}
	if report == nil {
		report = func(Progress) {}
	}
	short := digest.Hex[:12]
	for {
		s.mu.Lock()
		if size, ok := s.have(diffID); ok {
			s.mu.Unlock()
			report(Progress{Layer: short, Status: StatusExists})
			return size, nil
		}
		f, going := s.flights[diffID]
		if !going {
			f = &flight{done: make(chan struct{})}
			s.flights[diffID] = f
			s.mu.Unlock()
			f.size, f.err = s.fetch(ctx, at, l, diffID, func(p Progress) { p.Layer = short; report(p) })
			s.mu.Lock()
			delete(s.flights, diffID)
			s.mu.Unlock()
			close(f.done)
			return f.size, f.err
		}
		s.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		// The other pull's end is not ours: it may have been cancelled.
		if f.err != nil && !errors.Is(f.err, context.Canceled) {
			return 0, f.err
		}
	}
}

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

// fetch downloads a layer and unpacks it while it comes.
func (s *Store) fetch(ctx context.Context, at endpoint, l v1.Layer, diffID Digest, report func(Progress)) (size int64, err error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	mediaType, err := l.MediaType()
	if err != nil {
		return 0, err
	}
	if err := checkLayerType(mediaType); err != nil {
		return 0, err
	}
	total, err := l.Size()
	if err != nil {
		return 0, explain(err, at)
	}
	// The library checks what it hands out against digest and size.
	blob, err := l.Compressed()
	if err != nil {
		return 0, explain(err, at)
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	dir, err := os.MkdirTemp(s.tmp(), "layer-")
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	counter := &meter{r: blob, total: total, report: report}
	size, err = s.unpack(ctx, counter, filepath.Join(dir, "fs"), diffID)
	if err != nil {
		return 0, explain(err, at)
	}
	if err := fault.Point("pull.unpacked"); err != nil {
		return 0, err
	}
	if err := s.keep(dir, diffID, size); err != nil {
		return 0, err
	}
	report(Progress{Status: StatusComplete, Done: total, Total: total})
	return size, nil
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

// meter reports what has come, a few times a second.
type meter struct {
	r           io.Reader
	done, total int64
	last        time.Time
	report      func(Progress)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.done += int64(n)
	if now := time.Now(); now.Sub(m.last) > 100*time.Millisecond {
		m.last = now
		m.report(Progress{Status: StatusPulling, Done: m.done, Total: m.total})
	}
	return n, err
}
