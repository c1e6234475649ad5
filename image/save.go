package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/hint"
)

// The formats of Save.
const (
	// FormatDocker is what docker save writes since docker 25: an OCI layout
	// with the manifest.json that older ones read.
	FormatDocker = "docker-archive"
	// FormatOCI is an OCI image layout.
	FormatOCI = "oci-archive"
)

// saving is one image to be saved.
type saving struct {
	img       *Image
	names     []Reference
	documents []Blob // manifest and config
	manifest  []byte // in place of the one that is kept; nil for that
}

// Save writes images, by name or ID, as a tar archive. An image named by its ID
// has no name in it. Nothing is written unless all of them are here.
func (s *Store) Save(ctx context.Context, w io.Writer, namesOrIDs []string, format string) error {
	if format != FormatDocker && format != FormatOCI {
		return fmt.Errorf("unknown format %q", format)
	}
	defer s.holdContent()()
	list, err := s.toSave(namesOrIDs)
	if err != nil {
		return err
	}
	if format == FormatOCI {
		for _, one := range list {
			if err := s.toOCI(one); err != nil {
				return err
			}
		}
	}
	out := archiveWriter{ctx: ctx, s: s, w: tar.NewWriter(w), format: format, written: map[Digest]bool{}}
	if err := out.write(list); err != nil {
		return err
	}
	return out.w.Close()
}

// toSave finds images, each once, whose content is all here.
func (s *Store) toSave(namesOrIDs []string) ([]*saving, error) {
	var list []*saving
	known := map[Digest]*saving{}
	for _, n := range namesOrIDs {
		s.mu.Lock()
		img, names, err := s.find(n)
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		one := known[img.ID]
		if one == nil {
			one = &saving{img: img}
			known[img.ID] = one
			list = append(list, one)
			if one.documents, err = s.whole(img); err != nil {
				return nil, fmt.Errorf("%s: %w", n, err)
			}
		}
		for _, full := range names {
			if ref, err := ParseReference(full); err == nil {
				ref.digest = ""
				if ref.tag != "" && !slices.Contains(one.names, ref) {
					one.names = append(one.names, ref)
				}
			}
		}
	}
	return list, nil
}

// toOCI gives an image of docker's media types OCI's: by name, readers of an OCI
// layout find no others in it. Config and layers stay as they are.
func (s *Store) toOCI(one *saving) error {
	data, err := s.readBlob(one.img.Manifest)
	if err != nil {
		return err
	}
	m, err := parseManifest(data)
	if err != nil || m.MediaType != types.DockerManifestSchema2 {
		return err
	}
	m.MediaType, m.Config.MediaType = types.OCIManifestSchema1, types.OCIConfigJSON
	for i, l := range m.Layers {
		switch l.MediaType {
		case types.DockerLayer:
			m.Layers[i].MediaType = types.OCILayer
		case types.DockerUncompressedLayer:
			m.Layers[i].MediaType = types.OCIUncompressedLayer
		case dockerZstd:
			m.Layers[i].MediaType = types.OCILayerZStd
		}
	}
	if one.manifest, err = json.Marshal(m); err != nil {
		return err
	}
	sum := sha256.Sum256(one.manifest)
	one.documents[0] = Blob{
		Digest: Digest("sha256:" + hex.EncodeToString(sum[:])), Size: int64(len(one.manifest)), MediaType: string(m.MediaType),
	}
	return nil
}

// dockerZstd is docker's type of a layer compressed with zstd.
const dockerZstd = "application/vnd.docker.image.rootfs.diff.tar.zstd"

// pullAgain is what mends content of the image that is missing.
func (img *Image) pullAgain() string {
	name := img.ID.Hex()[:12]
	if len(img.References) > 0 {
		name = familiar(img.References[0])
	}
	return fmt.Sprintf(`pull it again with "podrun pull %s"`, name)
}

