package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

// layerType is an OCI layer's media type, without its compression.
const layerType = "application/vnd.oci.image.layer.v1.tar"

func parseManifest(data []byte) (*v1.Manifest, error) {
	m, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return m, nil
}

// newManifest makes the manifest of an image that came without one.
func newManifest(config []byte, layers []Blob) ([]byte, error) {
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{}}
	describe := func(b Blob) (v1.Descriptor, error) {
		h, err := v1.NewHash(string(b.Digest))
		return v1.Descriptor{MediaType: types.MediaType(b.MediaType), Size: b.Size, Digest: h}, err
	}
	sum := sha256.Sum256(config)
	var err error
	m.Config, err = describe(Blob{
		Digest: Digest("sha256:" + hex.EncodeToString(sum[:])), Size: int64(len(config)), MediaType: string(types.OCIConfigJSON),
	})
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		d, err := describe(l)
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, d)
	}
	return json.Marshal(m)
}

// newCompressor compresses a layer. The same bytes give the same bytes: there
// is neither a name nor a time in them.
func newCompressor(w io.Writer) *gzip.Writer {
	z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is valid
	return z
}

// sniff tells how a file is compressed, by its first bytes: gzip, zstd or "".
func sniff(r io.ReaderAt) (string, error) {
	var head [4]byte
	n, err := r.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	switch {
	case bytes.HasPrefix(head[:n], []byte{0x1f, 0x8b}):
		return "gzip", nil
	case bytes.Equal(head[:n], []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return "zstd", nil
	}
	return "", nil
}

// checkLayer reads all of a layer and compares its diff ID.
func checkLayer(r io.Reader, diffID Digest) (err error) {
	plain, err := decompress(r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	hash := sha256.New()
	if _, err := io.Copy(hash, plain); err != nil {
		return err
	}
	if got := Digest("sha256:" + hex.EncodeToString(hash.Sum(nil))); got != diffID {
		return fmt.Errorf("layer unpacks to %s, but the image's config says %s", got, diffID)
	}
	_, err = io.Copy(io.Discard, r)
	return err
}
