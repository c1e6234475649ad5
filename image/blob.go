package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"get.podrun.dev/podrun/internal/atomicfile"
)

// Blob describes content by its digest, as a manifest does.
type Blob struct {
	Digest    Digest `json:"digest"`
	Size      int64  `json:"size"`
	MediaType string `json:"mediaType"`
}

// errNoBlob: content of an image is not kept here. An image that an older
// podrun pulled has none, and garbage collection removes what a registry has.
var errNoBlob = errors.New("its content is not kept here")

// damagedError: it was, but its bytes have another digest by now.
type damagedError struct{ want Digest }

func (e *damagedError) Error() string {
	return fmt.Sprintf("%v: its file has been damaged (%s)", errNoBlob, e.want)
}
func (e *damagedError) Unwrap() error { return errNoBlob }

func (s *Store) blobs() string { return filepath.Join(s.dir, "blobs", "sha256") }

func (s *Store) blobPath(d Digest) string { return filepath.Join(s.blobs(), d.Hex()) }

// hasBlob tells whether content is here, without reading it.
func (s *Store) hasBlob(d Digest) bool {
	_, err := os.Stat(s.blobPath(d))
	return d.valid() && err == nil
}

// valid tells whether d is a SHA-256 digest, and so safe in a file's name.
func (d Digest) valid() bool {
	b, err := hex.DecodeString(d.Hex())
	return err == nil && len(b) == sha256.Size && d == Digest("sha256:"+d.Hex())
}

// blobWriter takes content on its way in. It ends with commit or abort; abort
// after commit does nothing.
type blobWriter struct {
	s    *Store
	file *os.File
	hash hash.Hash // nil: who writes checks the digest
	size int64
}

// newBlob begins a blob in tmp. With hash it computes the digest itself;
// without, whoever commits has checked it.
func (s *Store) newBlob(hashed bool) (*blobWriter, error) {
	f, err := os.CreateTemp(s.tmp(), "blob-")
	if err != nil {
		return nil, explainDisk(err)
	}
	w := &blobWriter{s: s, file: f}
	if hashed {
		w.hash = sha256.New()
	}
	return w, nil
}

func (w *blobWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.size += int64(n)
	if w.hash != nil {
		w.hash.Write(p[:n])
	}
	return n, err
}

// digest is that of what was written; the writer hashes.
func (w *blobWriter) digest() Digest {
	return Digest("sha256:" + hex.EncodeToString(w.hash.Sum(nil)))
}

// commit gives the content its name. flush is for what no registry has: it is
// on disk when commit returns. Without it a power cut may leave a file that is
// not whole; readers find out by its digest.
func (w *blobWriter) commit(d Digest, flush bool) (err error) {
	if !d.valid() {
		return errors.Join(fmt.Errorf("%q is not a SHA-256 digest", d), w.abort())
	}
	if w.hash != nil && w.digest() != d {
		return errors.Join(fmt.Errorf("content has digest %s, not %s", w.digest(), d), w.abort())
	}
	if flush {
		err = w.file.Sync()
	}
	name := w.file.Name()
	err = errors.Join(err, w.file.Close())
	w.file = nil
	if err == nil {
		err = os.Rename(name, w.s.blobPath(d))
	}
	if err != nil {
		return errors.Join(err, os.Remove(name))
	}
	if flush {
		return atomicfile.SyncDir(w.s.blobs())
	}
	return nil
}

// abort removes what was written.
func (w *blobWriter) abort() error {
	if w.file == nil {
		return nil
	}
	name := w.file.Name()
	err := errors.Join(w.file.Close(), os.Remove(name))
	w.file = nil
	return err
}

// putBlob keeps a small document and returns its digest.
func (s *Store) putBlob(data []byte, flush bool) (Digest, error) {
	w, err := s.newBlob(true)
	if err != nil {
		return "", err
	}
	if _, err := w.Write(data); err != nil {
		return "", errors.Join(err, w.abort())
	}
	d := w.digest()
	return d, w.commit(d, flush)
}

// openBlob opens content that is read to its end: the last Read fails unless
// the bytes have the digest. The caller closes it. errNoBlob when it is not
// here.
func (s *Store) openBlob(d Digest) (io.ReadCloser, error) {
	if !d.valid() {
		return nil, fmt.Errorf("%q is not a SHA-256 digest", d)
	}
	f, err := os.Open(s.blobPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoBlob
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &blobReader{File: f, left: info.Size(), want: d, hash: sha256.New()}, nil
}

// blobReader gives no last bytes of content that is damaged: who counts them
// would not wait for the end.
type blobReader struct {
	*os.File
	left int64
	want Digest
	hash hash.Hash
}

func (r *blobReader) Read(p []byte) (int, error) {
	n, err := r.File.Read(p)
	r.hash.Write(p[:n])
	r.left -= int64(n)
	if r.left <= 0 || errors.Is(err, io.EOF) {
		if got := Digest("sha256:" + hex.EncodeToString(r.hash.Sum(nil))); got != r.want {
			// What cannot be trusted is fetched again next time.
			return 0, errors.Join(&damagedError{r.want}, os.Remove(r.Name()))
		}
	}
	return n, err
}

// WriteTo hides that of os.File, which would not look at the bytes.
func (r *blobReader) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(w, struct{ io.Reader }{r}, make([]byte, 256<<10))
}

// readBlob reads a small document of at most maxDocument bytes.
func (s *Store) readBlob(d Digest) ([]byte, error) {
	r, err := s.openBlob(d)
	if err != nil {
		return nil, err
	}
	data, err := readDocument(r)
	return data, errors.Join(err, r.Close())
}

// maxDocument bounds a manifest, an index or a config: the distribution
// specification asks registries to take manifests of 4 MiB.
const maxDocument = 8 << 20

// readDocument reads all of r, which is a manifest, an index or a config.
func readDocument(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(data) > maxDocument {
		err = fmt.Errorf("a document of an image is larger than %d bytes", maxDocument)
	}
	return data, err
}
