package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"get.podrun.dev/podrun/image"
	"get.podrun.dev/podrun/internal/hint"
)

func (a *api) handleImages(handle func(string, func(http.ResponseWriter, *http.Request) error)) {
	handle("GET /podrun/v1/images", a.listImages)
	handle("POST /podrun/v1/images/pull", a.pullImage)
	handle("POST /podrun/v1/images/push", a.pushImage)
	handle("POST /podrun/v1/images/load", a.loadImages)
	handle("POST /podrun/v1/images/save", a.saveImages)
	handle("POST /podrun/v1/images/import", a.importImage)
	handle("POST /podrun/v1/images/prune", a.pruneImages)
	handle("GET /podrun/v1/images/{name}", a.inspectImage)
	handle("POST /podrun/v1/images/{name}/tag", a.tagImage)
	handle("DELETE /podrun/v1/images/{name}", a.removeImage)
	handle("GET /podrun/v1/disk-usage", a.diskUsage)
}

// events answers with what do tells as it goes on, one JSON object a line, its
// end or its error last. what is what an error says cannot be done.
func (a *api) events(w http.ResponseWriter, r *http.Request, what string, do func(context.Context, func(image.Progress)) (ImageEvent, error)) error {
	ctx, cancel := a.during(r)
	defer cancel()
	// A client that does not read misses steps: others may want the same layers,
	// and do not wait for it.
	lines := make(chan ImageEvent, 64)
	var sender sync.WaitGroup
	sender.Go(func() {
		out := json.NewEncoder(stream(w, "application/json"))
		for e := range lines {
			_ = out.Encode(e) // the client went away: ctx ends the work
		}
	})
	last, err := do(ctx, func(p image.Progress) {
		select {
		case lines <- ImageEvent{Progress: &p}:
		default:
		}
	})
	if err != nil {
		status := statusOf(fmt.Errorf("cannot %s: %w", what, err))
		last = ImageEvent{Error: &status}
	}
	lines <- last
	close(lines)
	sender.Wait()
	return nil
}

// withFile is events for a request that has an end of a pipe beside it. The
// pipe is the client's own, and does not block.
func (a *api) withFile(w http.ResponseWriter, r *http.Request, what string, do func(context.Context, *os.File, func(image.Progress)) (ImageEvent, error)) error {
	files := ConnFiles(r.Context())
	defer closeFiles(files...)
	if len(files) != 1 {
		return apierrors.NewBadRequest(fmt.Sprintf("this needs a pipe beside the request, got %d descriptors", len(files)))
	}
	return a.events(w, r, what, func(ctx context.Context, progress func(image.Progress)) (ImageEvent, error) {
		defer context.AfterFunc(ctx, func() { _ = files[0].Close() })()
		e, err := do(ctx, files[0], progress)
		if err != nil && ctx.Err() != nil {
			err = ctx.Err()
		}
		return e, err
	})
}

func (a *api) pullImage(w http.ResponseWriter, r *http.Request) error {
	var request PullRequest
	if err := decode(r, &request); err != nil {
		return err
	}
	ref, err := image.ParseReference(request.Reference)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	var platform image.Platform
	if request.Platform != "" {
		if platform, err = image.ParsePlatform(request.Platform); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
	}
	return a.events(w, r, fmt.Sprintf("pull %q", request.Reference), func(ctx context.Context, progress func(image.Progress)) (ImageEvent, error) {
		img, err := a.images.Pull(ctx, ref, image.PullOptions{Progress: progress, Platform: platform, Content: true, Credentials: given(request.Credentials)})
		if err != nil {
			return ImageEvent{}, err
		}
		found, err := a.images.Resolved(ref)
		return ImageEvent{Image: img, Name: found.String()}, err
	})
}

// given are credentials that came with a request, if any.
func given(c Credentials) []image.Credentials {
	if c == nil {
		return nil
	}
	return []image.Credentials{c}
}

func (a *api) pushImage(w http.ResponseWriter, r *http.Request) error {
	var request PushRequest
	if err := decode(r, &request); err != nil {
		return err
	}
	ref, err := image.ParseReference(request.Reference)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return a.events(w, r, fmt.Sprintf("push %q", request.Reference), func(ctx context.Context, progress func(image.Progress)) (ImageEvent, error) {
		pushed, err := a.images.Push(ctx, ref, image.PushOptions{Progress: progress, Credentials: given(request.Credentials)})
		return ImageEvent{Pushed: pushed}, err
	})
}

