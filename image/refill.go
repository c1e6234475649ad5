package image

import (
	"context"
	"errors"
	"io"

	"golang.org/x/sync/errgroup"
)

// complete tells whether all content of an image is here, as save and push need
// it.
func (s *Store) complete(img *Image) bool {
	if img.Manifest == "" || !s.hasBlob(img.Manifest) || !s.hasBlob(img.ID) {
		return false
	}
	for _, b := range img.Blobs {
		if !s.hasBlob(b.Digest) {
			return false
		}
	}
	return true
}

// refill fetches the content that is missing here of an image whose layers are
// unpacked already, and lets the image have the manifest that was found.
func (s *Store) refill(ctx context.Context, f *found, img *Image, report func(Progress)) (*Image, error) {
	g, gctx := errgroup.WithContext(ctx)
	for _, l := range f.layers {
		if s.hasBlob(Digest(l.Digest.String())) {
			continue
		}
		g.Go(func() (err error) {
			lease, err := s.slots.acquire(gctx, f.session.at.registry)
			if err != nil {
				return err
			}
			defer lease.release()
			blob := f.session.blob(gctx, l)
			defer func() { err = errors.Join(err, blob.Close()) }()
			kept, err := s.newBlob(false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, kept.abort()) }()
			tell := func(p Progress) {
				if report != nil {
					p.Layer = l.Digest.Hex[:12]
					report(p)
				}
			}
			if _, err := io.Copy(kept, &meter{r: blob, lease: lease, total: l.Size, report: tell}); err != nil {
				return err
			}
			tell(Progress{Status: StatusComplete, Done: l.Size, Total: l.Size})
			return kept.commit(Digest(l.Digest.String()), false)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, explainDisk(err)
	}
	copied := *img
	if err := s.keepDocuments(&copied, f); err != nil {
		return nil, err
	}
	copied.Own = false
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.images[img.ID]; now != nil {
		copied.References = now.References
		s.images[img.ID] = &copied
	}
	return &copied, nil
}
