package node

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"get.podrun.dev/podrun/image"
)

// What of images travels over the socket, and is package image's own.
type (
	// Image is one image of the node's store.
	Image = image.Image
	// ImageDetail is all that is known of one.
	ImageDetail = image.Detail
	// Progress is how far one layer has come.
	Progress = image.Progress
	// Loaded is an image that came from an archive.
	Loaded = image.Loaded
	// Pruned is what a pruning removed.
	Pruned = image.Pruned
)

// PullRequest asks for an image to be pulled, whether it is there or not.
type PullRequest struct {
	Reference string `json:"reference"`
	Platform  string `json:"platform,omitempty"` // os/architecture[/variant]; "" is the machine's
	// Credentials are asked before those of the user.
	Credentials Credentials `json:"credentials,omitempty"`
}

// PushRequest asks for an image to be pushed to where its name says.
type PushRequest struct {
	Reference string `json:"reference"`
	// Credentials are asked before those of the user.
	Credentials Credentials `json:"credentials,omitempty"`
}

// LoadRequest asks for the images of an archive, which comes by a pipe beside
// it.
type LoadRequest struct {
	Archive string `json:"archive,omitempty"` // what errors call it; "" for images
}

// SaveRequest asks for an archive of images, which goes to a pipe beside it.
type SaveRequest struct {
	Names  []string `json:"names"`
	Format string   `json:"format"`
}

// ImportRequest asks for an image of a root filesystem, a tar archive that comes
// by a pipe beside it.
type ImportRequest struct {
	Archive   string   `json:"archive,omitempty"`   // what errors call it; "" for an image
	Reference string   `json:"reference,omitempty"` // "" for an image without a name
	Changes   []string `json:"changes,omitempty"`
	Message   string   `json:"message,omitempty"`
}

// TagRequest gives an image one more name.
type TagRequest struct {
	Target string `json:"target"`
}

// PruneRequest asks for images that nothing uses to be removed.
type PruneRequest struct {
	All    bool      `json:"all"`             // those with names too
	Before time.Time `json:"before,omitzero"` // only what was made before
	Labels []string  `json:"labels,omitempty"`
	Unless []string  `json:"unless,omitempty"` // labels that keep an image
}

// ImageEvent is one line of the answer to a request that takes long; exactly
// one field is set, and Name beside Image. The last line has anything but
// Progress.
type ImageEvent struct {
	Progress *Progress      `json:"progress,omitempty"`
	Image    *Image         `json:"image,omitempty"`
	Name     string         `json:"name,omitempty"` // the whole one under which it was found
	Loaded   []Loaded       `json:"loaded,omitempty"`
	Pushed   *Pushed        `json:"pushed,omitempty"`
	Saved    bool           `json:"saved,omitempty"`
	Error    *metav1.Status `json:"error,omitempty"`
}

// Pulled is an image that was pulled, and the whole name under which it was
// found.
type Pulled struct {
	Image *Image
	Name  string
}

// Pushed is what a registry has now.
type Pushed = image.Blob

// removed answers the removal of an image.
type removed struct {
	Removed []string `json:"removed"`
}

// DiskUsage is what the data directory holds, in bytes.
type DiskUsage struct {
	Images     image.Usage      `json:"images"`
	Containers []ContainerUsage `json:"containers"`
	Claims     []ClaimUsage     `json:"claims"`
	// ImageUsers are the containers and volumes that use an image, by its id.
	ImageUsers map[string][]string `json:"imageUsers"`
}

// ContainerUsage is a container with what it has written.
type ContainerUsage struct {
	Container
	Size int64 `json:"size"`
}

// ClaimUsage is a PersistentVolumeClaim with what lies in it.
type ClaimUsage struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Pods      []string `json:"pods"` // that use it
	Size      int64    `json:"size"`
}

// ImageName returns the whole name of an image, docker.io/library/busybox:latest
// for busybox, or why a name is none. The node's registries.conf may lead a name
// without a registry elsewhere.
func ImageName(name string) (string, error) {
	ref, err := image.ParseReference(name)
	if err != nil {
		return "", err
	}
	return ref.String(), nil
}
