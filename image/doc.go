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
// ID, while they stream into tmp; then the layer is flushed to disk and renamed
// into place; only then does images.json name it. A kill at any byte leaves a
// directory in tmp or a layer that no image names, and Open removes both.
//
// An image runs from its layers alone. Its content is for save and push, is
// checked again whenever it is read, and may be missing: garbage collection
// removes compressed layers that a registry has.
package image
