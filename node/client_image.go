package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"

	"golang.org/x/sys/unix"
)

const imagesPath = "/podrun/v1/images"

func imagePath(nameOrID, verb string) string {
	return imagesPath + "/" + url.PathEscape(nameOrID) + verb
}

// Pull pulls an image; progress, if not nil, is called for each step, from the
// calling goroutine.
func (c *Client) Pull(ctx context.Context, r PullRequest, progress func(Progress)) (*Pulled, error) {
	e, err := c.long(ctx, imagesPath+"/pull", r, progress)
	return &Pulled{e.Image, e.Name}, err
}

// Push pushes an image to the registry that its name says.
func (c *Client) Push(ctx context.Context, r PushRequest, progress func(Progress)) (*Pushed, error) {
	e, err := c.long(ctx, imagesPath+"/push", r, progress)
	return e.Pushed, err
}

// Load takes in the images of the archive that pack writes.
func (c *Client) Load(ctx context.Context, r LoadRequest, pack func(io.Writer) error, progress func(Progress)) ([]Loaded, error) {
	e, err := c.give(ctx, imagesPath+"/load", r, pack, progress)
	return e.Loaded, err
}

// Import makes an image of the root filesystem that pack writes as an archive.
func (c *Client) Import(ctx context.Context, r ImportRequest, pack func(io.Writer) error) (*Image, error) {
	e, err := c.give(ctx, imagesPath+"/import", r, pack, nil)
	return e.Image, err
}

// Save gives an archive of images to unpack.
func (c *Client) Save(ctx context.Context, r SaveRequest, unpack func(io.Reader) error) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	_, err = c.withPipe(ctx, imagesPath+"/save", r, write, read, func() error { return unpack(read) }, nil)
	return err
}

// give makes a request beside which pack writes to a pipe.
func (c *Client) give(ctx context.Context, path string, in any, pack func(io.Writer) error, progress func(Progress)) (ImageEvent, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return ImageEvent{}, err
	}
	return c.withPipe(ctx, path, in, read, write, func() error { return pack(write) }, progress)
}

// withPipe makes a request with an end of a pipe beside it, while use works on
// the other, and closes both.
func (c *Client) withPipe(ctx context.Context, path string, in any, theirs, ours *os.File, use func() error, progress func(Progress)) (ImageEvent, error) {
	const pipeSize = 1 << 20 // the most that an ordinary user gets
	_, _ = unix.FcntlInt(ours.Fd(), unix.F_SETPIPE_SZ, pipeSize)
	if err := unix.SetNonblock(int(ours.Fd()), true); err != nil { // Fd made it block
		return ImageEvent{}, errors.Join(err, ours.Close(), theirs.Close())
	}
	used := make(chan error, 1)
	go func() {
		err := use()
		used <- errors.Join(err, ours.Close())
	}()
	e, err := c.long(ctx, path, in, progress, theirs)
	// Now the node has its end closed: our side sees the end, or a broken pipe.
	_ = theirs.Close()
	uerr := <-used
	if err == nil || uerr != nil && !errors.Is(uerr, unix.EPIPE) && ctx.Err() == nil && !errors.Is(uerr, io.ErrUnexpectedEOF) {
		err = uerr // the reason of the node's
	}
	return e, err
}

// long makes a request whose answer is events, and returns the last.
func (c *Client) long(ctx context.Context, path string, in any, progress func(Progress), files ...*os.File) (ImageEvent, error) {
	body, err := c.send(ctx, http.MethodPost, path, nil, in, files...)
	if err != nil {
		return ImageEvent{}, err
	}
	defer func() { _ = body.Close() }()
	lines := json.NewDecoder(body)
	for {
		var e ImageEvent
		if err := lines.Decode(&e); err != nil {
			return e, body.broken(err)
		}
		switch {
		case e.Error != nil:
			return e, statusError(*e.Error)
		case e.Progress == nil:
			return e, nil
		case progress != nil:
			progress(*e.Progress)
		}
	}
}

// ListImages lists the images of the node's store.
func (c *Client) ListImages(ctx context.Context) ([]Image, error) {
	var list []Image
	err := c.call(ctx, http.MethodGet, imagesPath, nil, nil, &list)
	return list, err
}

// InspectImage tells all of an image.
func (c *Client) InspectImage(ctx context.Context, nameOrID string) (*ImageDetail, error) {
	d := new(ImageDetail)
	return d, c.call(ctx, http.MethodGet, imagePath(nameOrID, ""), nil, nil, d)
}

// TagImage gives an image one more name.
func (c *Client) TagImage(ctx context.Context, nameOrID, target string) error {
	return c.call(ctx, http.MethodPost, imagePath(nameOrID, "/tag"), nil, TagRequest{Target: target}, nil)
}

// RemoveImage removes a name of an image, and the image with its last name. It
// returns what was done in docker's words, a line each.
func (c *Client) RemoveImage(ctx context.Context, nameOrID string, force bool) ([]string, error) {
	q := url.Values{}
	if force {
		q.Set("force", "1")
	}
	var r removed
	err := c.call(ctx, http.MethodDelete, imagePath(nameOrID, ""), q, nil, &r)
	return r.Removed, err
}

// PruneImages removes images that nothing uses.
func (c *Client) PruneImages(ctx context.Context, r PruneRequest) (Pruned, error) {
	var p Pruned
	return p, c.call(ctx, http.MethodPost, imagesPath+"/prune", nil, r, &p)
}

// DiskUsage measures what the data directory holds.
func (c *Client) DiskUsage(ctx context.Context) (*DiskUsage, error) {
	u := new(DiskUsage)
	return u, c.call(ctx, http.MethodGet, "/podrun/v1/disk-usage", nil, nil, u)
}
