package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// minProgress is what must come before a cut for it to count as the first
// again: a registry that cuts ever so often is in the end given up.
const minProgress = 64 << 10

// errDistrusted marks what a registry sent and is not what it said.
var errDistrusted = errors.New("not what its manifest says")

// stream reads a blob of a registry, and goes on where it was when the
// connection ends too soon. It returns io.EOF only when size and digest are as
// the descriptor says, and never reads more than that size. Close is needed.
type stream struct {
	ctx  context.Context
	from *session
	want v1.Descriptor

	body   io.ReadCloser // nil while there is no connection
	at     int64         // how many bytes were handed out
	whole  bool          // the registry does not know Range
	cutAt  int64         // where it was cut last
	tries  int           // cuts one after the other, without much between
	hash   hash.Hash
	failed error
}

// blob returns the bytes that a descriptor stands for. Nothing is asked before
// the first Read.
func (s *session) blob(ctx context.Context, want v1.Descriptor) *stream {
	return &stream{ctx: asStream(ctx), from: s, want: want, hash: sha256.New()}
}

// Read returns the next bytes.
func (b *stream) Read(p []byte) (int, error) {
	if b.failed != nil {
		return 0, b.failed
	}
	n, err := b.read(p)
	if err != nil {
		_ = b.Close() // nothing more is read from it
		b.failed = err
	}
	return n, b.failed
}

func (b *stream) read(p []byte) (int, error) {
	for b.at < b.want.Size {
		if b.body == nil {
			if err := b.open(); err != nil {
				return 0, err
			}
			if b.body == nil {
				continue // cut while it skipped, or Range is refused
			}
		}
		n, err := b.body.Read(p[:min(int64(len(p)), b.want.Size-b.at)])
		b.hash.Write(p[:n])
		b.at += int64(n)
		if b.at < b.want.Size && err != nil {
			if err := b.cut(err); err != nil {
				return n, err
			}
		}
		if n > 0 || len(p) == 0 {
			return n, nil
		}
	}
	if got := "sha256:" + hex.EncodeToString(b.hash.Sum(nil)); got != b.want.Digest.String() {
		return 0, b.fail("blob %s has digest %s: %w", b.want.Digest.Hex[:12], got, errDistrusted)
	}
	return 0, io.EOF
}

// fail is an error of the registry's.
func (b *stream) fail(format string, args ...any) error {
	return explain(fmt.Errorf(format, args...), b.from.at)
}

// cut notes that the connection ended too soon, and waits before the next one.
func (b *stream) cut(cause error) error {
	_ = b.body.Close()
	b.body = nil
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if b.at-b.cutAt >= minProgress {
		b.tries = 0
	}
	b.tries++
	b.cutAt = b.at
	if cause == io.EOF {
		cause = io.ErrUnexpectedEOF
	}
	patience := b.from.wire.patience
	if b.tries >= patience.tries {
		return b.fail("blob %s ended after %d of %d bytes, %d times: %w", b.want.Digest.Hex[:12], b.at, b.want.Size, b.tries, cause)
	}
	wait := patience.after(b.tries)
	b.from.wire.log.Info("download is resumed", "registry", b.from.at.registry, "digest", b.want.Digest.String(), "at", b.at, "attempt", b.tries, "wait", wait, "err", cause)
	return pause(b.ctx, wait)
}

// open asks for the bytes from b.at on. A registry that sends all of them again
// is taken at its word, and so is one that refuses to send a part: what is here
// already is skipped.
func (b *stream) open() error {
	request, err := http.NewRequestWithContext(b.ctx, http.MethodGet, b.from.url("blobs", b.want.Digest.String()), nil)
	if err != nil {
		return err
	}
	if b.at > 0 && !b.whole {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", b.at))
	}
	answer, err := b.from.do(request, http.StatusOK, http.StatusPartialContent)
	if e := answerIn(err); e != nil && e.Status == http.StatusRequestedRangeNotSatisfiable && b.at > 0 && !b.whole {
		b.whole = true
		return nil // and asks anew
	}
	if err != nil {
		return err
	}
	b.body = answer.Body
	short := b.want.Digest.Hex[:12]
	if answer.StatusCode == http.StatusPartialContent {
		var first, last, total int64
		where := answer.Header.Get("Content-Range")
		if n, _ := fmt.Sscanf(where, "bytes %d-%d/%d", &first, &last, &total); n != 3 || first != b.at || last < first || total != b.want.Size {
			return b.fail("blob %s: asked for what follows byte %d of %d, the registry answers %q: %w", short, b.at, b.want.Size, where, errDistrusted)
		}
		return nil
	}
	if answer.ContentLength >= 0 && answer.ContentLength != b.want.Size {
		return b.fail("blob %s is announced with %d bytes, its manifest says %d: %w", short, answer.ContentLength, b.want.Size, errDistrusted)
	}
	if _, err := io.CopyN(io.Discard, b.body, b.at); err != nil {
		return b.cut(err)
	}
	return nil
}

// Close ends the connection. It may be called again.
func (b *stream) Close() error {
	if b.body == nil {
		return nil
	}
	body := b.body
	b.body = nil
	return body.Close()
}
