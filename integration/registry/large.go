package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// The large image: as many layers, files and bytes as a distribution with a
// language's tools has.
const (
	LargeLayers = 6
	LargeFiles  = 15_000
	LargeBytes  = 400 << 20 // of tar
)

// Large makes an image of LargeLayers layers that hold LargeFiles files and
// LargeBytes together, of what images hold: text, tables, programs and what
// does not compress, to a bit less than half. compression is "gzip" or "zstd".
// It is the same each time.
func Large(compression string) (v1.Image, error) {
	var layers []v1.Layer
	for i := range LargeLayers {
		// The first is the largest, as the base of an image is.
		share := []int{40, 20, 15, 10, 10, 5}[i]
		plain, err := largeLayer(uint64(i), LargeFiles*share/100, LargeBytes*share/100)
		if err != nil {
			return nil, err
		}
		layer, err := compress(compression, plain)
		if err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	image, err := Image(v1.Config{Cmd: []string{"sh"}}, layers...)
	if err != nil || compression == "gzip" {
		return image, err
	}
	// Docker's manifests know no zstd.
	return mutate.ConfigMediaType(mutate.MediaType(image, types.OCIManifestSchema1), types.OCIConfigJSON), nil
}

// compress makes a layer of a tar.
func compress(compression string, plain []byte) (v1.Layer, error) {
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	mediaType := types.DockerLayer
	if compression == "zstd" {
		var err error
		if w, err = zstd.NewWriter(&b); err != nil {
			return nil, err
		}
		mediaType = types.OCILayerZStd
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	diffID, _, err := v1.SHA256(bytes.NewReader(plain))
	if err != nil {
		return nil, err
	}
	return &packed{static.NewLayer(b.Bytes(), mediaType), diffID}, nil
}

// packed is a layer whose diff ID the library would take from the compressed
// bytes.
type packed struct {
	v1.Layer
	diffID v1.Hash
}

// DiffID is the digest of the tar.
func (p *packed) DiffID() (v1.Hash, error) { return p.diffID, nil }

func largeLayer(seed uint64, files, size int) ([]byte, error) {
	random := rand.New(rand.NewPCG(seed, 1))
	words := vocabulary(random)
	var b bytes.Buffer
	b.Grow(size + files*1100)
	w := tar.NewWriter(&b)
	const perDirectory = 25
	// Many files are small and few are large.
	sizes, sum := make([]float64, files), 0.0
	for i := range sizes {
		sizes[i] = 1 / (0.01 + random.Float64()*random.Float64())
		sum += sizes[i]
	}
	body := size - files*1024
	for i := range files {
		if i%perDirectory == 0 {
			h := &tar.Header{Name: fmt.Sprintf("usr/%d/part-%d/", seed, i/perDirectory), Mode: 0o755, Typeflag: tar.TypeDir}
			if err := w.WriteHeader(h); err != nil {
				return nil, err
			}
		}
		n := int(float64(body) * sizes[i] / sum)
		h := &tar.Header{Name: fmt.Sprintf("usr/%d/part-%d/file-%d.txt", seed, i/perDirectory, i), Mode: 0o644, Size: int64(n)}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if err := content(w, random, words, i, n); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func vocabulary(random *rand.Rand) []string {
	words := make([]string, 4000)
	for i := range words {
		word := make([]byte, 2+random.IntN(9))
		for j := range word {
			word[j] = "etaoinshrdlucmfwypvbgkjqxz_."[min(random.IntN(28), random.IntN(28))]
		}
		words[i] = string(word)
	}
	return words
}

// content writes n bytes of the i-th file.
func content(w io.Writer, random *rand.Rand, words []string, i, n int) error {
	b := make([]byte, 0, n+64)
	for len(b) < n {
		switch i % 10 {
		case 0, 1, 2, 3, 4: // text
			// Some words are in most lines, and phrases come again.
			b = append(b, words[random.IntN(1+random.IntN(len(words)))]...)
			b = append(b, " \n\t(=;"[random.IntN(6)&random.IntN(6)])
			if len(b) > 4096 && random.IntN(10) == 0 {
				at := len(b) - 1 - random.IntN(4000)
				b = append(b, b[at:min(at+40, len(b))]...)
			}
		case 5, 6, 7: // machine code and tables: fields that change and fields that do not
			b = append(b, 0x48, 0x8b, byte(random.IntN(16)), byte(random.IntN(256)), 0, 0, byte(random.IntN(4)), 0xe8, byte(random.IntN(256)), byte(random.IntN(64)), 0, 0)
		default: // pictures, archives
			for range 8 {
				v := random.Uint64()
				b = append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24), byte(v>>32), byte(v>>40), byte(v>>48), byte(v>>56))
			}
		}
	}
	_, err := w.Write(b[:n])
	return err
}
