// Package untar writes an image layer, which is a tar stream, into a directory
// as one layer of an overlay mount.
//
// It knows the kernel and the OCI image specification's layers; it does not
// know compression, digests, registries or where layers are kept. What it was
// given is hostile until the last byte: a name may lead anywhere, a link may
// point anywhere, a header may claim anything.
//
// No path leaves the directory, because no path is ever given to the kernel:
// each step of a name is taken by itself, from a descriptor of the directory it
// is in and without following links (O_NOFOLLOW). A symbolic link on the way is
// read and walked in the same manner, with the layer's directory as "/". This
// also makes names longer than PATH_MAX ordinary.
//
// Whoever calls has the directory to itself: nobody else changes it meanwhile.
// After an error the directory holds a part of the layer; the caller removes it.
// Nothing is flushed to disk here.
package untar
