package image

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Detail is all that is known of an image.
type Detail struct {
	Image   *Image            `json:"image"`
	Digests map[string]Digest `json:"digests"` // by name: what the name stands for in its registry
	Used    time.Time         `json:"used,omitzero"`
	// Raw is the config as it came; nil for an image of an older podrun.
	Raw json.RawMessage `json:"raw,omitempty"`
	// Dirs are where the unpacked layers lie, base first.
	Dirs []string `json:"dirs"`
	// Sizes are what the layers take unpacked, in bytes.
	Sizes []int64 `json:"sizes"`
}

// Inspect tells all of an image, by name or ID.
func (s *Store) Inspect(nameOrID string) (*Detail, error) {
	s.mu.Lock()
	img, _, err := s.find(nameOrID)
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	d := &Detail{Image: img, Digests: map[string]Digest{}, Used: s.used[img.ID]}
	for _, full := range img.References {
		d.Digests[full] = s.byName[full].Top
	}
	s.mu.Unlock()
	for _, l := range img.Layers {
		size, _ := s.have(l)
		d.Dirs, d.Sizes = append(d.Dirs, filepath.Join(s.layerDir(l), "fs")), append(d.Sizes, size)
	}
	d.Raw, err = s.readBlob(img.ID)
	if errors.Is(err, errNoBlob) {
		err = nil
	}
	return d, err
}

// Usage is what the store takes on disk, in bytes.
type Usage struct {
	Images []ImageUsage `json:"images"`
	Layers int64        `json:"layers"` // all unpacked layers, each once
	Blobs  int64        `json:"blobs"`  // all content as it came
}

// ImageUsage is the part of one image.
type ImageUsage struct {
	Image   *Image `json:"image"`
	Shared  int64  `json:"shared"`  // unpacked layers that another image has too
	Unique  int64  `json:"unique"`  // unpacked layers that no other image has
	Content int64  `json:"content"` // as it came
	Own     int64  `json:"own"`     // of the content what no other image has
	// Parts are what each layer, by diff ID, and each blob takes.
	Parts map[string]int64 `json:"parts"`
}

// Usage measures the store. What layers take was counted when they were
// unpacked.
func (s *Store) Usage() (*Usage, error) {
	images, err := s.List()
	if err != nil {
		return nil, err
	}
	layers, blobs := map[Digest]int{}, map[Digest]int{}
	for _, img := range images {
		for d := range distinct(img.Layers) {
			layers[d]++
		}
		for d := range img.content() {
			blobs[d]++
		}
	}
	sizes := map[Digest]int64{}
	u := &Usage{Images: []ImageUsage{}}
	for d := range layers {
		sizes[d], _ = s.have(d)
		u.Layers += sizes[d]
	}
	for d := range blobs {
		info, err := os.Stat(s.blobPath(d))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		sizes[d] = info.Size()
		u.Blobs += info.Size()
	}
	for _, img := range images {
		one := ImageUsage{Image: img, Parts: map[string]int64{}}
		for d := range distinct(img.Layers) {
			one.Parts[string(d)] = sizes[d]
			if layers[d] > 1 {
				one.Shared += sizes[d]
			} else {
				one.Unique += sizes[d]
			}
		}
		for d := range img.content() {
			one.Parts[string(d)] = sizes[d]
			one.Content += sizes[d]
			if blobs[d] == 1 {
				one.Own += sizes[d]
			}
		}
		u.Images = append(u.Images, one)
	}
	return u, nil
}

func distinct(list []Digest) map[Digest]bool {
	set := map[Digest]bool{}
	for _, d := range list {
		set[d] = true
	}
	return set
}

// content is all that is kept of an image as it came, or was.
func (img *Image) content() map[Digest]bool {
	set := distinct([]Digest{img.ID, img.Digest, img.Manifest})
	for _, b := range img.Blobs {
		set[b.Digest] = true
	}
	delete(set, "")
	return set
}
