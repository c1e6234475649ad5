package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/untar"
)

// unpacked is what unpack made of a layer.
type unpacked struct {
	Size     int64    // bytes in its files
	Warnings []string // what could not be kept as the layer has it
}

// layerError is about what a layer holds, or about this machine; not about
// whoever it came from.
type layerError struct{ err error }

func (e *layerError) Error() string { return "unpack layer: " + e.err.Error() }
func (e *layerError) Unwrap() error { return e.err }

// streamError is about a compressed stream that cannot be read.
type streamError struct{ err error }

func (e *streamError) Error() string { return e.err.Error() }
func (e *streamError) Unwrap() error { return e.err }

// unpack writes the layer that r holds, compressed or not, into dir, which it
// makes. All of r is read, so that who made it can check its digest at its
// end, and the tar's digest is compared with diffID. When r fails, the error is
// r's own, and otherwise a *layerError. After an error dir is the caller's to
// remove.
//
// Three goroutines share the work: one reads r, one decompresses and hashes,
// one makes files. None of them is left when unpack returns; it waits for a
// read of r that is going on.
func (s *Store) unpack(ctx context.Context, r io.Reader, dir string, diffID Digest) (unpacked, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return unpacked{}, err
	}
	packed := newAhead(r, nil)
	result, err := s.unpackFrom(ctx, packed, dir, diffID)
	var corrupt *streamError
	if err == nil || errors.As(err, &corrupt) {
		// What follows the compressed stream's end; or what tells whether these
		// are the bytes that the image's manifest names.
		_, rest := io.Copy(io.Discard, packed)
		err = errors.Join(err, rest)
	}
	if wire := packed.Close(); wire != nil {
		return unpacked{}, wire
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		err = &layerError{err}
	}
	return result, err
}

// eachEntry is a step of a layer that a test may fail.
func eachEntry() error { return fault.Point("pull.entry") }

func (s *Store) unpackFrom(ctx context.Context, r io.Reader, dir string, diffID Digest) (unpacked, error) {
	stream, err := decompress(r)
	if err != nil {
		return unpacked{}, &streamError{err}
	}
	defer stream.Close()
	hash := sha256.New()
	plain := newAhead(stream, func(p []byte) { hash.Write(p) })
	result, err := untar.Apply(ctx, dir, plain, untar.Options{Rootless: s.rootless, SingleID: s.singleID, Limits: s.pullLimits.Layer, Each: eachEntry})
	if broken := plain.Close(); broken != nil {
		return unpacked{}, &streamError{broken}
	}
	if err != nil {
		return unpacked{}, err
	}
	if got := Digest("sha256:" + hex.EncodeToString(hash.Sum(nil))); got != diffID {
		return unpacked{}, fmt.Errorf("its tar is %s, but the image's config says %s", got, diffID)
	}
	return unpacked{Size: result.Size, Warnings: result.Warnings}, nil
}
