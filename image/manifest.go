package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"get.podrun.dev/podrun/internal/hint"
)

// maxNesting is how deep indexes may lie in indexes.
const maxNesting = 4

// acceptManifests are the types of documents we can read.
var acceptManifests = strings.Join([]string{
	string(types.OCIManifestSchema1), string(types.DockerManifestSchema2), string(types.OCIImageIndex), string(types.DockerManifestList),
}, ", ")

// document is a manifest or an index, verified against the digest it was asked
// by.
type document struct {
	digest    Digest
	mediaType types.MediaType
	data      []byte
	index     *v1.IndexManifest // one of the two is set
	manifest  *v1.Manifest
}

// document reads the manifest or index of a tag or digest.
func (s *session) document(ctx context.Context, identifier string) (*document, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url("manifests", identifier), nil)
	if err != nil {
		return nil, err
	}
	request.Header["Accept"] = []string{acceptManifests}
	answer, err := s.do(request, http.StatusOK)
	if err != nil {
		return nil, err
	}
	data, err := readAll(answer.Body, maxDocument)
	if err := errors.Join(err, answer.Body.Close()); err != nil {
		return nil, explain(err, s.at)
	}
	sum := sha256.Sum256(data)
	d := &document{digest: Digest("sha256:" + hex.EncodeToString(sum[:])), data: data}
	// A tag may stand for anything, but not for something else than the answer
	// says itself.
	want := identifier
	if _, err := v1.NewHash(identifier); err != nil {
		want = answer.Header.Get("Docker-Content-Digest")
	}
	if h, err := v1.NewHash(want); err == nil && h.Algorithm == "sha256" && Digest(want) != d.digest {
		return nil, explain(fmt.Errorf("manifest %s has digest %s: %w", h.Hex[:12], d.digest, errDistrusted), s.at)
	}
	if strings.HasPrefix(identifier, "sha512:") {
		return nil, errors.New("podrun knows images by their sha256 digest only")
	}
	contentType, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	return d, d.parse(types.MediaType(contentType))
}

