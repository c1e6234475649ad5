package image

import (
	"bytes"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// layersOf are the layers that a manifest names, base first.
func layersOf(manifest []byte) ([]Blob, error) {
	m, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	var layers []Blob
	for _, l := range m.Layers {
		layers = append(layers, Blob{Digest: Digest(l.Digest.String()), Size: l.Size, MediaType: string(l.MediaType)})
	}
	return layers, nil
}