// nameOr is what cannot be done with an archive, by its name if it has one.
func nameOr(verb, name, otherwise string) string {
	if name == "" {
		return verb + " " + otherwise
	}
	return fmt.Sprintf("%s %q", verb, name)
}

func (a *api) loadImages(w http.ResponseWriter, r *http.Request) error {
	var request LoadRequest
	if err := decode(r, &request); err != nil {
		return err
	}
	return a.withFile(w, r, nameOr("load", request.Archive, "images"), func(ctx context.Context, f *os.File, progress func(image.Progress)) (ImageEvent, error) {
		loaded, err := a.images.Load(ctx, f, progress)
		return ImageEvent{Loaded: loaded}, err
	})
}

func (a *api) saveImages(w http.ResponseWriter, r *http.Request) error {
	var request SaveRequest
	if err := decode(r, &request); err != nil {
		return err
	}
	return a.withFile(w, r, "save images", func(ctx context.Context, f *os.File, _ func(image.Progress)) (ImageEvent, error) {
		err := a.images.Save(ctx, f, request.Names, request.Format)
		return ImageEvent{Saved: err == nil}, errors.Join(err, f.Close())
	})
}

func (a *api) importImage(w http.ResponseWriter, r *http.Request) error {
	var request ImportRequest
	if err := decode(r, &request); err != nil {
		return err
	}
	o := image.ImportOptions{Changes: request.Changes, Message: request.Message}
	if request.Reference != "" {
		ref, err := image.ParseReference(request.Reference)
		if err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
		o.Ref = &ref
	}
	return a.withFile(w, r, nameOr("import", request.Archive, "an image"), func(ctx context.Context, f *os.File, _ func(image.Progress)) (ImageEvent, error) {
		img, err := a.images.Import(ctx, f, o)
		return ImageEvent{Image: img}, err
	})
}

func (a *api) listImages(w http.ResponseWriter, _ *http.Request) error {
	list, err := a.images.List()
	if err != nil {
		return err
	}
	if list == nil {
		list = []*image.Image{}
	}
	respond(w, http.StatusOK, list)
	return nil
}

// imageError is err of an image, as Kubernetes has it.
func imageError(name string, err error) error {
	switch {
	case errors.Is(err, image.ErrNotFound):
		return apierrors.NewNotFound(metav1Resource("images"), name)
	case errors.Is(err, image.ErrInUse):
		return hint.Wrap(apierrors.NewConflict(metav1Resource("images"), name, err), hint.Of(err))
	}
	return err
}

func (a *api) inspectImage(w http.ResponseWriter, r *http.Request) error {
	d, err := a.images.Inspect(r.PathValue("name"))
	if err != nil {
		return imageError(r.PathValue("name"), err)
	}
	respond(w, http.StatusOK, d)
	return nil
}

func (a *api) tagImage(w http.ResponseWriter, r *http.Request) error {
	var request TagRequest
	if err := decode(r, &request); err != nil {
		return err
	}
	ref, err := image.ParseReference(request.Target)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if err := a.images.Tag(r.PathValue("name"), ref); err != nil {
		return imageError(r.PathValue("name"), err)
	}
	respond(w, http.StatusOK, struct{}{})
	return nil
}

func (a *api) removeImage(w http.ResponseWriter, r *http.Request) error {
	gone, err := a.images.Remove(r.Context(), r.PathValue("name"), a.supervisor.ImageUser, isTrue(r.URL.Query().Get("force")))
	if err != nil {
		return imageError(r.PathValue("name"), err)
	}
	respond(w, http.StatusOK, removed{Removed: gone})
	return nil
}

func (a *api) pruneImages(w http.ResponseWriter, r *http.Request) error {
	var request PruneRequest
	if err := decode(r, &request); err != nil {
		return err
	}
	pruned, err := a.images.Prune(image.PruneOptions{
		All: request.All, Before: request.Before, Labels: request.Labels, Unless: request.Unless, InUse: a.supervisor.ImageUser,
	})
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, pruned)
	return nil
}
