// Package image finds, pulls and keeps OCI images, and gives a container its
// root filesystem.
//
// It knows registries and layers; it does not know pods, and mounts nothing:
// Rootfs returns what is to be mounted.
//
// On disk, below the store's directory:
//
//	images.json      what is here: images by config digest, with their names
//	layers/<id>/     one unpacked layer each, shared by all images that have it
//	blobs/sha256/    content by digest, byte for byte as it came: manifests,
//	                 indexes, configs and compressed layers
//	tmp/             what is on its way in or out; emptied by Open
//
// Nothing is trusted before it is whole: the bytes of a layer are checked
// against digest and size, and what they unpack to against the layer's diff
// ID, while they stream into tmp; then the layer is renamed into place; only
// then does images.json name it. A kill at any byte leaves a directory in tmp
// or a layer that no image names, and Open removes both.
//
// A pull does not wait for the disk. A layer says which boot of the machine it
// was made in until syncfs has brought it to disk; one of another boot is not
// trusted, and its image is pulled again. What no registry has is flushed
// before images.json names it. docs/images.md has the order of all steps.
//
// An image runs from its layers alone. Its content is for save and push, is
// checked again whenever it is read, and may be missing: garbage collection
// removes compressed layers that a registry has.
package image