// parse reads what kind of document it is. The registry's word counts before
// the document's own; older documents have none.
func (d *document) parse(contentType types.MediaType) error {
	var head struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Layers        json.RawMessage `json:"layers"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(d.data, &head); err != nil {
		return fmt.Errorf("manifest %s is no JSON: %w", d.digest.Hex()[:12], err)
	}
	d.mediaType = contentType
	switch {
	case contentType.IsIndex() || contentType.IsImage() || contentType.IsSchema1():
	case head.MediaType != "":
		d.mediaType = head.MediaType
	case head.SchemaVersion == 1 && head.FSLayers != nil:
		d.mediaType = types.DockerManifestSchema1
	case head.Manifests != nil:
		d.mediaType = types.OCIImageIndex
	case head.Layers != nil:
		d.mediaType = types.OCIManifestSchema1
	}
	if head.Manifests != nil && (head.Layers != nil || head.FSLayers != nil) {
		return fmt.Errorf("manifest %s is an index and an image at once", d.digest.Hex()[:12])
	}
	var err error
	switch {
	case d.mediaType.IsSchema1() || head.SchemaVersion == 1:
		return hint.Wrap(errors.New("the image has a manifest of docker's schema 1, which is out of use since 2019"), "pull and push it again with a docker that is newer than its registry")
	case d.mediaType.IsIndex():
		d.index, err = v1.ParseIndexManifest(bytes.NewReader(d.data))
	case d.mediaType.IsImage():
		d.manifest, err = v1.ParseManifest(bytes.NewReader(d.data))
	default:
		return fmt.Errorf("what is there under that name is no image but %q", d.mediaType)
	}
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d.digest.Hex()[:12], err)
	}
	return nil
}

// found is an image in a registry, of which no layer was read yet.
type found struct {
	session   *session
	top       Digest      // of what the reference named, an index or a manifest
	documents []*document // from the top to the image's own manifest
	config    *v1.ConfigFile
	rawConfig []byte
	id        Digest // of the config
	layers    []v1.Descriptor
}

// find reads the manifest that identifier, a tag or a digest, stands for, want's
// own out of an index, and the image's config.
func (s *session) find(ctx context.Context, identifier string, want Platform, limits PullLimits) (*found, error) {
	f := &found{session: s}
	for {
		d, err := s.document(ctx, identifier)
		if err != nil {
			return nil, err
		}
		f.documents = append(f.documents, d)
		if d.manifest != nil {
			break
		}
		if len(f.documents) > maxNesting {
			return nil, fmt.Errorf("the image's indexes lie more than %d deep in each other", maxNesting)
		}
		next, err := choose(d.index, want)
		if err != nil {
			return nil, err
		}
		identifier = next.Digest.String()
	}
	f.top = f.documents[0].digest
	m := f.documents[len(f.documents)-1].manifest
	if err := checkImage(m, limits); err != nil {
		return nil, err
	}
	f.id, f.layers = Digest(m.Config.Digest.String()), m.Layers
	config := s.blob(ctx, m.Config)
	data, err := io.ReadAll(config)
	if err := errors.Join(err, config.Close()); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	f.rawConfig = data
	if f.config, err = v1.ParseConfigFile(bytes.NewReader(data)); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	has := Platform{OS: f.config.OS, Architecture: f.config.Architecture, Variant: f.config.Variant}
	if !want.suits(has) {
		return nil, hint.Wrap(fmt.Errorf("the image is not made for %s, only for %s", want, has), fmt.Sprintf("\"podrun pull --platform %s\" takes it all the same", has))
	}
	return f, nil
}

// choose picks the entry of an index that suits a platform best. Entries that do
// not say what they are for come last, as other clients have it.
func choose(index *v1.IndexManifest, want Platform) (*v1.Descriptor, error) {
	var best, unnamed *v1.Descriptor
	bestRank := -1
	accepted := want.accepted()
	var have []string
	for i := range index.Manifests {
		e := &index.Manifests[i]
		switch {
		case !e.MediaType.IsImage() && !e.MediaType.IsIndex():
			continue // a signature, a bill of materials
		case e.Platform == nil:
			if unnamed == nil {
				unnamed = e
			}
			continue
		case e.Platform.OS == "unknown": // attestations
			continue
		}
		p := Platform{OS: e.Platform.OS, Architecture: e.Platform.Architecture, Variant: e.Platform.Variant}
		have = append(have, p.String())
		if rank := slices.Index(accepted, p.normal()); rank >= 0 && (best == nil || rank < bestRank) {
			best, bestRank = e, rank
		}
	}
	switch {
	case best != nil:
		return best, nil
	case unnamed != nil:
		return unnamed, nil
	case len(have) == 0:
		return nil, errors.New("the index has no image in it")
	}
	return nil, fmt.Errorf("the image is not made for %s, only for %s", want, strings.Join(have, ", "))
}

// checkImage tells whether a manifest is of an image that podrun can run, and
// small enough.
func checkImage(m *v1.Manifest, limits PullLimits) error {
	switch m.Config.MediaType {
	case types.OCIConfigJSON, types.DockerConfigJSON, "application/octet-stream": // the last: docker before 1.10
	default:
		kind := string(m.Config.MediaType)
		if m.ArtifactType != "" {
			kind = m.ArtifactType
		}
		return fmt.Errorf("what is there under that name is no image but an artifact of type %q", kind)
	}
	if m.Config.Size > maxDocument {
		return fmt.Errorf("the image's config has %d bytes, podrun takes %d", m.Config.Size, maxDocument)
	}
	if err := checkLayers(len(m.Layers)); err != nil {
		return err
	}
	var sum int64
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if d.Size < 0 || d.Digest.Algorithm != "sha256" {
			return fmt.Errorf("the image's manifest has a blob %s of %d bytes, which cannot be", d.Digest, d.Size)
		}
		if sum += d.Size; sum > limits.Download || sum < 0 {
			return hint.Wrap(fmt.Errorf("the image's layers have more than %d bytes to download", limits.Download), "set "+downloadVariable+" higher when the node starts, if the image is to be trusted")
		}
	}
	for _, d := range m.Layers {
		if err := checkLayerType(d); err != nil {
			return err
		}
	}
	return nil
}

// checkLayerType tells whether podrun can read a layer.
func checkLayerType(d v1.Descriptor) error {
	switch d.MediaType {
	case types.OCILayer, types.OCIUncompressedLayer, types.OCILayerZStd, types.DockerLayer, types.DockerUncompressedLayer, "application/vnd.docker.image.rootfs.diff.tar.zstd":
		return nil
	}
	if strings.Contains(string(d.MediaType), "nondistributable") || strings.Contains(string(d.MediaType), ".foreign.") {
		from := "its registry does not have it"
		if len(d.URLs) > 0 {
			from = "its maker has it at " + strings.Join(d.URLs, ", ")
		}
		return fmt.Errorf("layer %s is of type %q, which is not distributable: %s", d.Digest.Hex[:12], d.MediaType, from)
	}
	return fmt.Errorf("layer %s is of type %q, which is no layer of files that podrun can read", d.Digest.Hex[:12], d.MediaType)
}

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