// whole tells whether all of an image's content is here, and describes its
// manifest and its config.
func (s *Store) whole(img *Image) ([]Blob, error) {
	again := img.pullAgain()
	if img.Manifest == "" {
		return nil, hint.Wrap(errNoBlob, again)
	}
	manifest, err := s.readBlob(img.Manifest)
	if err != nil {
		return nil, hint.Wrap(err, again)
	}
	config, err := s.readBlob(img.ID)
	if err != nil {
		return nil, hint.Wrap(err, again)
	}
	for _, b := range img.Blobs {
		if !s.hasBlob(b.Digest) {
			return nil, hint.Wrap(fmt.Errorf("layer %s: %w", b.Digest.Hex()[:12], errNoBlob), again)
		}
	}
	m, err := parseManifest(manifest)
	if err != nil {
		return nil, err
	}
	return []Blob{
		{Digest: img.Manifest, Size: int64(len(manifest)), MediaType: string(m.MediaType)},
		{Digest: img.ID, Size: int64(len(config)), MediaType: string(m.Config.MediaType)},
	}, nil
}

// archiveWriter writes an archive; content that images share is in it once.
type archiveWriter struct {
	ctx     context.Context
	s       *Store
	w       *tar.Writer
	format  string
	written map[Digest]bool
}

func (a *archiveWriter) write(list []*saving) error {
	if err := a.document("oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}); err != nil {
		return err
	}
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := a.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return err
		}
	}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var docker []entry
	for _, one := range list {
		e := entry{Config: blobName(one.img.ID)}
		for i, b := range slices.Concat(one.documents, one.img.Blobs) {
			err := error(nil)
			if i == 0 && one.manifest != nil {
				err = a.bytes(blobName(b.Digest), one.manifest)
			} else {
				err = a.blob(b)
			}
			if err != nil {
				return err
			}
		}
		for _, b := range one.img.Blobs {
			e.Layers = append(e.Layers, blobName(b.Digest))
		}
		index.Manifests = append(index.Manifests, a.descriptors(one)...)
		for _, ref := range one.names {
			e.RepoTags = append(e.RepoTags, ref.Familiar())
		}
		docker = append(docker, e)
	}
	err := a.document("index.json", index)
	if err == nil && a.format == FormatDocker {
		err = a.document("manifest.json", docker)
	}
	return err
}

// descriptors are what index.json says of an image, once for each name.
func (a *archiveWriter) descriptors(one *saving) []v1.Descriptor {
	hash, _ := v1.NewHash(string(one.documents[0].Digest)) // it is one
	p := one.img.Platform
	d := v1.Descriptor{
		MediaType: types.MediaType(one.documents[0].MediaType), Size: one.documents[0].Size, Digest: hash,
		Platform: &v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant},
	}
	if d.MediaType == "" {
		d.MediaType = types.OCIManifestSchema1
	}
	if len(one.names) == 0 {
		return []v1.Descriptor{d}
	}
	var list []v1.Descriptor
	for _, ref := range one.names {
		named := d
		// Docker has the tag here, podman the whole name.
		named.Annotations = map[string]string{annotationName: ref.String(), annotationRef: ref.Tag()}
		if a.format == FormatOCI {
			named.Annotations[annotationRef] = ref.String()
		}
		list = append(list, named)
	}
	return list
}

func (a *archiveWriter) document(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return a.bytes(name, data)
}

func (a *archiveWriter) bytes(name string, data []byte) error {
	if err := a.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := a.w.Write(data)
	return err
}

func blobName(d Digest) string { return "blobs/sha256/" + d.Hex() }

func (a *archiveWriter) blob(b Blob) (err error) {
	if a.written[b.Digest] {
		return nil
	}
	a.written[b.Digest] = true
	r, err := a.s.openBlob(b.Digest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := fault.Point("save.blob"); err != nil {
		return err
	}
	if err := a.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: blobName(b.Digest), Mode: 0o644, Size: b.Size}); err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{a.w}, struct{ io.Reader }{until(a.ctx, r)}, make([]byte, 256<<10))
	return err
}

// Tag gives an image, by name or ID, one more name.
func (s *Store) Tag(nameOrID string, ref Reference) error {
	if ref.Digest() != "" {
		return errors.New("a name with a digest cannot be given to an image")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	img, names, err := s.find(nameOrID)
	if err != nil {
		return err
	}
	top := img.Digest
	if len(names) > 0 {
		top = s.byName[names[0]].Top
	}
	undo := s.remember()
	s.name(img.ID, ref.String(), top)
	return errors.Join(s.saveOr(undo), fault.Point("image.tagged"))
}
